"""The folder of an evaluation: what is drawn into it, and that it holds nothing else."""

import json
from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.commands.evaluation.subject import Subject
from pipeline.commands.evaluation.wanted import Wanted
from pipeline.console import tell
from pipeline.errors import ConfigError
from pipeline.evaluation.looking import PictureSet
from pipeline.evaluation.picture_sets import INDEX, keep
from pipeline.evaluation.resumable import draw_missing
from pipeline.evaluation.test_set import reference_picture

BASE, ADAPTED, REFERENCE = "base", "adapted", "reference"  # folders
DRAWN = "drawn.json"  # what decides every picture


def claim(folder: Path, subject: Subject, wanted: Wanted) -> None:
    """Begin a folder, or go on with one of the very same pictures.

    Raises ConfigError for one that holds other pictures, or files of others.
    """
    facts: dict[str, Any] = {**subject.facts, "first_seed": wanted.first_seed, "num_images": wanted.num_images}
    facts |= {"captions": list(wanted.captions), "reference": [example.image_id for example in wanted.reference]}
    path = folder / DRAWN
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if other := sorted(name for name in {**before, **facts} if before.get(name) != facts.get(name)):
            raise ConfigError(
                f"{folder} holds an evaluation with another {', '.join(other)}; give another folder with --to, or "
                "remove it."
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds other files; give a new folder with --to.")
    atomic.write_text(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def draw(folder: Path, subject: Subject, wanted: Wanted, *, with_base: bool = True) -> dict[str, PictureSet]:
    """Draw what is not there yet, each process its share; the sets by their names, without those there are not."""
    requests, engine = wanted.requests, subject.engine
    found: dict[str, PictureSet] = {}
    for name in (*([BASE] if with_base else []), *([ADAPTED] if subject.file is not None else [])):
        place = folder / name
        paths = [place / f"{number:06d}.png" for number in range(len(requests))]
        if engine.is_main:
            rows = [
                {"file": path.name, "prompt": request.prompt, "seed": request.seed}
                for path, request in zip(paths, requests, strict=True)
            ]
            atomic.write_text(place / INDEX, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
            if not all(path.is_file() for path in paths):
                tell(f"Drawing {len(requests)} pictures: {'the base' if name == BASE else 'with the adapter'}")
        with_adapter = name == ADAPTED
        engine.together(
            lambda paths=paths, with_adapter=with_adapter: draw_missing(  # type: ignore[misc]
                requests, paths, subject.sampler_of(with_adapter=with_adapter), subject.settings.size, engine
            )
        )
        found[name] = PictureSet(place, wanted.names, wanted.groups)
    if wanted.reference:
        place = folder / REFERENCE
        if engine.is_main and not (place / INDEX).is_file():
            rows = [
                {"file": f"{number:06d}.png", "prompt": example.caption}
                for number, example in enumerate(wanted.reference)
            ]
            keep(place, [reference_picture(one, subject.settings.size) for one in wanted.reference], rows, drawn=False)
        names = tuple(example.name for example in wanted.reference) if wanted.is_paired else ()
        found[REFERENCE] = PictureSet(place, names, wanted.reference_groups)
    return found
