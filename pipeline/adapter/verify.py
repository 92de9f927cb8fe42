"""Proof that the file works where its users load it: read back by the stock loader, compared with the live adapter."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from pipeline.adapter import lora
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files.checks import tensor_problems
from pipeline.errors import TrainingStopped, listed
from pipeline.families.base import Family
from pipeline.hashing import digest_of_file

LOADED = "verified"


@dataclass(frozen=True)
class VerificationResult:
    """How far the reloaded adapter is from the live one, relative to what the adapter does."""

    error: float  # ||live - reloaded|| / ||live - base||
    effect: float  # ||live - base|| / ||base||
    num_layers: int
    file: str | None = None  # hash of the file; None where an earlier version looked at it


def verify(
    file: Path, family: Family, adapted: AdaptedModels, *, predict: Callable[[], Tensor], tolerance: float
) -> VerificationResult:
    """Load `file` with diffusers' own loader onto the live models and compare predictions.

    `predict` runs them on fixed inputs. Raises TrainingStopped naming what is wrong: a tensor that is
    not finite, a B that is zero, a layer that did not load, a different prediction.
    """
    if problems := tensor_problems(load_file(file)):
        raise TrainingStopped(f"The adapter failed verification and was not exported:\n{listed(problems)}")
    with adapted.evaluating():
        live = predict()
        with adapted.disabled():
            base = predict()
        try:
            _load(file, family, adapted)
            for model in adapted.models.values():
                model.set_adapter(LOADED)
            reloaded = predict()
        finally:
            for model in adapted.models.values():
                lora.activate(model)
                if LOADED in model.peft_config:
                    lora.remove(model, LOADED)
    effect = (live - base).norm().item()
    error = (live - reloaded).norm().item() / max(effect, 1e-12)
    if not error <= tolerance:
        raise TrainingStopped(
            f"{file} does not hold the adapter that was trained: reloaded, it is {error:.2g} of the adapter's own "
            f"effect away (allowed: {tolerance:g}). The checkpoints of the run hold the trained weights."
        )
    return VerificationResult(error, effect / base.norm().item(), len(adapted.layers()), digest_of_file(file))


@contextlib.contextmanager
def _as_stopped(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the loader stumbles over, its users would stumble over too
        raise TrainingStopped(f"{file} cannot be loaded by diffusers: {type(error).__name__}: {error}") from error


def _load(file: Path, family: Family, adapted: AdaptedModels) -> None:
    with warnings.catch_warnings(), _as_stopped(file):
        warnings.simplefilter("error")  # what the loader only warns of means a wrong file to us
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # that is the trained adapter
        stock = family.load()
        stock.register_modules(**adapted.models)
        stock.load_lora_weights(
            file.parent,
            weight_name=file.name,
            adapter_name=LOADED,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
        )
    expected, loaded = adapted.layers(), adapted.layers(LOADED)
    problems = [f"{name}: trained, but not in the file" for name in sorted(expected - loaded)]
    problems += [f"{name}: in the file, but not trained" for name in sorted(loaded - expected)]
    problems += [
        f"{component}.{name}: left without a value (on the meta device)"
        for component, model in adapted.models.items()
        for name, value in model.named_parameters()
        if value.is_meta and LOADED in name.split(".")
    ]
    if problems:
        raise TrainingStopped(f"{file} does not load completely:\n{listed(problems)}")
