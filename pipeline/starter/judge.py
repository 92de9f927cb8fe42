"""The judge: a small convolutional network that says what a picture of the starter world shows.

Trained on renders only (plain, recoloured, or reduced to their edges so that it reads line drawings
too), never on anything a model has drawn, so that it can be believed about what models draw. Its
last features also serve as a named extractor for KID.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline import shipped
from pipeline.evaluation.extractors.extractor import Extractor, version_of
from pipeline.starter import world

FOLDER = shipped.STARTER / "judge"
KIND = "judge"
NAME = "starter-judge (trained by t2i-lora, on rendered scenes)"  # where its figures stand
WIDTHS = (32, 64, 128, 192)
BATCH = 64
FEATURE_RMS = 2.197  # over 256 held-out renders: KID's kernel (x.y / d + 1)^3 is meant for features of about 1


@dataclass(frozen=True)
class Verdicts:
    """What the judge sees: one score per concept, count and size."""

    concept: Float[Tensor, "b k"]
    count: Float[Tensor, "b 3"]
    size: Float[Tensor, "b 2"]


class Judge(nn.Module):
    """Four strided stages of residual blocks, mean-pooled, with one linear head per question."""

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        previous = 3
        for width in WIDTHS:
            stages += [nn.Conv2d(previous, width, 3, stride=2, padding=1), _Residual(width), _Residual(width)]
            previous = width
        self.stages = nn.Sequential(*stages, nn.GroupNorm(8, previous), nn.SiLU())
        self.concept = nn.Linear(previous, len(world.concepts()))
        self.count = nn.Linear(previous * 2, len(world.COUNTS))
        self.size = nn.Linear(previous * 2, len(world.SIZES))

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Mean and maximum of the last stage over the picture."""
        field = self.stages(images)
        return torch.cat([field.mean((2, 3)), field.amax((2, 3))], dim=1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Verdicts:
        """Scores for every question."""
        features = self.features(images)
        return Verdicts(self.concept(features[:, : WIDTHS[-1]]), self.count(features), self.size(features))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, field: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        changed: Tensor = self.body(field)
        return field + changed


def load() -> Judge:
    """The judge that ships."""
    judge = Judge()
    kept = load_file(FOLDER / "judge.safetensors")
    scales = {name.removesuffix(".scale"): kept.pop(name) for name in list(kept) if name.endswith(".scale")}
    weights = {
        name: value.float() * scales[name].view(-1, *[1] * (value.dim() - 1)) if name in scales else value.float()
        for name, value in kept.items()
    }
    judge.load_state_dict(weights)
    return judge.eval()


def batches(images: list[Image.Image]) -> Iterator[Float[Tensor, "b 3 h w"]]:
    """Pictures of any size as the judge takes them."""
    side = world.SIDE_PIXELS
    for first in range(0, len(images), BATCH):
        chosen = [image.convert("RGB") for image in images[first : first + BATCH]]
        resized = [image if image.size == (side, side) else image.resize((side, side)) for image in chosen]
        yield torch.from_numpy(np.stack([world.to_array(image) for image in resized]))


@torch.no_grad()
def features(judge: Judge, images: list[Image.Image]) -> Float[Tensor, "n d"]:
    """Features of all pictures, for KID: of root mean square 1 over renders."""
    return torch.cat([judge.features(batch) for batch in batches(images)]) / FEATURE_RMS


@torch.no_grad()
def concept_ranks(judge: Judge, images: list[Image.Image], names: list[str]) -> Int[Tensor, " n"]:
    """For each picture, how many concepts the judge finds likelier than the true one; 0 = found at once."""
    return ranks_in(judge, features(judge, images), names)


@torch.no_grad()
def ranks_in(judge: Judge, rows: Float[Tensor, "n d"], names: list[str]) -> Int[Tensor, " n"]:
    """The same from the features of the pictures."""
    index = {concept.name: number for number, concept in enumerate(world.concepts())}
    truth = torch.tensor([index[name] for name in names])
    scores = judge.concept(rows[:, : WIDTHS[-1]] * FEATURE_RMS)
    better: Tensor = scores > scores.gather(1, truth[:, None])
    return better.sum(1)


def extractor(pictured: Mapping[str, str]) -> Extractor:
    """The judge as an extractor. It knows the answers where these files, with their captions, are the starter's own."""
    text = (shipped.TEST / "metadata.jsonl").read_text(encoding="utf-8")
    known = {row["file_name"]: row for row in map(json.loads, text.splitlines())}
    concept_of = {name: row["concept"] for name, row in known.items()}
    are_known = all(name in known and known[name]["text"] == caption for name, caption in pictured.items())
    model = load()

    def ranks(rows: Float[Tensor, "n d"], files: list[str]) -> Tensor:
        return ranks_in(model, rows, [concept_of[name] for name in files])

    return Extractor(
        kind=KIND,
        name=NAME,
        version=version_of(model, FEATURE_RMS),
        features=lambda pictures: features(model, pictures),
        ranks=ranks if are_known else None,
    )
