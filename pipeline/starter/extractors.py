"""What measures pictures drawn by the starter base: the judge of its world, and the CLIP towers it was made with."""

from pipeline.evaluation.extractors import Extractors
from pipeline.starter import judge, reader


def load(pictured: set[str]) -> Extractors:
    """Judge and CLIP towers; the judge names subjects where the pictures are those of the starter's test set."""
    return Extractors(judge.extractor(pictured), reader.load())
