"""Pictures kept on disk with all that is needed to make them again: prompt, seed, guidance, steps."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline import durable
from pipeline.adapter import lora
from pipeline.evaluation.sample import Sampler, Shot

INDEX = "index.json"


@dataclass(frozen=True)
class Previews:
    """Draws the same shots with the adapter off and on, so that they differ in nothing but the adapter."""

    folder: Path  # OUT/samples
    sampler: Sampler
    denoiser: Any
    shots: tuple[Shot, ...]

    def draw_base(self) -> Path:
        """The shots of the base model, drawn once."""
        folder = self.folder / "base"
        if not is_kept(folder, list(self.shots), self.sampler):
            keep(folder, self.base_pictures(list(self.shots)), list(self.shots), self.sampler)
        return folder

    def draw_tuned(self, step: int) -> Path:
        """The shots with the adapter as it is after `step` steps."""
        folder = self.folder / f"step-{step:06d}"
        if not is_kept(folder, list(self.shots), self.sampler):
            keep(folder, self.sampler.draw(list(self.shots)), list(self.shots), self.sampler)
        return folder

    def base_pictures(self, shots: list[Shot]) -> list[Image.Image]:
        """Any shots with the adapter off."""
        with lora.switched_off(self.denoiser):
            return self.sampler.draw(shots)


def keep(folder: Path, pictures: list[Image.Image], shots: list[Shot], sampler: Sampler) -> None:
    """Write pictures as PNG and their index; the folder appears complete or not at all."""

    rows = index_of(shots, sampler)

    def fill(aside: Path) -> None:
        for picture, row in zip(pictures, rows, strict=True):
            picture.save(aside / row["file"])
        durable.write_text(aside / INDEX, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")

    durable.commit_folder(folder, fill)


def index_of(shots: list[Shot], sampler: Sampler) -> list[dict[str, Any]]:
    """One row per picture: its file, and all that is needed to make it again."""
    settings = asdict(sampler.settings)
    return [{"file": f"{number:04d}.png", **asdict(shot), **settings} for number, shot in enumerate(shots)]


def is_kept(folder: Path, shots: list[Shot], sampler: Sampler) -> bool:
    """Whether these very pictures lie in the folder already."""
    path = folder / INDEX
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == index_of(shots, sampler)


def kept(folder: Path) -> list[dict[str, Any]]:
    """The index of a folder of pictures, each row with the path of its file."""
    rows = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return [{**row, "path": folder / row["file"]} for row in rows]
