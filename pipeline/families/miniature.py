"""Random-weight miniatures of real architectures, in seconds and offline: for tests and dry runs.

They have the real parts, names and file layout, so everything about a family can be exercised on
them except what a trained model would draw.
"""

from importlib import import_module
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.families.registry import NAMES


def write(family: str, folder: Path, *, prediction: str | None = None, seed: int = 0) -> None:
    """Write a miniature of a family as a diffusers folder.

    ConfigError for an unknown family, a prediction that it does not have, or a full folder.
    """
    if family not in NAMES:
        raise ConfigError(f"There is no miniature of {family!r}; there is {', '.join(sorted(NAMES))}.")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; give a new folder.")
    module = import_module(f"pipeline.families.miniatures.{family}")
    offered: tuple[str, ...] = getattr(module, "PREDICTIONS", ())
    if prediction is not None and prediction not in offered:
        instead = f"there is {' and '.join(offered)}" if offered else "leave it out"
        raise ConfigError(f"A miniature of {family} that predicts {prediction!r} is not offered; {instead}.")
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module.build(prediction).save_pretrained(folder)
