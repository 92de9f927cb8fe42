"""What an extractor is: a network that looks at pictures, and all that it can say of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from pipeline.hashing import digest

BATCH_PICTURES = 32


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A network that turns pictures into features, and what else it knows. Everything but `read` starts from these."""

    kind: str  # what files and options call it: photographs, inception, judge, clip, vision, reader, ...
    name: str  # as it stands beside every number, with what it was trained on where that is known
    version: str  # a hash of its weights and of what is done to pictures before: features are kept by it
    features: Callable[[list[Image.Image]], Float[Tensor, "n d"]] | None = None
    captions: Callable[[list[str]], Float[Tensor, "n d"]] | None = None  # texts in the space of the features
    classify: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n k"]] | None = None  # logits of its classes
    ranks: Callable[[Float[Tensor, "n d"], list[str]], Int[Tensor, " n"]] | None = None  # of the right answers, 0 first
    read: Callable[[list[Image.Image]], list[str]] | None = None  # what it says of each picture
    reads_letters: bool = False  # what is written in a picture, rather than what it shows
    takes_distances: bool = True  # between sets, in its features
    is_scaled: bool = True  # features are about 1 in size; else distances are taken after dividing by that of the truth


def version_of(model: nn.Module, *facts: Any) -> str:
    """A hash of a model's weights and buffers, and of whatever else its answers depend on."""
    pieces = [repr(facts)]
    for name, value in sorted(model.state_dict().items()):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8) if value.numel() else value
        pieces.append(f"{name} {tuple(value.shape)} {value.dtype} {digest(content.numpy().tobytes())}")
    return digest("\n".join(pieces).encode())
