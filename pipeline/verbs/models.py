"""The verbs of base models."""

from pathlib import Path

from pipeline import console


def families() -> None:
    """List the model families that can be trained, and what each was tested on.

    Example: python -m pipeline families
    """
    from pipeline.families import registry

    console.say(registry.table())


def miniature(family: str, folder: Path, *, prediction_type: str | None = None, seed: int = 0) -> None:
    """Write a random-weight miniature of a model family, for tests and dry runs.

    Example: python -m pipeline miniature sd /tmp/miniature

    Parameters
    ----------
    family
        Which family; python -m pipeline families lists them.
    folder
        A new folder.
    prediction_type
        For sd and sdxl: epsilon, the default, or v_prediction.
    seed
        Decides the weights.
    """
    from pipeline.families import miniature as miniatures

    with console.quiet_libraries():
        miniatures.write(family, folder, prediction=prediction_type, seed=seed)
    console.say(f"Miniature  {folder}")
