"""What ships with the package and stands in where nothing is named: a small base model and a dataset to try it on."""

from pathlib import Path

STARTER = Path(__file__).parent / "starter"
BASE = STARTER / "base"  # a diffusers folder
TRAIN = STARTER / "dataset" / "train"
TEST = STARTER / "dataset" / "test"  # concepts that the training set does not hold
VISION = STARTER / "vision"  # the CLIP vision tower that goes with the base
