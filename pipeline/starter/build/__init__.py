"""How the starter base and dataset were made; none of it runs when they are used.

pixels, style                        broad pictures for the autoencoder; the look the dataset teaches
dataset                              renders the dataset
clip, autoencoder, denoiser          training of the parts, in this order
fitting, quick                       the loop they share; a step of it as one graph of a GPU
measure                              the base model's figures
__main__                             all of it, resumable
"""
