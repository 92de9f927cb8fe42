"""The first epoch of a run as files: the very crops, masks and captions that the model will see."""

import json
from pathlib import Path

from PIL import Image

from pipeline import atomic, conditioning
from pipeline.audit.audit import Audit
from pipeline.data import masks, pixels, views
from pipeline.data.manifest import Example
from pipeline.data.options import DataOptions
from pipeline.data.sampler import Position
from pipeline.errors import ConfigError

FILE = "metadata.jsonl"


def write(found: Audit, options: DataOptions, folder: Path, *, kept: bool) -> Path:
    """A picture for each example of the first epoch, a mask beside it with --masked_loss, and what is said of it.

    Pictures of a class are marked as such; those that the base has not drawn yet are left out. `kept`: arrangements of
    tags are those of the cache. Raises ConfigError for a folder that is not empty, and for data of which nothing can be
    shown.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--preview_dataset {folder} is not empty; give a new folder.")
    epoch = found.epoch
    if epoch is None:
        raise ConfigError("--preview_dataset: nothing of the dataset can be used.")
    pictures = found.of_class.pictures if found.of_class is not None else None
    sampler = epoch.stream

    def fill(temp: Path) -> None:
        rows = []
        for step in range(sampler.num_steps(1)):
            for number, position in enumerate(sampler.step(step)):
                example = epoch.examples[position.index]
                if pictures is not None and not pictures.is_given(example):
                    continue
                name = f"step-{step + 1:05d}-{number + 1:03d}.png"
                shown = _shown(example, position, options, sampler.seed, temp / name, kept=kept)
                said = {"is_class": example.is_class} if pictures is not None else {}
                rows.append({"file_name": name, **shown, **said, "step": step + 1})
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        atomic.write_text(temp / FILE, lines)

    atomic.commit_folder(folder, fill)
    return folder


def _shown(
    example: Example, position: Position, options: DataOptions, seed: int, path: Path, *, kept: bool
) -> dict[str, object]:
    """Write what is shown at one position; returns its row."""
    epoch = position.epoch
    view = views.view_of(example, views.variant_of(example, epoch, seed), seed=seed, size=position.size)
    pixels.to_picture(pixels.to_pixels(example.picture(), view)).save(path)
    if example.options.masked_loss:
        latent = (view.size.height, view.size.width)  # unlike the run's, by pixels
        try:
            mask = masks.mask_of(example, view, latent)[0]
        except ValueError as error:
            raise ConfigError(f"--preview_dataset: {example.name}: {error}.") from error
        Image.fromarray((mask * 255).round().byte().numpy()).save(path.with_suffix(".mask.png"))
    dropped = conditioning.is_dropped(seed, epoch, example.id, options.caption_dropout or 0.0)
    caption = views.caption_in(example, epoch, seed, kept=kept)
    return {"text": "" if dropped else caption, "of": example.name, "size": str(view.size), "flipped": view.flip}
