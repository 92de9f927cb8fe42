"""Every family there is, on a miniature of its real architecture: a new one is found by its miniature."""

# `pipeline` is imported in the fixtures, for only then is the hook in place that checks shapes.

from pathlib import Path

import pytest

MINIATURES = Path(__file__).parents[2] / "pipeline" / "families" / "miniatures"
NAMES = sorted(path.stem for path in MINIATURES.glob("*.py") if path.stem not in ("__init__", "parts"))


@pytest.fixture(scope="module", params=NAMES)
def family(request, miniature_of):
    from pipeline.families import registry

    return registry.detect(miniature_of(request.param))


@pytest.fixture(scope="module")
def pipe(family):
    """The whole stock pipeline."""
    from diffusers import DiffusionPipeline

    found = DiffusionPipeline.from_pretrained(family.source.folder)
    found.set_progress_bar_config(disable=True)
    return found
