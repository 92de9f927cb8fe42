"""The verb `frontier`: how strongly captions and adapter should weigh, measured."""
