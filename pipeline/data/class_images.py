"""Pictures of the class that a subject belongs to: trained on beside the subject's own, so that the class stays.

Prior preservation of DreamBooth (Ruiz et al. 2023, eq. 2): the loss of the class's pictures, which the base drew, is
added to that of the subject's. Some are kept apart and only measured: how far the model moved on them is what it
forgot.
"""

import collections
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.manifest import Example, Manifest, by_name
from pipeline.data.options import DataOptions
from pipeline.data.reading import Gathered, OnRow, gather, read_manifest
from pipeline.data.rows import FileSource, Findings
from pipeline.data.split import rank_of
from pipeline.errors import DataError
from pipeline.geometry import Size
from pipeline.hashing import digest

MEASURED_SHARE, MIN_MEASURED, MAX_MEASURED = 0.1, 4, 32  # of the pictures, which are not trained on then
MIN_PICTURES = 12  # to keep some of them apart
FLAG = "--class_data_dir"


@dataclass(frozen=True)
class ClassImages:
    """The pictures of a class: those that are trained on, and those that are only measured."""

    trained: tuple[Example, ...]
    measured: tuple[Example, ...]
    num_given: int
    num_drawn: int  # by the base
    num_drawn_trained: int


def read_given(options: DataOptions) -> Manifest | None:
    """The pictures of --class_data_dir, --num_class_images of them at most. Raises DataError as for any dataset."""
    place = options.class_data_dir
    if place is None:
        return None
    try:
        found = read_manifest(Path(place), options.of_class, FLAG)
    except DataError as error:
        raise DataError(str(error).replace("--instance_prompt", "--class_prompt")) from error
    return found.distinct().limited(options.num_class_images)


def gather_given(of_class: DataOptions, findings: Findings, on_row: OnRow | None = None) -> Gathered:
    """What --class_data_dir holds, without refusing anything. Raises DataError for what is no folder."""
    assert of_class.train_data_dir is not None
    return gather(Path(of_class.train_data_dir), of_class, findings, FLAG, on_row)


def num_to_draw(options: DataOptions, given: Manifest | None) -> int:
    """How many pictures the base has to draw."""
    if not options.with_prior_preservation or options.class_prompt is None:
        return 0
    return max(0, options.num_class_images - (len(given.examples) if given is not None else 0))


def promised(options: DataOptions, number: int, size: Size) -> Manifest:
    """Examples that stand for pictures which are not drawn yet, so that a run can be planned."""
    names = [f"class image {place}" for place in range(number)]
    prompt = options.class_prompt or ""
    return Manifest(
        "drawn by the base",
        tuple(
            Example(digest(name.encode()), digest(name.encode()), name, FileSource(name), (prompt,), size, how)
            for how in [options.of_class]
            for name in names
        ),
    )


def read_drawn(options: DataOptions, folder: Path, number: int) -> Manifest:
    """So many of the pictures that the base drew into a folder, by their names."""
    found = read_manifest(folder, options.of_class, FLAG)
    return dataclasses.replace(found, examples=tuple(by_name(found)[:number]))


def apart(options: DataOptions, given: Manifest | None, drawn: Manifest | None) -> ClassImages:
    """The pictures of the class, some of them, chosen by content, kept apart to be measured."""
    own = given.examples if given is not None else ()
    known = {example.image_id for example in own}
    more = [example for example in (drawn.examples if drawn is not None else ()) if example.image_id not in known]
    everything = [_marked(example) for example in (*own, *more)]
    image_ids = sorted({example.image_id for example in everything}, key=rank_of)
    if not options.with_prior_preservation:
        number = min(MAX_MEASURED, len(image_ids))
    elif len(image_ids) < MIN_PICTURES:
        number = 0
    else:
        number = min(MAX_MEASURED, max(MIN_MEASURED, round(MEASURED_SHARE * len(image_ids))))
    chosen = set(image_ids[:number])
    trained = [e for e in everything if e.image_id not in chosen] if options.with_prior_preservation else []
    measured = [e for e in everything if e.image_id in chosen]
    num_drawn = sum(e.image_id not in known for e in trained)
    return ClassImages(_in_order(trained), _in_order(measured), len(own), len(more), num_drawn)


def beside(subject: Manifest, trained: tuple[Example, ...]) -> Manifest:
    """What an epoch shows: the subject's examples and the class's, of which the fewer are shown again and again until
    they are as many."""
    if not trained:
        return subject
    number = max(len(subject.examples), len(trained))
    examples = (*filled(subject.examples, number), *filled(trained, number))
    return dataclasses.replace(subject, examples=tuple(examples))


def filled(examples: Sequence[Example], number: int) -> tuple[Example, ...]:
    """So many examples: each again as often as it takes, every time with draws of its own."""
    copies = collections.Counter(example.views_id for example in examples)
    found = list(examples)
    for place in range(number - len(examples)):
        again = examples[place % len(examples)]
        copy = copies[again.views_id]
        copies[again.views_id] += 1
        found.append(dataclasses.replace(again, id=f"{again.views_id}-{copy + 1}", copy=copy))
    return tuple(sorted(found, key=lambda example: (example.views_id, example.copy)))


def _marked(example: Example) -> Example:
    return dataclasses.replace(example, id=f"class-{example.id}", is_class=True)


def _in_order(examples: list[Example]) -> tuple[Example, ...]:
    return tuple(sorted(examples, key=lambda example: example.id))
