"""Arithmetic on canonical adapters: their strength, their sum, smaller ranks. The full matrix is never formed.

B A of a layer is outputs x inputs and has rank r at most. With B = Q S and A^T = P T (QR), it is
Q (S T^T) P^T: the small matrix in the middle has its singular values and its norm. All of this is done
in float64. Of a convolution, A holds the kernel: [r, inputs, height, width], and B is [outputs, r, 1, 1].
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.errors import CheckpointError, ConfigError, listed

A, B, MAGNITUDE, ALPHA = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector", ".alpha"
_OTHER_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")  # of init_lora_weights: they change the base too
_OTHER_KIND = (  # fields of PEFT's LoraConfig with which an adapter is something else than B A
    *("use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config", "monteclora_config", "lora_bias"),
    *("layer_replication", "alora_invocation_tokens", "trainable_token_indices", "target_parameters"),
    *("modules_to_save", "fan_in_fan_out"),
)

Patterns = list[tuple[re.Pattern[str], float]]


@dataclass(frozen=True)
class Strength:
    """What a LoraConfig of PEFT says of ranks and alphas."""

    rank: float
    alpha: float
    ranks: Patterns  # of layers' names; the first that fits counts
    alphas: Patterns
    root: bool  # alpha / sqrt(rank) instead of alpha / rank (rsLoRA)

    def alpha_of(self, layer: str, rank: int) -> float:
        """Scale times rank for one layer. Raises ValueError where the layer has another rank than it should."""
        expected = _fitting(self.ranks, layer, self.rank)
        if expected != rank:
            raise ValueError(f"of rank {rank}, but its settings say {expected:g}")
        return _fitting(self.alphas, layer, self.alpha) * (math.sqrt(rank) if self.root else 1.0)


def strength_of(config: dict[str, Any]) -> Strength:
    """The strength that a LoraConfig says. Raises ValueError, which names every field that is not understood."""
    wrong = [f"{field} is set" for field in _OTHER_KIND if config.get(field)]
    if str(config.get("init_lora_weights")).startswith(_OTHER_BASE):
        wrong.append(f"init_lora_weights is {config['init_lora_weights']}, which changes the base as well")
    if config.get("bias") not in (None, "none"):
        wrong.append(f"bias is {config['bias']!r}")
    numbers = {field: config.get(field) for field in ("r", "lora_alpha")}
    patterns = {field: config.get(field) or {} for field in ("rank_pattern", "alpha_pattern")}
    compiled: dict[str, list[tuple[re.Pattern[str], Any]]] = {}
    for field, pattern in patterns.items():
        try:
            compiled[field] = [(re.compile(rf"(.*\.)?({layer})$"), value) for layer, value in pattern.items()]
            numbers |= {f"{field} of {layer}": value for layer, value in pattern.items()}
        except (re.error, AttributeError) as error:
            wrong.append(f"{field} is no table of patterns ({error})")
    for field, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value == 0:
            wrong.append(f"{field} is {value!r}, but must be a number that is not 0")
    if wrong:
        raise ValueError("; ".join(wrong))
    ranks, alphas = ([(p, float(v)) for p, v in compiled[field]] for field in ("rank_pattern", "alpha_pattern"))
    return Strength(float(config["r"]), float(config["lora_alpha"]), ranks, alphas, bool(config.get("use_rslora")))


def strengths_of(
    configs: dict[str, dict[str, Any]] | None, tensors: dict[str, Tensor]
) -> tuple[dict[str, Strength] | None, list[str]]:
    """The strength of every component of an adapter whose LoraConfigs are given, and what is wrong with those."""
    if configs is None:
        return None, []
    strengths, problems = {}, []
    for component in sorted({name.partition(".")[0] for name in tensors}):
        try:
            strengths[component] = strength_of(configs.get(component, {}))
        except ValueError as error:
            problems.append(f"the settings of {component}: {error}")
    return strengths, problems


def _fitting(patterns: Patterns, layer: str, otherwise: float) -> float:
    """The value of the first pattern that fits, as PEFT matches them; CLIP's layers have two names."""
    names = {layer, f"text_model.{layer}", layer.removeprefix("text_model.")}
    return next((value for pattern, value in patterns if any(map(pattern.match, names))), otherwise)


def scaled(
    tensors: dict[str, Tensor], strengths: dict[str, Strength] | None
) -> tuple[dict[str, Tensor], dict[str, float], list[str]]:
    """Tensors with their strength taken into B, the alphas (scale times rank) by layer, and what is wrong.

    `strengths` are those of the components; without, a tensor '<component>.<layer>.alpha' may say a layer's.
    """
    result = {name: value for name, value in tensors.items() if not name.endswith(ALPHA)}
    alphas, problems = {}, []
    for name, (a, b) in pairs(tensors).items():
        component, _, layer = name.partition(".")
        try:
            alpha = strengths[component].alpha_of(layer, len(a)) if strengths is not None else float(len(a))
        except ValueError as error:
            problems.append(f"{name} is {error}")
            continue
        if f"{name}{ALPHA}" in tensors:
            alpha = float(tensors[f"{name}{ALPHA}"].item())
        alphas[name] = alpha
        if alpha != len(a):
            result[f"{name}{B}"] = b * (alpha / len(a))
    return result, alphas, problems


def misfits(tensors: dict[str, Tensor]) -> list[str]:
    """What keeps tensors from being whole pairs of A and B of one rank, each layer of a component of one kind."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind = next(kind for kind in (A, B, MAGNITUDE, ALPHA) if key.endswith(kind))
        found.setdefault(key.removesuffix(kind), {})[kind] = value
    dora = {name.partition(".")[0] for name, parts in found.items() if MAGNITUDE in parts}
    return [
        f"{name}: {problem}"
        for name, parts in found.items()
        if (problem := _misfit(parts, whole_dora=name.partition(".")[0] in dora))
    ]


def unlike(a: Tensor, b: Tensor, name: str, shape: tuple[int, ...] | None) -> str | None:
    """How a layer's A and B differ from those of a base weight of a shape, in words; None: they fit."""
    if shape is None or min(a.ndim, b.ndim) < 2:
        return None
    own_kernel, kernel = (" x ".join(map(str, sides)) or "no" for sides in (a.shape[2:], shape[2:]))
    sizes = ("inputs", a.shape[1], shape[1]), ("outputs", len(b), shape[0]), ("kernel", own_kernel, kernel)
    for what, own, expected in sizes:
        if own != expected:
            return f"it has {own} {what} at {name} where this base has {expected}"
    return None


def _misfit(parts: dict[str, Tensor], *, whole_dora: bool) -> str | None:
    missing = [kind.removeprefix(".") for kind in (A, B) if kind not in parts]
    if missing:
        return f"lacks its {' and its '.join(missing)}"
    a, b = parts[A], parts[B]
    if a.ndim not in (2, 4) or b.ndim != a.ndim or b.shape[1] != a.shape[0] or b.shape[2:].numel() != 1:
        return f"B of {list(b.shape)} does not fit A of {list(a.shape)}"
    if whole_dora != (MAGNITUDE in parts):
        return "has no magnitude, which other layers have (DoRA)"
    if MAGNITUDE in parts and parts[MAGNITUDE].numel() != len(b):
        return f"{parts[MAGNITUDE].numel()} magnitudes do not fit {len(b)} outputs"
    alpha = parts.get(ALPHA, torch.ones(()))
    if alpha.numel() != 1 or not math.isfinite(alpha.item()) or alpha.item() == 0:
        return "alpha must be one number that is not 0"
    return None


def pairs(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every layer of a canonical adapter, by '<component>.<layer>'."""
    names = [name.removesuffix(A) for name in tensors if name.endswith(A)]
    return {name: (tensors[f"{name}{A}"], tensors[f"{name}{B}"]) for name in names}


def norm(a: Float[Tensor, "r i *kernel"], b: Float[Tensor, "o r *ones"]) -> float:
    """The Frobenius norm of B A."""
    _, s = torch.linalg.qr(b.detach().double().flatten(1), mode="r")
    _, t = torch.linalg.qr(a.detach().double().flatten(1).T, mode="r")
    return float((s @ t.T).norm())


def distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """The norm of B A of one adapter's layer minus that of another's."""
    (a, b), (other_a, other_b) = first, second
    return norm(torch.cat([a.double(), other_a.double()]), torch.cat([b.double(), -other_b.double()], dim=1))


def merged(parts: Sequence[tuple[dict[str, Tensor], float]]) -> dict[str, Tensor]:
    """The weighted sum of canonical adapters, exactly: ranks add up, and B carries the weights.

    Layers that only some adapters have are kept; an adapter of weight 0 has no part in it. The result is in
    float32 at least. Raises ConfigError for weights that make no sum and for DoRA, CheckpointError for
    adapters of different models.
    """
    _refuse_dora([tensors for tensors, _ in parts], "a sum of DoRA adapters is no adapter")
    if not all(math.isfinite(weight) for _, weight in parts) or not any(weight for _, weight in parts):
        given = ", ".join(f"{weight:g}" for _, weight in parts)
        raise ConfigError(f"The weights {given} make no sum; give numbers that are not all 0, as in 0.7.")
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for tensors, weight in parts:
        for name, (a, b) in pairs(tensors).items() if weight else ():
            wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
            found.setdefault(name, []).append((a.to(wide), b.to(wide) * weight))
    problems = [problem for name, several in found.items() for problem in _of_two_sizes(name, several)]
    if problems:
        raise CheckpointError(f"These adapters are for different models:\n{listed(problems)}")
    total = {}
    for name, several in found.items():
        total[f"{name}{A}"] = torch.cat([a for a, _ in several])
        total[f"{name}{B}"] = torch.cat([b for _, b in several], dim=1)
    return total


def resized(tensors: dict[str, Tensor], rank: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The canonical adapter nearest to another with no layer above `rank` (Eckart and Young 1936).

    Also how much of each layer is lost, by '<component>.<layer>': ||B A - B' A'|| / ||B A||, Frobenius norms.
    A layer that is small enough stays bit for bit what it was. Raises ConfigError for a rank below 1 and for DoRA.
    """
    if rank < 1:
        raise ConfigError(f"--rank {rank} must be at least 1.")
    _refuse_dora([tensors], "what a smaller rank loses of it depends on the base model")
    result, errors = dict(tensors), {}
    for name, (a, b) in pairs(tensors).items():
        errors[name] = 0.0
        if len(a) > rank:
            result[f"{name}{A}"], result[f"{name}{B}"], errors[name] = _truncated(a, b, rank)
    return result, errors


def _truncated(
    a: Float[Tensor, "r i *kernel"], b: Float[Tensor, "o r *ones"], rank: int
) -> tuple[Tensor, Tensor, float]:
    """A and B of a smaller rank, the singular values shared out evenly, and the relative error."""
    q, s = torch.linalg.qr(b.detach().double().flatten(1))
    p, t = torch.linalg.qr(a.detach().double().flatten(1).T)
    u, sigma, v = torch.linalg.svd(s @ t.T, full_matrices=False)
    whole, lost = float(sigma.norm()), float(sigma[rank:].norm())
    root = sigma[:rank].sqrt()
    small_a, small_b = root[:, None] * (v[:rank] @ p.T), (q @ u[:, :rank]) * root
    return (
        small_a.reshape(-1, *a.shape[1:]).to(a.dtype),
        small_b.reshape(len(b), -1, *b.shape[2:]).to(b.dtype),
        lost / whole if whole else 0.0,
    )


def _refuse_dora(adapters: Sequence[dict[str, Tensor]], reason: str) -> None:
    names = [name for tensors in adapters for name in tensors if name.endswith(MAGNITUDE)]
    if names:
        raise ConfigError(
            f"DoRA scales the base and the addition together, so {reason}; give adapters without it. It is in "
            f"{len(names)} layers, such as {names[0].removesuffix(MAGNITUDE)}."
        )


def _of_two_sizes(name: str, several: list[tuple[Tensor, Tensor]]) -> list[str]:
    """What is wrong where one layer's A and B have other sizes in another adapter."""
    shapes = [(b.shape[0], *a.shape[1:]) for a, b in several]
    if len(set(shapes)) == 1:
        return []
    return [f"{name}: weights of {' and '.join(str(list(shape)) for shape in dict.fromkeys(shapes))}"]
