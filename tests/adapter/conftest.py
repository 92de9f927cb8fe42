"""What the files here share: a miniature and adapters on all its layers, under diffusers' names and under kohya's."""

# `pipeline` is imported in the fixtures, for only then is the hook in place that checks shapes.

import pytest
import torch
from torch import nn


@pytest.fixture(scope="module")
def wide(family) -> dict[str, torch.Tensor]:
    """Every linear and convolutional layer, at rank 3."""
    from pipeline.adapter.files import writer
    from tests.adapter.learnt import KINDS, learnt

    return {name: value.clone() for name, value in writer.state_dict(learnt(family, **KINDS["convolutions"])).items()}


@pytest.fixture(scope="module")
def parts(miniature) -> dict[str, dict[str, nn.Module]]:
    from tests.adapter.learnt import stock
    from tests.adapter.real_models import layers

    pipe = stock(miniature)
    return {"unet": layers(pipe.unet), "text_encoder": layers(pipe.text_encoder)}


@pytest.fixture(scope="module")
def names(parts) -> dict[str, list[str]]:
    return {component: list(found) for component, found in parts.items()}


@pytest.fixture(scope="module")
def canonical(parts) -> dict[str, torch.Tensor]:
    """Every linear and convolutional layer of a small Stable Diffusion, at ranks 1, 2 and 3."""
    from tests.adapter.real_models import adapter

    return adapter("unet", parts["unet"]) | adapter("text_encoder", parts["text_encoder"], seed=1)


@pytest.fixture(scope="module")
def file(canonical) -> dict[str, torch.Tensor]:
    """The same in kohya's dialect."""
    from pipeline.adapter.files import kohya
    from tests.adapter.dialects import SD
    from tests.adapter.real_models import alphas_of

    return kohya.to_kohya(canonical, SD, alphas_of(canonical))
