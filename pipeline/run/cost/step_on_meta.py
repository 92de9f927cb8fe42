"""A training step without values: the real models of the real configuration, the real loss, nothing computed.

Every tensor has a shape and no memory, so what a step of a model takes that fits nowhere is counted in seconds, on any
machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.adapter import dropout, lora
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.denoiser import AdaptedDenoiser
from pipeline.adapter.layers import TargetModule
from pipeline.adapter.quantized import quantize
from pipeline.adapter.streamed import bytes_there
from pipeline.conditioning import Conditioning
from pipeline.config import Run
from pipeline.families.base import Family
from pipeline.families.meta import build_on_meta
from pipeline.geometry import Size, whole
from pipeline.objective.building import build_objective
from pipeline.objective.objective import Beside, Objective
from pipeline.objective.paths import DiffusionPath
from pipeline.run.cost.counting import Counting, attention_of

META = torch.device("meta")
Chosen = Mapping[str, list[TargetModule]]  # the layers to adapt of each model; the denoiser comes first
Sizes = list[tuple[int, ...]]


@dataclass(frozen=True)
class StepCount:
    """What one micro-step takes, by counting."""

    frozen_bytes: int  # of the models' weights and buffers, as they lie on the device
    trainable: Sizes  # the shapes of the adapter's tensors, float32 each
    step_bytes: int  # at most alive in forward and backward pass beside all weights
    num_flops: int
    num_kernels: int  # launches, about: of the optimizer's step none

    @property
    def num_trainable(self) -> int:
        """The adapter's weights."""
        return sum(torch.Size(shape).numel() for shape in self.trainable)


@dataclass(frozen=True)
class StepShape:
    """What the count depends on, beside the run."""

    size: Size  # of the pictures
    batch_size: int
    dtype: torch.dtype  # of the frozen weights
    device: str  # 'cpu' or 'cuda', which save other things of attention, or 'meta' for what has to be computed at least
    checkpointing: bool


def count_step(run: Run, family: Family, path: DiffusionPath, chosen: Chosen, shape: StepShape) -> StepCount:
    """Forward and backward pass of one micro-batch, counted."""
    models = {part: _adapted(family, part, run, modules, shape) for part, modules in chosen.items()}
    weights = [value for model in models.values() for value in (*model.parameters(), *model.buffers())]
    trainable = [value for value in weights if value.requires_grad]
    frozen_bytes = sum(_frozen_bytes(model, part == family.denoiser, run) for part, model in models.items())
    batch = MicroBatch.of(run, family, shape)
    objective = build_objective(run.objective, path, family.num_tokens(batch.latents), device=META)
    denoiser = AdaptedDenoiser(family, AdaptedModels(models), shape.dtype)
    counting = Counting(weights)
    before = counting.live_bytes
    with attention_of(shape.device), counting, META:
        _step(run, denoiser, objective, batch, shape)
    found = StepCount(
        frozen_bytes,
        [tuple(value.shape) for value in trainable],
        counting.peak_bytes - before,
        counting.num_flops,
        counting.num_kernels,
    )
    for value in trainable:
        value.grad = None
    return found


def _frozen_bytes(model: Any, is_denoiser: bool, run: Run) -> int:
    """What lies on the device of a model that learns nothing itself."""
    if is_denoiser and run.train.offload_base:
        return bytes_there(model)
    return sum(value.nbytes for value in (*model.parameters(), *model.buffers()) if not value.requires_grad)


@dataclass(frozen=True)
class MicroBatch:
    """The tensors of a micro-batch."""

    latents: Tensor
    noise: Tensor
    perturbed: Tensor | None
    u: Tensor
    mask: Tensor | None
    weights: Tensor | None

    @classmethod
    def of(cls, run: Run, family: Family, shape: StepShape) -> "MicroBatch":
        """A batch on the meta device."""
        count, latents = shape.batch_size, family.latent_shape(shape.size)
        with META:
            return cls(
                latents=torch.empty(count, *latents),
                noise=torch.empty(count, *latents),
                perturbed=torch.empty(count, *latents) if run.objective.input_perturbation else None,
                u=torch.empty(count, dtype=torch.float64),
                mask=torch.empty(count, 1, *latents[1:]) if run.data.has_masks else None,
                weights=torch.empty(count),
            )


def _adapted(family: Family, part: str, run: Run, chosen: list[TargetModule], shape: StepShape) -> Any:
    """A model with an adapter on it, as `build.load_models` makes it, on the meta device."""
    model = build_on_meta(family.source, part)
    nn.Module.to(model, dtype=shape.dtype)  # without diffusers' remarks
    if shape.checkpointing:
        enable = "enable_gradient_checkpointing" if part == family.denoiser else "gradient_checkpointing_enable"
        getattr(model, enable)()
    if part == family.denoiser and run.train.base_quantization is not None:
        quantize(model, run.train.base_quantization, META)
    with META:
        lora.attach(model, run.adapter, chosen, seed=None)
        model.train()
        for layer in dropout.installed(model):
            layer.seeds = torch.empty(shape.batch_size, dtype=torch.int64)
    return model


def _step(run: Run, denoiser: AdaptedDenoiser, objective: Objective, batch: MicroBatch, shape: StepShape) -> None:
    conditioning = _conditioning(denoiser.family, denoiser.adapted.models, shape)
    is_guided = run.objective.guided_target is not None
    beside = Beside(
        conditioning if run.objective.preservation_weight else None,
        conditioning if is_guided else None,
        torch.empty(shape.batch_size) if is_guided else None,
    )
    losses = objective(denoiser, batch, conditioning, beside)
    (losses.sum() / shape.batch_size).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _conditioning(family: Family, models: Mapping[str, Any], shape: StepShape) -> Conditioning:
    """Prompt embeddings in their full length; those of text encoders that learn have these behind them."""
    rows = {
        **family.text_shapes,
        **{name: value.shape for name, value in family.size_states(whole(shape.size)).items()},
    }
    found: dict[str, Tensor] = {}
    for name, row in rows.items():
        if "mask" in name:  # its values are looked at
            found[name] = torch.ones(shape.batch_size, *row, dtype=torch.int64, device="cpu")
        else:
            found[name] = torch.empty(shape.batch_size, *row, dtype=shape.dtype)
    for part, model in models.items():
        if part != family.denoiser:
            tokens = int(family.part_config(part)["max_position_embeddings"])
            ids = torch.empty(shape.batch_size * family.num_chunks, tokens, dtype=torch.int64)
            states = model(ids, output_hidden_states=True).last_hidden_state
            found["prompt_embeds"] = found["prompt_embeds"] + states.mean()
    return Conditioning(found)
