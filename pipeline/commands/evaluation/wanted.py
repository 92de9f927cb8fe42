"""Which pictures are drawn for an evaluation, and which they are compared with."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.commands.evaluation.options import EvaluateOptions
from pipeline.commands.sample import folder_of_run
from pipeline.console import tell
from pipeline.data.captions import read_text
from pipeline.data.manifest import Example, Manifest, by_name
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.looking import PictureSet
from pipeline.evaluation.picture_sets import INDEX, keep
from pipeline.evaluation.previews import spread
from pipeline.evaluation.sample import SampleRequest
from pipeline.evaluation.test_set import FIRST_SEED, reference_picture
from pipeline.geometry import Size
from pipeline.run import preflight
from pipeline.run.reopened import reopen


@dataclass(frozen=True)
class Wanted:
    """What is drawn: for caption i its pictures, one after the other; and the reference."""

    captions: tuple[str, ...]
    num_images: int  # of each caption
    first_seed: int
    reference: tuple[Example, ...]
    is_paired: bool  # whether reference i is the picture with caption i
    origin: str  # where captions and reference are from, in words
    shifts: tuple[int, ...] = ()  # of each caption's seeds from the first, where some share theirs

    @property
    def requests(self) -> list[SampleRequest]:
        """One for each picture, with a seed of its own if `shifts` do not say otherwise."""
        firsts = self.shifts or range(0, len(self.captions) * self.num_images, self.num_images)
        return [
            SampleRequest(caption, self.first_seed + first + number)
            for caption, first in zip(self.captions, firsts, strict=True)
            for number in range(self.num_images)
        ]

    @property
    def groups(self) -> tuple[int, ...]:
        """The number of each picture's caption."""
        return tuple(number for number in range(len(self.captions)) for _ in range(self.num_images))

    @property
    def reference_groups(self) -> tuple[int, ...]:
        """The same of the reference; those of no caption have numbers of their own."""
        first = 0 if self.is_paired else len(self.captions)
        return tuple(range(first, first + len(self.reference)))

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the pictures, beside what they are drawn with."""
        facts = {"first_seed": self.first_seed, "num_images": self.num_images, "captions": list(self.captions)}
        return {**facts, "reference": [example.image_id for example in self.reference]}

    @property
    def names(self) -> tuple[str, ...]:
        """For each picture the file of its reference, which extractors that know the answers go by."""
        return tuple(self.reference[number].name for number in self.groups) if self.is_paired else ()

    def set_in(self, folder: Path) -> PictureSet:
        """A folder in which the requests were drawn."""
        return PictureSet(folder, self.names, self.groups)

    def reference_in(self, folder: Path, size: Size) -> PictureSet:
        """The reference in a folder, cut as the model would see it; copied there where it is not yet."""
        rows = [{"file": f"{i:06d}.png", "prompt": example.caption} for i, example in enumerate(self.reference)]
        if not all((folder / name).is_file() for name in (INDEX, *(row["file"] for row in rows))):
            keep(folder, [reference_picture(example, size) for example in self.reference], rows, drawn=False)
        names = tuple(example.name for example in self.reference) if self.is_paired else ()
        return PictureSet(folder, names, self.reference_groups)


def wanted_of(adapter: Path | None, options: EvaluateOptions) -> Wanted:
    """Captions and reference as the options name them, else those that the run held out.

    Raises ConfigError where there are none, DataError with all that cannot be read.
    """
    found = _named(options) if options.captions or options.reference else _of_run(adapter, options)
    if options.limit is None or options.limit >= len(found.captions):
        return found
    places = spread(range(len(found.captions)), options.limit)
    captions = tuple(found.captions[place] for place in places)
    reference = tuple(found.reference[place] for place in places) if found.is_paired else found.reference
    return dataclasses.replace(found, captions=captions, reference=reference)


def _named(options: EvaluateOptions) -> Wanted:
    captions = lines_of(options.captions, "--captions") if options.captions else ()
    if options.reference is None:
        return Wanted(captions, options.num_images, options.seed, (), False, f"{options.captions}")
    unread = "-" if captions else None  # their captions, where others are drawn
    asked = DataOptions(train_data_dir=str(options.reference), cache_dir=options.cache_dir, instance_prompt=unread)
    examples = _each(read_manifest(options.reference, asked, "--reference"))
    if captions:
        words = f"{options.captions}, compared with {len(examples)} pictures of {options.reference}"
        return Wanted(captions, options.num_images, options.seed, examples, False, words)
    captions = tuple(example.caption for example in examples)
    return Wanted(captions, options.num_images, options.seed, examples, True, f"{options.reference}")


def _each(manifest: Manifest) -> tuple[Example, ...]:
    """Every picture once, by name."""
    found = manifest.of_each_image()
    for note in found.notes[len(manifest.notes) :]:
        tell(f"note: {manifest.origin}: {note}")
    return tuple(by_name(found))


def lines_of(path: Path, flag: str) -> tuple[str, ...]:
    """A caption in each line; empty lines are left out. Raises DataError for a file that holds none."""
    if not path.is_file():
        raise DataError(f"{flag} {path} is no file; give one with a caption in each line.")
    try:
        text = read_text(path)
    except ValueError as error:
        raise DataError(f"{flag} {error}.") from error
    found = tuple(" ".join(line.split()) for line in text.splitlines() if line.strip())
    if not found:
        raise DataError(f"{flag} {path} holds no caption; write one in each line.")
    return found


def _of_run(adapter: Path | None, options: EvaluateOptions) -> Wanted:
    """The test set of a run, all of it, else what it held out; the seeds are those of the run's own pictures."""
    if adapter is None or not adapter.is_dir() or options.base is not None:
        raise ConfigError("Nothing says what to draw: give --captions FILE, or --reference FOLDER with captions.")
    folder = folder_of_run(adapter)
    command, data = reopen(folder)
    given = preflight.test_data(command.run.data)
    chosen, words = (given, "the run's test set") if given is not None else (data.held_out, "what the run held out")
    if chosen is None:
        raise ConfigError(
            f"{folder} held nothing out, so there is nothing to compare with: give --reference FOLDER, pictures with "
            "captions; `evaluate` takes --captions FILE as well."
        )
    examples = _each(chosen)
    captions = tuple(example.caption for example in examples)
    first_seed = command.run.train.seed + FIRST_SEED + options.seed
    return Wanted(captions, options.num_images, first_seed, examples, True, words)
