"""The small base model and the dataset that ship with t2i-lora, and how they were made.

world         scenes of emoji with captions          style        the look the dataset teaches
pixels        broad pictures for the autoencoder     dataset      renders the dataset
parts         what the base model is made of         judge        says what a picture shows
clip, autoencoder, denoiser                          training of the parts, in this order
fitting       the loop they share                    build        all of it, resumable, with figures
measure       the base model's figures
"""

from pathlib import Path

ROOM = Path(__file__).parent
BASE = ROOM / "base"  # a diffusers folder
TRAIN = ROOM / "dataset" / "train"
UNSEEN = ROOM / "dataset" / "unseen"
