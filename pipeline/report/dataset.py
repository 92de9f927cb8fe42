"""What a run was trained on, as the page shows it: some pictures with their captions, and the whole in numbers."""

import statistics
from pathlib import Path
from typing import Any

from pipeline.data.manifest import Manifest, by_name
from pipeline.data.options import DataOptions
from pipeline.evaluation.picture_sets import INDEX, keep, kept
from pipeline.evaluation.previews import spread
from pipeline.evaluation.test_set import reference_picture
from pipeline.geometry import Size
from pipeline.training.result import DataFacts, Sides

FOLDER = "data"  # of samples/
MAX_SHOWN = 24


def keep_examples(manifest: Manifest, samples: Path, size: Size, options: DataOptions) -> None:
    """Write some training pictures as the model sees them, cut from the centre, with their captions."""
    examples = by_name(manifest)
    chosen = spread(examples, MAX_SHOWN)
    rows = [
        {"file": f"{number:04d}.png", "name": example.name, "captions": list(example.captions)}
        for number, example in enumerate(chosen)
    ]
    keep(samples / FOLDER, [reference_picture(example, size, options) for example in chosen], rows, drawn=False)


def facts(manifest: Manifest, held_out: Manifest | None) -> DataFacts:
    """The dataset in numbers, for result.json."""
    sides = sorted(min(example.size.width, example.size.height) for example in manifest.examples)
    captions = [caption for example in manifest.examples for caption in example.captions]
    return DataFacts(
        examples=len(manifest.examples),
        held_out=len(held_out.examples) if held_out else 0,
        captions=len(captions),
        distinct_captions=len(set(captions)),
        words=statistics.median(len(caption.split()) for caption in captions),
        side=Sides(sides[0], sides[len(sides) // 2], sides[-1]),
        skipped=len(manifest.skipped),
        copies=len(manifest.duplicates),
    )


def section(samples: Path, found: DataFacts, size: Size) -> dict[str, Any] | None:
    """What the page shows; None for a run that kept nothing to show."""
    if not (samples / FOLDER / INDEX).is_file():
        return None
    return {"rows": kept(samples / FOLDER), "words": words(found, size)}


def words(found: DataFacts, size: Size) -> list[str]:
    """The dataset in sentences, each of which only appears where it says something."""
    side = found.side
    sizes = f"{side.smallest} to {side.largest} pixels (median {side.median})"
    if side.smallest == side.largest:
        sizes = f"{side.median} pixels"
    sentences = [
        f"{found.examples} examples to train on, {found.held_out} held out. Their shorter side is {sizes}; "
        f"the model sees {size}.",
        f"{found.captions} captions, {found.distinct_captions} of them different, {found.words:g} words in the median.",
    ]
    shorter = min(size.width, size.height)
    if side.smallest < shorter:
        sentences.append(f"Some are smaller than {shorter} pixels and are enlarged: their softness is learnt too.")
    if found.distinct_captions < found.captions / 2:
        sentences.append("Most captions are alike, so the adapter cannot learn what tells the pictures apart.")
    if found.skipped:
        sentences.append(f"{found.skipped} were left out, as was asked; notes.txt names them.")
    if found.copies:
        sentences.append(f"{found.copies} exist more than once and weigh more for it; notes.txt names them.")
    return sentences
