"""A look at a dataset before it costs a night: what is wrong with its files, pictures, captions, shapes and balance.

Of the model nothing is asked but its sizes and its tokenizers: no weights are loaded.
"""
