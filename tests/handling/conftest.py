"""What the verbs on adapter files are given: an adapter in every dialect, and a base of another family."""

# `pipeline` is imported in the fixtures, for only then is the hook in place that checks shapes.

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory) -> Path:
    from pipeline.families import miniature

    folder = tmp_path_factory.mktemp("models") / "sdxl"
    miniature.write("sdxl", folder)
    return folder


@pytest.fixture(scope="module")
def every(family, tmp_path_factory) -> tuple[dict[str, torch.Tensor], dict[str, Path]]:
    """Its tensors, and where it is in every dialect."""
    from tests.handling.handled import in_every_dialect

    return in_every_dialect(family, tmp_path_factory.mktemp("sources"))
