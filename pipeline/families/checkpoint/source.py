"""Where a base model lies, and what it says of itself before any weight is read."""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import hashing
from pipeline.errors import CheckpointError
from pipeline.front_matter import fields_or_nothing
from pipeline.remembered import remembered

INDEX = "model_index.json"


@dataclass(frozen=True)
class ModelSource:
    """A model on this machine: a diffusers folder, or one file of weights with a folder of its configuration."""

    folder: Path  # its configuration, and its weights unless they are in a file
    variant: str | None = None
    file: Path | None = None
    vae: Path | None = None  # an autoencoder to use instead of its own
    cache: Path | None = None  # where the hashes of its files are remembered

    @functools.cached_property
    def index(self) -> dict[str, Any]:
        """What model_index.json says."""
        return read_json(self.folder / INDEX)

    @property
    def pipeline_class(self) -> str:
        """The name of its diffusers pipeline."""
        return str(self.index.get("_class_name"))

    @property
    def denoiser(self) -> str:
        """The part that predicts: 'unet' or 'transformer'."""
        return "unet" if "unet" in self.index else "transformer"

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The text encoders that the model has."""
        return tuple(name for name in self.index if name.startswith("text_encoder") and self.has(name))

    def has(self, part: str) -> bool:
        """Whether the model has a part: a name in the index may stand for nothing."""
        return self.index.get(part, [None])[0] is not None

    def part_config(self, part: str) -> dict[str, Any]:
        """The configuration of one part, read once and without loading it. Raises CheckpointError if it is missing."""
        if part not in self._configs:
            self._configs[part] = self._read_config(part)
        return self._configs[part]

    @functools.cached_property
    def _configs(self) -> dict[str, dict[str, Any]]:
        return {}

    @functools.cached_property
    def built_on_meta(self) -> dict[str, Any]:
        """Its parts as models without weights, where they were built already (families/meta.py)."""
        return {}

    def _read_config(self, part: str) -> dict[str, Any]:
        folder = self.vae if part == "vae" and self.vae is not None else self.folder / part
        for path in (folder / "config.json", folder / f"{part}_config.json"):
            if path.is_file():
                return read_json(path)
        name = f"{part}_config.json" if part == "scheduler" else "config.json"
        raise CheckpointError(f"{self.folder} has no {part}/{name}: the model folder is incomplete.")

    @functools.cached_property
    def card(self) -> dict[str, Any]:
        """The front matter of its README.md; a single file has no card, and that of its configuration is another's."""
        return fields_or_nothing(self.folder / "README.md") if self.file is None else {}

    def fingerprint(self, parts: Collection[str], precision: str = "") -> str:
        """A hash of some parts, wherever they lie: of their files, and of the single file that has the weights."""
        extra = f"{precision} {self.variant}".lstrip()
        with self._hashes() as digest_of:
            if self.file is not None:
                extra += f" {digest_of(self.file)}"
            if self.vae is not None and "vae" in parts:
                extra += f" {hashing.fingerprint_of(self.vae, ['.'], digest_of=digest_of)}"
            return hashing.fingerprint_of(self.folder, parts, extra, digest_of)

    @contextlib.contextmanager
    def _hashes(self) -> Iterator[Callable[[Path], str]]:
        """What gives the hash of a file: gigabytes are read once, not in every start and every process."""
        if self.cache is None:
            yield hashing.digest_of_file
            return
        with remembered(self.cache, os.path.realpath(self.file or self.folder), "hashes", whole=False) as known:
            yield known.digest_of


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file of a model. Raises CheckpointError that names it if it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); download it again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged (it holds no names and values); download it again.")
    return found
