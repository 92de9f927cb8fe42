"""What was learnt, measured on images never trained on: base, tuned and truth, caption by caption."""

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from pipeline import atomic
from pipeline.data import images, pixels
from pipeline.data.manifest import Example, Manifest
from pipeline.data.options import DataOptions
from pipeline.evaluation.estimates import Estimate, kid, paired_change, share
from pipeline.evaluation.previews import Previews, index_of, is_kept, keep, kept, spread
from pipeline.evaluation.readers import Reader, margins, mean_of
from pipeline.evaluation.sample import Shot

FILE = "evaluation.json"
BASE, TUNED, TRUTH = "unseen-base", "unseen-tuned", "unseen-truth"  # folders of samples/
NUM_PREVIEWS = 8
TOP = 5


@dataclass(frozen=True)
class Judge:
    """What measures pictures, by name: features for KID, and ranks of the right answer where it knows the answers."""

    name: str
    features: Callable[[list[Image.Image]], Float[Tensor, "n d"]]
    ranks: Callable[[list[Image.Image], list[str]], Int[Tensor, " n"]] | None  # pictures, file names -> 0 = at once


def preview_prompts(manifest: Manifest) -> tuple[str, ...]:
    """A few captions, spread over the set, for the pictures on the page."""
    return tuple(dict.fromkeys(example.caption for example in spread(by_name(manifest), NUM_PREVIEWS)))


def evaluate(
    manifest: Manifest,
    previews: Previews,
    judge: Judge | None,
    reader: Reader | None,
    options: DataOptions,
    seed: int,
) -> None:
    """Draw every caption with the adapter off and on, and measure both against the truth.

    Pictures go to samples/unseen-base, -tuned and -truth, figures to evaluation.json. Without judge and
    reader there are only the pictures.
    """
    examples = by_name(manifest)
    shots = [Shot(example.caption, seed + 100_000 + number) for number, example in enumerate(examples)]
    folders = {name: previews.folder / place for name, place in (("truth", TRUTH), ("base", BASE), ("tuned", TUNED))}
    rows = index_of(shots, previews.sampler)
    keep(
        folders["truth"],
        [true_picture(e, previews.sampler.settings.resolution, options) for e in examples],
        rows,
        drawn=False,
    )
    if not is_kept(folders["base"], rows):
        keep(folders["base"], previews.base_pictures(shots), rows, drawn=True)
    keep(folders["tuned"], previews.sampler.draw(shots), rows, drawn=True)
    if judge is None and reader is None:
        return
    sets = {name: pictures_in(folder) for name, folder in folders.items()}
    found: dict[str, dict[str, Any]] = {name: {} for name in sets}
    if judge is not None:
        _judged(judge, sets, [example.name for example in examples], found)
    if reader is not None:
        _read(reader, sets, [example.caption for example in examples], found)
    names = {"judge": judge.name if judge else None, "reader": reader.name if reader else None}
    text = json.dumps({**names, "n": len(examples), "sets": found}, indent=2)
    atomic.write_text(previews.folder.parent / FILE, text + "\n")


def _judged(
    judge: Judge, sets: dict[str, list[Image.Image]], names: list[str], found: dict[str, dict[str, Any]]
) -> None:
    features = {name: judge.features(pictures) for name, pictures in sets.items()}
    for name in ("base", "tuned"):
        if len(names) > 2:  # the jackknife deletes one and needs a pair to be left
            found[name]["kid"] = asdict(kid(features["truth"], features[name], judge.name))
    if judge.ranks is None:
        return
    for name, pictures in sets.items():
        ranks = judge.ranks(pictures, names)
        found[name]["top1"] = asdict(_hits("retrieval top-1", ranks, 1, judge.name))
        found[name]["top5"] = asdict(_hits(f"retrieval top-{TOP}", ranks, TOP, judge.name))


def _read(
    reader: Reader, sets: dict[str, list[Image.Image]], captions: list[str], found: dict[str, dict[str, Any]]
) -> None:
    texts, label = reader.captions(captions), f"clip margin[{reader.name}]"
    each = {name: margins(reader.pictures(pictures), texts) for name, pictures in sets.items()}
    for name, values in each.items():
        found[name]["clip_margin"] = asdict(mean_of(label, values))
    found["tuned"]["clip_margin_change"] = asdict(paired_change(f"{label} change", each["tuned"], each["base"]))


def by_name(manifest: Manifest) -> list[Example]:
    """The examples by file name: content ids order them at random, people expect this order."""
    return sorted(manifest.examples, key=lambda example: example.name)


def true_picture(example: Example, resolution: int, options: DataOptions) -> Image.Image:
    """The image as the model would see it, cut from its centre."""
    picture = images.decode(io.BytesIO(example.source.content()), options.alpha_background)
    return pixels.to_picture(pixels.to_pixels(picture, images.View(resolution, options.image_interpolation_mode)))


def pictures_in(folder: Path) -> list[Image.Image]:
    """The pictures of an index, in its order."""
    return [Image.open(row["path"]).convert("RGB") for row in kept(folder)]


def _hits(name: str, ranks: Int[Tensor, " n"], top: int, judge: str) -> Estimate:
    return share(f"{name}[{judge}]", int((ranks < top).sum()), len(ranks))
