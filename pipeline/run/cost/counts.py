"""Steps of a run, counted once for each shape: what was counted is remembered beside the encoded examples."""

import dataclasses
import functools
import json
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Run
from pipeline.families.base import Family
from pipeline.families.meta import on_meta, part_on_meta
from pipeline.hashing import digest
from pipeline.objective.paths import DiffusionPath
from pipeline.remembered import cache_folder, remembered, signature_of
from pipeline.run.cost.step_on_meta import Chosen, StepCount, StepShape, count_step

CODE = ("adapter", "families", "objective", "run/cost")  # of this package, by which a count may change
UPCAST = torch.float32  # of an autoencoder that overflows in half precision


@dataclasses.dataclass(frozen=True)
class Counts:
    """What the steps of one run take, by their shape."""

    run: Run
    family: Family
    path: DiffusionPath
    chosen: Chosen

    def step(self, shape: StepShape) -> StepCount:
        """A step of this shape; counting takes about a second for a large model, the first time."""
        with remembered(self._cache, self._place, self._kind, whole=False) as known:
            name = self._name(shape)
            found = known.recall(name, [])
            if found is None:
                found = dataclasses.asdict(count_step(self.run, self.family, self.path, self.chosen, shape))
                known.keep(name, [], found)
        return StepCount(**{**found, "trainable": [tuple(size) for size in found["trainable"]]})

    def is_known(self, shape: StepShape) -> bool:
        """Whether this step was counted already."""
        with remembered(self._cache, self._place, self._kind, whole=False) as known:
            return known.recall(self._name(shape), []) is not None

    def frozen_bytes(self, dtype: torch.dtype) -> int:
        """The weights that lie still while it trains; no step is counted for it."""
        adapted = on_meta(self.family, list(self.chosen)[1:]).values()
        return sum(map(num_weights, adapted)) * dtype.itemsize + self.reading_bytes(dtype)

    def decoder_bytes(self, dtype: torch.dtype) -> int:
        """What turns latents into pictures, which lies beside the denoiser for previews."""
        vae = part_on_meta(self.family.source, "vae")
        return (num_weights(vae) - num_weights(vae.encoder)) * dtype.itemsize

    def encoding_bytes(self, dtype: torch.dtype) -> int:
        """Autoencoder and text encoders, which are there before the denoiser is loaded and gone then."""
        upcast = self.family.part_config("vae").get("force_upcast", False)
        vae = num_weights(part_on_meta(self.family.source, "vae")) * (UPCAST if upcast else dtype).itemsize
        return self._text_bytes(dtype) + vae

    def reading_bytes(self, dtype: torch.dtype) -> int:
        """Text encoders that carry no adapter and stay all the same: where one learns, all read in each step."""
        return self._text_bytes(dtype, without=self.chosen) if len(self.chosen) > 1 else 0

    def _text_bytes(self, dtype: torch.dtype, without: Container[str] = ()) -> int:
        source = self.family.source
        names = [name for name in self.family.encoders if name in source.text_encoders and name not in without]
        return sum(num_weights(part_on_meta(source, name)) for name in names) * dtype.itemsize

    @property
    def _cache(self) -> Path:
        return cache_folder(self.run.data.cache_dir)

    @property
    def _place(self) -> str:
        """Runs of other models do not wait while one of this model is counted."""
        return str(self.family.source.folder)

    @functools.cached_property
    def _kind(self) -> str:
        """What counts it: the code here and the libraries."""
        root = Path(__file__).parents[2]
        files = sorted(path for part in CODE for path in (root / part).rglob("*.py"))
        return "steps " + digest(
            json.dumps([_libraries(), [(str(path), signature_of(path)) for path in files]]).encode()
        )

    def _name(self, shape: StepShape) -> str:
        family = self.family
        layers = {
            part: [(site.name, site.rank, site.use_dora, site.prefix) for site in modules]
            for part, modules in self.chosen.items()
        }
        configs = {part: family.part_config(part) for part in (*self.chosen, "scheduler")}
        facts: Any = (
            family.name,
            repr(family.options),
            configs,
            layers,
            repr(self.run.adapter),
            repr(self.run.objective),
            self.run.data.has_masks,
            self.run.train.base_quantization,
            self.run.train.offload_base,
            repr(shape),
        )
        return digest(json.dumps(facts, sort_keys=True, default=repr).encode())


def num_weights(model: Any) -> int:
    """All the weights and buffers of a model."""
    return sum(value.numel() for value in (*model.parameters(), *model.buffers()))


@functools.cache
def _libraries() -> list[str]:
    from importlib.metadata import version

    return [version(name) for name in ("torch", "diffusers", "peft", "transformers")]
