"""The trackers that accelerate speaks to, and what each needs. Imports nothing heavy."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

NONE, ALL = "none", "all"


@dataclass(frozen=True)
class Kind:
    """One of accelerate's trackers."""

    module: str  # that has to be there
    package: str  # what pip installs for it
    pictures: Literal["batch", "list", "each"] | None = None  # how accelerate hands pictures on; None: it does not


KINDS = {
    "aim": Kind("aim", "aim", "each"),
    "clearml": Kind("clearml", "clearml", "each"),
    "comet_ml": Kind("comet_ml", "comet_ml"),
    "dvclive": Kind("dvclive", "dvclive"),
    "mlflow": Kind("mlflow", "mlflow"),
    "swanlab": Kind("swanlab", "swanlab", "list"),
    "tensorboard": Kind("tensorboard", "tensorboard", "batch"),
    "trackio": Kind("trackio", "trackio"),
    "wandb": Kind("wandb", "wandb", "list"),
}


def named(report_to: str) -> tuple[str, ...]:
    """The trackers that --report_to names: one, several with commas between, 'all' that are installed, or 'none'."""
    words = tuple(dict.fromkeys(word.strip() for word in report_to.split(",")))
    if words == (ALL,):
        return tuple(name for name, kind in KINDS.items() if _is_installed(kind))
    return () if words == (NONE,) else words


def problems(report_to: str) -> list[str]:
    """What is wrong with --report_to, one sentence each."""
    names = named(report_to)
    alone = [word for word in (NONE, ALL) if word in names]
    if alone:
        return [f"--report_to {report_to!r}: {' and '.join(map(repr, alone))} can only be given alone."]
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        known = ", ".join((*KINDS, ALL, NONE))
        return [f"--report_to {report_to!r}: no tracker is called {', '.join(map(repr, unknown))}; there are {known}."]
    missing = [KINDS[name].package for name in names if not _is_installed(KINDS[name])]
    return [f"--report_to {report_to} needs what is missing: pip install {' '.join(missing)}."] if missing else []


def _is_installed(kind: Kind) -> bool:
    return importlib.util.find_spec(kind.module) is not None
