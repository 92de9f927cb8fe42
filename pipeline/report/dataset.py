"""What a run was trained on, as the page shows it: some pictures with their captions, and the whole in numbers."""

import collections
import statistics
from pathlib import Path
from typing import Any

from pipeline.data.buckets import LITTLE, Bucket, is_enlarged, share_cropped, shown
from pipeline.data.class_images import ClassImages
from pipeline.data.groups import balance_of
from pipeline.data.manifest import Example, Manifest, by_name
from pipeline.data.options import DataOptions
from pipeline.data.sources import names_of, shown_by_source
from pipeline.evaluation.picture_sets import INDEX, keep, kept
from pipeline.evaluation.previews import spread
from pipeline.evaluation.test_set import reference_picture
from pipeline.geometry import Size
from pipeline.training.result import DataFacts, Sides

Seen = list[tuple[Example, Size]]  # examples, each with every size it is shown at
FOLDER = "data"  # of samples/
MAX_SHOWN = 24


def keep_examples(manifest: Manifest, seen: Seen, samples: Path) -> None:
    """Write some training pictures as the model sees them, cut from the centre, with their captions."""
    sizes = {example.id: size for example, size in seen}
    chosen = spread(by_name(manifest), MAX_SHOWN)
    rows = [
        {"file": f"{number:04d}.png", "name": example.name, "captions": list(example.captions)}
        for number, example in enumerate(chosen)
    ]
    pictures = [reference_picture(example, sizes[example.id]) for example in chosen]
    keep(samples / FOLDER, pictures, rows, drawn=False)


def seen_of(manifest: Manifest, stream: Manifest, buckets: tuple[Bucket, ...]) -> Seen:
    """The examples of a dataset with each size they are shown at, of a stream that may show others beside them."""
    own = {example.id for example in manifest.examples}
    return [pair for pair in shown(stream.examples, buckets) if pair[0].id in own]


def facts(
    options: DataOptions, manifest: Manifest, held_out: Manifest | None, shown_at: Seen, of_class: ClassImages | None
) -> DataFacts:
    """The dataset in numbers, for result.json."""
    by_source = [examples for _, examples in shown_by_source(options, manifest)] if options.source else []
    seen = [(example.size, size) for example, size in shown_at]
    sides = sorted(min(example.size.width, example.size.height) for example in manifest.examples)
    captions = [caption for example in manifest.examples for caption in example.written]
    return DataFacts(
        examples=len(manifest.examples),
        held_out=len(held_out.examples) if held_out else 0,
        captions=len(captions),
        distinct_captions=len(set(captions)),
        words=statistics.median(len(caption.split()) for caption in captions),
        side=Sides(sides[0], sides[len(sides) // 2], sides[-1]),
        skipped=len(manifest.skipped),
        copies=len(manifest.duplicates),
        sizes={str(size): number for size, number in sorted(collections.Counter(size for _, size in seen).items())},
        enlarged=sum(is_enlarged(original, size) for original, size in seen),
        cropped=share_cropped(collections.Counter(seen)),
        sources=dict(zip(names_of(options), by_source, strict=False)),
        class_images=len(of_class.trained) if of_class is not None else 0,
        class_drawn=of_class.num_drawn_trained if of_class is not None else 0,
        balance=balance_of(manifest.examples, options.balance).text() if options.balance is not None else None,
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
    shown_at = f"the model sees {', '.join(f'{number} at {size}' for size, number in found.sizes.items())}"
    if len(found.sizes) < 2:
        shown_at = f"the model sees {next(iter(found.sizes), size)}"
    if found.cropped >= LITTLE:
        shown_at += f", for which {found.cropped:.0%} of all pixels are cut off"
    sentences = [
        f"{found.examples} examples to train on, {found.held_out} held out. Their shorter side is {sizes}; {shown_at}.",
        f"{found.captions} captions, {found.distinct_captions} of them different, {found.words:g} words in the median.",
    ]
    if found.sources:
        shares = (f"{name} {number / found.examples:.0%}" for name, number in found.sources.items())
        sentences.append(f"Of what an epoch shows, {', '.join(shares)}.")
    if found.balance is not None:
        sentences.append(f"The loss is weighed {found.balance}.")
    if found.class_images:
        sentences.append(f"Beside them {found.class_images} pictures of the class, shown as often as they are.")
    if found.enlarged:
        sentences.append(f"{found.enlarged} are too small for this and are enlarged: their softness is learnt too.")
    if found.distinct_captions < found.captions / 2:
        sentences.append("Most captions are alike, so the adapter cannot learn what tells the pictures apart.")
    if found.skipped:
        sentences.append(f"{found.skipped} were left out, as was asked; notes.txt names them.")
    if found.copies:
        sentences.append(f"{found.copies} exist more than once and weigh more for it; notes.txt names them.")
    return sentences
