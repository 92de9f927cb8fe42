"""Checks before anything heavy is imported: the data of a run, and the places it reads and writes."""

import dataclasses
import functools
import json
import os
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from pipeline import shipped
from pipeline.atomic import nearest_existing
from pipeline.config import Run
from pipeline.console import is_main_process
from pipeline.data import card, images
from pipeline.data.card import Card
from pipeline.data.class_images import ClassImages, beside, read_given
from pipeline.data.groups import Balance, balance_of, require_values
from pipeline.data.manifest import Example, Manifest, column
from pipeline.data.options import UNWEIGHED, DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.sources import read_sources, together
from pipeline.data.split import split
from pipeline.errors import CheckpointError, ConfigError, DataError, listed, printable
from pipeline.hub_ids import may_be_hub_id
from pipeline.sharing.options import ShareOptions
from pipeline.training.options import TrainOptions

MAX_DRAWN = 16  # of the held-out images, where no other test set is given


@dataclass(frozen=True)
class RunData:
    """The data of a run."""

    manifest: Manifest  # what is trained on
    held_out: Manifest | None  # of the same dataset, for the held-out loss
    test_set: Manifest | None  # images never trained on, to be drawn and compared with
    card: Card | None  # of the dataset, as a person declared it
    class_given: Manifest | None = None  # the pictures of --class_data_dir
    class_images: ClassImages | None = None  # with those that the base draws, once its size is known

    @functools.cached_property
    def shown(self) -> Manifest:
        """What training shows: the dataset, and beside it the pictures of the class."""
        return beside(self.manifest, self.class_images.trained if self.class_images is not None else ())

    @functools.cached_property
    def balance(self) -> Balance | None:
        """What the examples of each group count; None where all count alike."""
        examples = self.manifest.examples
        name = examples[0].options.balance if examples else None
        return balance_of(examples, name) if name is not None else None

    @property
    def num_own(self) -> int | None:
        """The dataset's own examples, where pictures of a class are shown beside them; else None."""
        return None if self.shown is self.manifest else len(self.manifest.examples)

    @property
    def class_measured(self) -> tuple[Example, ...]:
        """The pictures of the class that are only measured."""
        return self.class_images.measured if self.class_images is not None else ()


def preflight(run: Run, folder: Path, yielding: Set[str] = frozenset()) -> RunData:
    """Read the data of a run; `folder` is where it will write. Options that are `yielding` give way to what is read.

    Raises ConfigError, DataError or CheckpointError, which name every culprit.
    """
    require_apart(folder, run.data)
    if is_main_process():
        require_place(run.train, folder)
        if run.data.cache_dir is not None:
            require_writable(Path(run.data.cache_dir), "--cache_dir")
    _ = run.model.local_folder, run.model.local_vae  # raise for what can be none
    require_adapter(run.adapter.init_lora)
    require_clip(run.preview.clip_model_name_or_path)
    everything = read_sources(run.data)
    if run.data.weight_of_value is not None:
        require_values(everything.examples, run.data.weight_column or "", run.data.weight_of_value)
    declared = card_of(run.share, dataset_name(run.data), data_folder(run.data), everything)
    manifest, held_out = split(everything, run.data.validation_split, yields="validation_split" in yielding)
    test_set = test_data(run.data)
    if test_set is not None and not run.preview.num_validation_images:
        if run.data.evaluation_data_dir is not None:
            raise ConfigError(
                "--num_validation_images 0 draws nothing for --evaluation_data_dir; leave one of them out."
            )
        test_set = None  # the starter dataset's, which nobody named
    if test_set is None and held_out is not None and run.preview.num_validation_images:
        test_set = held_out.of_each_image().limited(MAX_DRAWN)
    manifest = manifest.limited(run.data.max_train_samples)
    require_disjoint(manifest, test_set)
    if run.preview.clip_model_name_or_path is not None and test_set is None:
        raise ConfigError(
            "--clip_model_name_or_path has nothing to measure: give --evaluation_data_dir, or --validation_split 0.2."
        )
    given = read_given(run.data)
    if run.data.has_masks and run.train.resume_from_checkpoint is None:  # what has begun may end
        require_masks([part.examples for part in (everything, given) if part is not None])
    require_other(given, ("in the dataset", everything), ("in the test set", test_set))
    return RunData(manifest, held_out, test_set, declared, given)


def require_masks(parts: Sequence[Sequence[Example]]) -> None:
    """Raise DataError where masks are asked for and there are none: it would be trained on whole pictures."""
    if any(mask is not None for part in parts for mask in column(part, "mask")):
        return
    asked = (example for part in parts for example in part if example.options.masked_loss)
    if not any(images.has_alpha(example.source) for example in asked):
        raise DataError(
            "--masked_loss: no image has a mask (x.mask.png beside it, or masks/x.png), and none is transparent; leave "
            "it out, or see what the masks are called."
        )


def require_place(options: TrainOptions, folder: Path) -> None:
    """Raise ConfigError if the output folder is in use or cannot be one, CheckpointError if nothing is to resume."""
    resume = options.resume_from_checkpoint
    if resume not in (None, "latest") and not Path(str(resume)).is_dir():
        raise CheckpointError(f"--resume_from_checkpoint {resume} does not exist; give 'latest' or a checkpoint.")
    require_writable(folder, "--output_dir")
    require_free(options, folder, is_taken=folder.is_dir() and any(folder.iterdir()))


def require_free(options: TrainOptions, folder: Path, *, is_taken: bool) -> None:
    """Raise ConfigError if the output folder is taken by what the run neither goes on from nor replaces."""
    if is_taken and not options.overwrite_output_dir and options.resume_from_checkpoint is None:
        raise ConfigError(
            f"{folder} is not empty. Go on with --resume_from_checkpoint latest, start anew with "
            "--overwrite_output_dir, or give another --output_dir."
        )


def require_apart(folder: Path, options: DataOptions) -> None:
    """Raise ConfigError for an output folder that is the dataset's own, or whose name UTF-8 cannot hold."""
    if printable(str(folder)) != str(folder):
        raise ConfigError(f"The output folder {printable(str(folder))} is no UTF-8; give another --output_dir.")
    places = [("train_data_dir", source.train_data_dir) for source in options.sources]
    others = [(flag, getattr(options, flag)) for flag in ("evaluation_data_dir", "class_data_dir")]
    for flag, data in (*places, *others):
        if data is not None and Path(data).resolve() == folder.resolve():
            raise ConfigError(
                f"--output_dir {folder} is the folder of --{flag}; give another, for example {folder / 'run'}."
            )


def require_disjoint(trained: Manifest, test_set: Manifest | None) -> None:
    """Raise DataError if images to compare with are trained on too: then nothing would be measured."""
    if test_set is None:
        return
    names = names_of(trained, {e.image_id for e in test_set.examples})
    both = [f"{e.name} is {names[e.image_id]}" for e in test_set.examples if e.image_id in names]
    if both:
        raise DataError(f"--evaluation_data_dir holds {len(both)} images that are trained on:\n{listed(both)}")


def names_of(manifest: Manifest, image_ids: Set[str]) -> dict[str, str]:
    """The name of each of these images that a dataset holds."""
    pairs = zip(*(column(manifest.examples, name) for name in ("image_id", "name")), strict=True)
    return {image_id: name for image_id, name in pairs if image_id in image_ids}


def require_other(given: Manifest | None, *parts: tuple[str, Manifest | None]) -> None:
    """Raise DataError if pictures of the class are the dataset's own: what is held out would be trained on, say."""
    if given is None:
        return
    ids = {e.image_id for e in given.examples}
    names = {key: (name, what) for what, part in parts if part for key, name in names_of(part, ids).items()}
    same = [(e.name, *names[e.image_id]) for e in given.examples if e.image_id in names]
    if same:
        lines = listed([f"{name} is {other}, which is {what}" for name, other, what in same])
        own = "the dataset's or the test set's own"
        raise DataError(f"--class_data_dir holds {len(same)} pictures that are {own}; remove them there:\n{lines}")


def require_adapter(place: str | None) -> None:
    """Raise CheckpointError for what can be no adapter to start from."""
    if place is None:
        return
    path = Path(place)
    if not path.exists():
        raise CheckpointError(f"--init_lora {place} does not exist; give the file or the folder of an adapter.")
    if path.is_file() and path.suffix != ".safetensors":
        raise CheckpointError(f"--init_lora {place} is no .safetensors file; others can run programs.")


def require_clip(name: str | None) -> None:
    """Raise CheckpointError for what can be neither the folder of a CLIP model nor a Hub id."""
    if name is None:
        return
    path = Path(name) / "config.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("model_type") == "clip":
        return
    if not may_be_hub_id(name):
        raise CheckpointError(f"--clip_model_name_or_path {name} is no folder of a CLIP model (with config.json).")


def require_writable(folder: Path, flag: str) -> None:
    """Raise ConfigError if a folder neither can be written to nor be made."""
    if folder.is_symlink() and not folder.exists():
        raise ConfigError(f"{flag} {folder} is a link to {folder.readlink()}, which is not there; make it first.")
    try:
        existing = nearest_existing(folder)
    except OSError as error:
        raise ConfigError(f"{flag} {folder} cannot be reached: {error.strerror}; give another folder.") from error
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "is not writable" if existing.is_dir() else "is a file"
        raise ConfigError(f"{flag} {folder} cannot be written: {existing} {reason}; give another folder.")


def card_of(options: ShareOptions, name: str, folder: Path | None, manifest: Manifest) -> Card | None:
    """The card of the dataset, checked against it; None where there is none and nobody asks for one.

    Raises DataError for one that --data_card names or that is needed and that is missing, incomplete
    or of other data.
    """
    required = options.require_data_card or (options.push_to_hub and options.allow_undocumented_data is None)
    path = Path(options.data_card) if options.data_card is not None else card.find(name, folder)
    if path is None:
        if required:
            who = "--require_data_card" if options.require_data_card else "Sharing"
            other = "" if options.require_data_card else ', or say why with --allow_undocumented_data "reason"'
            raise DataError(
                f"{who} needs a card of the dataset: write data_cards/{name}.md (`python -m pipeline card {name}` "
                f"begins it), or name one with --data_card{other}."
            )
        return None
    try:
        found = card.read(path)
        card.require_same_data(found, path, manifest.data_fingerprint)
    except DataError:
        if required or options.data_card is not None:
            raise
        return None
    return found


def data_folder(options: DataOptions) -> Path | None:
    """The folder of the dataset, where it is one and the only one."""
    given = None if options.source else options.place
    return Path(given) if given and Path(given).is_dir() else None


def dataset_name(options: DataOptions) -> str:
    """What the dataset is called: the last part of its folder or Hub id, of several with 'and' between them."""
    return together(options)


def test_data(options: DataOptions) -> Manifest | None:
    """The images to compare with that are never trained on; the starter dataset has some of its own."""
    if options.evaluation_data_dir is not None:
        alike = dataclasses.replace(options, **UNWEIGHED)
        return read_manifest(Path(options.evaluation_data_dir), alike, "--evaluation_data_dir").of_each_image()
    own = not (options.place or options.source)
    return read_manifest(shipped.TEST, options) if own else None
