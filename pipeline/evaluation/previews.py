"""Pictures kept on disk with all that is needed to make them again: prompt, seed, guidance, steps, strength."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline import atomic
from pipeline.adapter.adapted import Adapted
from pipeline.evaluation import png_metadata
from pipeline.evaluation.sample import Sampler, Shot

INDEX = "index.json"
GRID = "grid"  # a folder of samples/
STRENGTHS = (0.0, 0.5, 1.0, 1.5)  # of the adapter, across the grid; 0 is the base
GUIDANCE_FACTORS = (0.5, 1.0, 2.0)  # of the run's guidance, down the grid; never below 1, which is none
GOLDEN = 0.618033988749895  # its multiples fill a range evenly and meet no period in it


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, in their order, from all over them, whatever kind comes back at regular steps."""
    if len(items) <= most:
        return list(items)
    places = dict.fromkeys(int(number * GOLDEN % 1 * len(items)) for number in range(len(items)))
    return [items[place] for place in sorted(list(places)[:most])]


@dataclass(frozen=True)
class Previews:
    """Draws the same shots with the adapter off and on, so that they differ in nothing but the adapter."""

    folder: Path  # OUT/samples
    sampler: Sampler
    adapted: Adapted
    shots: tuple[Shot, ...]

    def draw_base(self) -> Path:
        """The shots of the base model, drawn once."""
        folder, rows = self.folder / "base", index_of(self.shots, self.sampler)
        if not is_kept(folder, rows):
            keep(folder, self.base_pictures(list(self.shots)), rows, drawn=True)
        return folder

    def draw_tuned(self, step: int) -> Path:
        """The shots with the adapter as it is after `step` steps."""
        folder, rows = self.folder / f"step-{step:06d}", index_of(self.shots, self.sampler)
        if not is_kept(folder, rows):
            keep(folder, self.sampler.draw(list(self.shots)), rows, drawn=True)
        return folder

    def draw_grid(self) -> Path:
        """The first shot at several strengths of the adapter and several guidance scales."""
        guidance = self.sampler.settings.guidance_scale
        pictures: list[Image.Image] = []
        rows: list[dict[str, Any]] = []
        for scale in dict.fromkeys(max(1.0, factor * guidance) for factor in GUIDANCE_FACTORS):
            sampler = self.sampler.with_guidance(scale)
            for strength in STRENGTHS:
                with self.adapted.at_strength(strength):
                    pictures += sampler.draw([self.shots[0]])
                rows += [{**row, "strength": strength} for row in index_of(self.shots[:1], sampler)]
        rows = [{**row, "file": f"{number:04d}.png"} for number, row in enumerate(rows)]
        keep(self.folder / GRID, pictures, rows, drawn=True)
        return self.folder / GRID

    def base_pictures(self, shots: list[Shot]) -> list[Image.Image]:
        """Any shots with the adapter off."""
        with self.adapted.switched_off():
            return self.sampler.draw(shots)


def keep(folder: Path, pictures: list[Image.Image], rows: list[dict[str, Any]], *, drawn: bool) -> None:
    """Write pictures as PNG under the names in their rows, and the rows; the folder appears complete or not at all.

    Pictures that were drawn by a model are marked as such.
    """

    def fill(aside: Path) -> None:
        for picture, row in zip(pictures, rows, strict=True):
            if drawn:
                png_metadata.save_marked(picture, aside / row["file"])
            else:
                picture.save(aside / row["file"])
        atomic.write_text(aside / INDEX, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")

    atomic.commit_folder(folder, fill)


def index_of(shots: "list[Shot] | tuple[Shot, ...]", sampler: Sampler) -> list[dict[str, Any]]:
    """One row per picture: its file, and all that is needed to make it again."""
    settings = {name: value for name, value in asdict(sampler.settings).items() if value is not None}
    return [{"file": f"{number:04d}.png", **asdict(shot), **settings} for number, shot in enumerate(shots)]


def is_kept(folder: Path, rows: list[dict[str, Any]]) -> bool:
    """Whether these very pictures lie in the folder already."""
    path = folder / INDEX
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == rows


def forget_after(samples: Path, step: int) -> None:
    """Remove what was drawn with weights that a run going on from `step` will not have again; from 0, everything."""
    if step == 0 and samples.is_dir():
        atomic.remove_folder(samples)
    for folder in samples.glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            atomic.remove_folder(folder)


def kept(folder: Path) -> list[dict[str, Any]]:
    """The index of a folder of pictures, each row with the path of its file."""
    rows = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return [{**row, "path": folder / row["file"]} for row in rows]
