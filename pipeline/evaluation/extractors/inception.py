"""Inception-v3 with TensorFlow's weights of 2015, by torch-fidelity: only its FID and IS are the plain ones.

torch-fidelity and torchvision are in the extra `fidelity`.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pipeline.errors import CheckpointError, reason
from pipeline.evaluation.extractors.extractor import BATCH_PICTURES, Extractor, version_of

KIND = "inception"
NAME = "Inception-v3 (weights of 2015-12-05, by torch-fidelity)"
MISSING = "--extractor inception needs torch-fidelity: pip install 't2i-lora[fidelity]'."


def extractor(weights: str | None) -> Extractor:
    """The network; `weights` is torch-fidelity's file, None lets it download that.

    Raises CheckpointError without the package, and for a file it cannot read.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        raise CheckpointError(MISSING)
    if weights is not None and not Path(weights).is_file():
        raise CheckpointError(f"--inception_weights {weights} does not exist.")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        network = FeatureExtractorInceptionV3(KIND, ["2048"], feature_extractor_weights_path=weights)
    except Exception as error:  # torch's and urllib's many kinds
        where = "" if weights is None else f" from {weights}"
        raise CheckpointError(f"Inception-v3 cannot be loaded{where}: {reason(error)}") from error

    @torch.no_grad()
    def features(images: list[Image.Image]) -> Tensor:
        rows = []
        for first in range(0, len(images), BATCH_PICTURES):  # one by one: sizes may differ
            for image in images[first : first + BATCH_PICTURES]:
                values = np.asarray(image.convert("RGB"))
                rows.append(network(torch.from_numpy(values.copy()).permute(2, 0, 1)[None])[0].float())
        return torch.cat(rows)

    def classify(rows: Float[Tensor, "n d"]) -> Tensor:
        """Without the bias, as the Inception Score has always been computed (torch-fidelity's 'logits_unbiased')."""
        logits: Tensor = rows.float() @ network.fc.weight.T
        return logits

    return Extractor(kind=KIND, name=NAME, version=version_of(network), features=features, classify=classify)
