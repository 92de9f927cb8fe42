"""What measures pictures drawn by the starter base: the judge of its world, and the CLIP towers it was made with."""

from collections.abc import Mapping

from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.starter import judge, reader, seen, world

UNRELATED_SEED, NUM_UNRELATED = 51, 120  # of scenes used for nothing else


def load(pictured: Mapping[str, str]) -> tuple[Extractor, ...]:
    """Judge and CLIP towers; the judge names subjects where the pictures are those of the starter's test set."""
    return judge.extractor(pictured), reader.load()


def unrelated() -> tuple[str, ...]:
    """Captions of scenes as the base knows them, which no dataset that ships shows."""
    return tuple(scene.caption() for scene in world.held_out_scenes(UNRELATED_SEED, NUM_UNRELATED))


def captioner() -> Extractor:
    """The reader of its scenes."""
    return seen.extractor(judge.load())
