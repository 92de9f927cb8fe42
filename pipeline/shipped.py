"""What ships with the package and stands in where nothing is named: a small base model and a dataset to try it on."""

from pathlib import Path

from pipeline.errors import ConfigError

RECIPES = Path(__file__).parent / "recipes"
STARTER = Path(__file__).parent / "starter"
BASE = STARTER / "base"  # a diffusers folder
TRAIN = STARTER / "dataset" / "train"
TEST = STARTER / "dataset" / "test"  # concepts that the training set does not hold
UNRELATED = Path(__file__).parent / "evaluation" / "unrelated.txt"  # captions of many kinds, a line each
VISION = STARTER / "vision"  # the CLIP vision tower that goes with the base


def recipe(name: str) -> Path:
    """The file of a shipped recipe; ConfigError lists what there is."""
    names = sorted(path.stem for path in RECIPES.glob("*.toml"))
    if name not in names:
        raise ConfigError(f"--recipe {name!r} is not a shipped recipe; there is {', '.join(names)}.")
    return RECIPES / f"{name}.toml"
