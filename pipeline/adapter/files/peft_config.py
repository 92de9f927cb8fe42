"""PEFT's LoraConfig, beside a file or in its header: what it says of ranks and alphas, and how one is written."""

import math
import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.adapter.names import ALPHA, B, aliases, is_magnitude, pairs

_OTHER_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")  # of init_lora_weights: they change the base too
_OTHER_KIND = (  # fields of PEFT's LoraConfig with which an adapter is something else than B A
    *("use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config", "monteclora_config", "lora_bias"),
    *("layer_replication", "alora_invocation_tokens", "trainable_token_indices", "target_parameters"),
    *("modules_to_save", "fan_in_fan_out"),
)

Patterns = list[tuple[re.Pattern[str], float]]


@dataclass(frozen=True)
class Scaling:
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


def scaling_of(config: dict[str, Any]) -> Scaling:
    """The scaling that a LoraConfig says. Raises ValueError, which names every field that is not understood."""
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
    return Scaling(float(config["r"]), float(config["lora_alpha"]), ranks, alphas, bool(config.get("use_rslora")))


def scalings_of(
    configs: dict[str, dict[str, Any]] | None, tensors: dict[str, Tensor]
) -> tuple[dict[str, Scaling] | None, list[str]]:
    """The scaling of every component of an adapter whose LoraConfigs are given, and what is wrong with those."""
    if configs is None:
        return None, []
    scalings, problems = {}, []
    for component in sorted({name.partition(".")[0] for name in tensors}):
        try:
            scalings[component] = scaling_of(configs.get(component, {}))
        except ValueError as error:
            problems.append(f"the settings of {component}: {error}")
    return scalings, problems


def _fitting(patterns: Patterns, layer: str, otherwise: float) -> float:
    """The value of the first pattern that fits, as PEFT matches them; CLIP's layers have two names."""
    return next((value for pattern, value in patterns if any(map(pattern.match, aliases(layer)))), otherwise)


def scaled(
    tensors: dict[str, Tensor], scalings: dict[str, Scaling] | None
) -> tuple[dict[str, Tensor], dict[str, float], list[str]]:
    """Tensors with their scale taken into B, the alphas (scale times rank) by layer, and what is wrong.

    `scalings` are those of the components; without, a tensor '<component>.<layer>.alpha' may say a layer's.
    """
    result = {name: value for name, value in tensors.items() if not name.endswith(ALPHA)}
    alphas, problems = {}, []
    for name, (a, b) in pairs(tensors).items():
        component, _, layer = name.partition(".")
        try:
            alpha = scalings[component].alpha_of(layer, len(a)) if scalings is not None else float(len(a))
        except ValueError as error:
            problems.append(f"{name} is {error}")
            continue
        if f"{name}{ALPHA}" in tensors:
            alpha = float(tensors[f"{name}{ALPHA}"].item())
        alphas[name] = alpha
        if alpha != len(a):
            result[f"{name}{B}"] = b * (alpha / len(a))
    return result, alphas, problems


def config_of(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The fields of LoraConfig that every version of PEFT knows. The scale is in B, so alpha is the rank."""
    ranks = {name: len(a) for name, (a, _) in pairs(tensors).items()}
    usual = commonest(list(ranks.values()))
    others = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": "|".join(re.escape(name) for name in sorted(ranks)),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": any(is_magnitude(name) for name in tensors),
    }


def commonest(values: list[Any]) -> Any:
    """The value that occurs most often; of several the smallest."""
    return max(sorted(set(values)), key=values.count)
