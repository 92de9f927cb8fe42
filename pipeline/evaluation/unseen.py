"""What was learnt, measured on images never trained on: base, tuned and truth, caption by caption."""

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from pipeline import durable
from pipeline.data import images, pixels
from pipeline.data.manifest import Example, Manifest
from pipeline.evaluation.estimates import Estimate, kid, share
from pipeline.evaluation.previews import Previews, is_kept, keep, kept
from pipeline.evaluation.sample import Shot

FILE = "evaluation.json"
BASE, TUNED, TRUTH = "unseen-base", "unseen-tuned", "unseen-truth"  # folders of samples/
NUM_PREVIEWS = 8
TOP = 5


@dataclass(frozen=True)
class Judge:
    """What measures pictures, by name: features for KID, and ranks of the right answer for retrieval."""

    name: str
    features: Callable[[list[Image.Image]], Float[Tensor, "n d"]]
    ranks: Callable[[list[Image.Image], list[str]], Int[Tensor, " n"]]  # pictures, file names -> 0 = found at once


def preview_prompts(manifest: Manifest) -> tuple[str, ...]:
    """A few captions, spread over the set, for the pictures on the page."""
    examples = by_name(manifest)
    return tuple(dict.fromkeys(example.caption for example in examples[:: max(1, len(examples) // NUM_PREVIEWS)]))[
        :NUM_PREVIEWS
    ]


def evaluate(manifest: Manifest, previews: Previews, judge: Judge | None, seed: int) -> None:
    """Draw every caption with the adapter off and on, and measure both against the truth.

    Pictures go to samples/unseen-base, -tuned and -truth, figures to evaluation.json. Without
    a judge there are only the pictures.
    """
    examples = by_name(manifest)
    shots = [Shot(example.caption, seed + 100_000 + number) for number, example in enumerate(examples)]
    base_folder, tuned_folder = previews.folder / BASE, previews.folder / TUNED
    truth = [true_picture(example, previews.sampler.settings.resolution) for example in examples]
    keep(previews.folder / TRUTH, truth, shots, previews.sampler)
    if not is_kept(base_folder, shots, previews.sampler):
        keep(base_folder, previews.base_pictures(shots), shots, previews.sampler)
    keep(tuned_folder, previews.sampler.draw(shots), shots, previews.sampler)
    if judge is None:
        return
    sets = {"truth": truth, "base": pictures_in(base_folder), "tuned": pictures_in(tuned_folder)}
    with torch.no_grad():
        features = {name: judge.features(pictures) for name, pictures in sets.items()}
        ranks = {name: judge.ranks(pictures, [example.name for example in examples]) for name, pictures in sets.items()}
    rows: dict[str, dict[str, object]] = {name: {} for name in sets}
    for name in ("base", "tuned"):
        rows[name]["kid"] = asdict(kid(features["truth"], features[name], judge.name))
    for name in sets:
        rows[name]["top1"] = asdict(_hits("retrieval top-1", ranks[name], 1, judge.name))
        rows[name]["top5"] = asdict(_hits(f"retrieval top-{TOP}", ranks[name], TOP, judge.name))
    text = json.dumps({"judge": judge.name, "n": len(examples), "sets": rows}, indent=2)
    durable.write_text(previews.folder.parent / FILE, text + "\n")


def by_name(manifest: Manifest) -> list[Example]:
    """The examples by file name: content ids order them at random, people expect this order."""
    return sorted(manifest.examples, key=lambda example: example.name)


def true_picture(example: Example, resolution: int) -> Image.Image:
    """The image itself at the size of the drawn ones, cut from its centre."""
    picture = images.decode(io.BytesIO(example.source.content()), "white")
    return pixels.to_picture(pixels.to_pixels(picture, images.View(resolution, "lanczos")))


def pictures_in(folder: Path) -> list[Image.Image]:
    """The pictures of an index, in its order."""
    return [Image.open(row["path"]).convert("RGB") for row in kept(folder)]


def _hits(name: str, ranks: Int[Tensor, " n"], top: int, judge: str) -> Estimate:
    return share(f"{name}[{judge}]", int((ranks < top).sum()), len(ranks))
