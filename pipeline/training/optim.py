"""The optimizers by name. What each keeps is saved as it is, so every one of them resumes exactly."""

import contextlib
import io
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from pipeline import put_off
from pipeline.training.options import OptimOptions

Groups = list[dict[str, Any]]


def grouped(named: Mapping[str, nn.Parameter], options: OptimOptions, denoiser: str) -> dict[str, nn.Parameter]:
    """The tensors in the order of their learning rates' factors, which is that of the optimizer's groups."""
    return dict(sorted(named.items(), key=lambda item: options.factor_of(item[0], denoiser)))


def build_optimizer(named: Mapping[str, nn.Parameter], options: OptimOptions, denoiser: str = "") -> Optimizer:
    """The optimizer that the options name, on the adapter's float32 weights as `grouped` orders them.

    Each group has a "factor", by which its learning rate differs from the schedule's.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, value in named.items():
        groups.setdefault(options.factor_of(name, denoiser), []).append(value)
    parts = [
        {"params": values, "factor": factor, "lr": options.peak_rate * factor} for factor, values in groups.items()
    ]
    found: Optimizer = BUILDERS[options.optimizer_name](parts, options)
    return found


def averages_itself(optimizer: Optimizer) -> bool:
    """Whether the weights to export are an average that the optimizer keeps (Defazio et al. 2024)."""
    return "train_mode" in optimizer.param_groups[0]


def adapted_rate(optimizer: Optimizer) -> float | None:
    """What Prodigy makes of the learning rate, for metrics.jsonl; None for the others."""
    group = optimizer.param_groups[0]
    return float(group["d"] * group["lr"]) if "d" in group else None


def _adamw(parameters: Groups, options: OptimOptions) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019)."""
    return AdamW(parameters, eps=options.adam_epsilon, **_common(options))


def _adamw_8bit(parameters: Groups, options: OptimOptions) -> Optimizer:
    """AdamW with moments in blocks of eight bits (Dettmers et al. 2022)."""
    put_off.show("bitsandbytes")
    import bitsandbytes

    found: Optimizer = bitsandbytes.optim.AdamW8bit(parameters, eps=options.adam_epsilon, **_common(options))
    return found


def _prodigy(parameters: Groups, options: OptimOptions) -> Optimizer:
    """Prodigy (Mishchenko & Defazio 2024), with the settings its authors advise for diffusion models."""
    import prodigyopt

    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it was asked for
        found: Optimizer = prodigyopt.Prodigy(
            parameters,
            eps=options.adam_epsilon,
            use_bias_correction=True,
            safeguard_warmup=True,
            **_common(options),
        )
    return found


def _adafactor(parameters: Groups, options: OptimOptions) -> Optimizer:
    """Adafactor (Shazeer & Stern 2018) at a given learning rate: B starts at zero, so nothing may scale with it."""
    from transformers.optimization import Adafactor

    return Adafactor(  # type: ignore[no-any-return]  # transformers is not typed
        parameters,
        lr=options.peak_rate,
        weight_decay=options.adam_weight_decay,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
    )


def _schedule_free(parameters: Groups, options: OptimOptions) -> Optimizer:
    """Schedule-free AdamW (Defazio et al. 2024)."""
    import schedulefree

    found = schedulefree.AdamWScheduleFree(parameters, eps=options.adam_epsilon, **_common(options))
    found.train()
    optimizer: Optimizer = found
    return optimizer


def _common(options: OptimOptions) -> dict[str, Any]:
    return {
        "lr": options.peak_rate,
        "betas": (options.adam_beta1, options.adam_beta2),
        "weight_decay": options.adam_weight_decay,
    }


BUILDERS = {
    "adamw": _adamw,
    "adamw_8bit": _adamw_8bit,
    "prodigy": _prodigy,
    "adafactor": _adafactor,
    "adamw_schedule_free": _schedule_free,
}
