"""A look at a dataset before it costs a night: what is wrong with its files, pictures, captions, shapes and balance.

Nothing here needs torch or a model, but the count of tokens, which asks the model's own tokenizer.
"""
