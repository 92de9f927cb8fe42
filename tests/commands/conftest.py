"""What the verbs on adapter files are given: an adapter in every dialect, and a base of another family."""

# `pipeline` is imported in the fixtures, for only then is the hook in place that checks shapes.

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def sdxl(miniature_of) -> Path:
    return miniature_of("sdxl")


@pytest.fixture(scope="module")
def every(family, tmp_path_factory) -> tuple[dict[str, torch.Tensor], dict[str, Path]]:
    """Its tensors, and where it is in every dialect."""
    from tests.commands.handled import in_every_dialect

    return in_every_dialect(family, tmp_path_factory.mktemp("sources"))
