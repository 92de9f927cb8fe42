"""Options of the adapter."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigError, out_of_bounds

Quantization = Literal["nf4", "int8", "fp8"]  # what layers of a frozen base are kept in

# What an adapter to start from has decided already.
SHAPING = ("lora_alpha", "lora_layers", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_init")


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """What is trained: a low-rank addition to chosen layers of the denoiser (Hu et al. 2021)."""

    init_lora: str | None = None
    """An adapter to start from: a file or folder of diffusers, kohya or PEFT. Its layers, ranks and alphas are kept. To
    go on with a run of your own there is --resume_from_checkpoint."""

    rank: int = 16
    """Rank of each addition."""

    lora_alpha: float | None = None
    """The addition is scaled by lora_alpha / rank. Not given: equal to the rank, so scaled by 1."""

    lora_layers: str = "attention+mlp"
    """Which layers to adapt, comma-separated: attention, attention+mlp, all-linear, all-linear+conv, condition_only
    (keys and values of the text), or ends of layers' names, * for anything, as in 'to_q,mid_block.*'."""

    train_text_encoder: bool = False
    """Adapt the CLIP text encoders too. Prompt embeddings are then computed in every step, not cached."""

    text_encoder_layers: Literal["attention", "attention+mlp"] = "attention"
    """Which layers of the text encoders to adapt."""

    rank_pattern: str | None = None
    """Other ranks for some layers, as in 'attn2.to_k=8,mid_block.*=32'; of several for a layer the last counts."""

    alpha_pattern: str | None = None
    """Other alphas for some layers, in the same way."""

    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(rank) instead, which keeps large ranks learning (Kalajdzievski 2023)."""

    use_dora: bool = False
    """Learn the size of each weight's rows apart from their direction (Liu et al. 2024): finer, slower. Of the denoiser
    only: diffusers cannot load it for text encoders."""

    comfyui_rank: int | None = None
    """Write a DoRA for ComfyUI too, which computes it otherwise: as products of this rank, saying what is lost by that,
    or with 0 as whole differences, as large as the adapted layers."""

    lora_dropout: float = 0.0
    """Share of each adapted layer's input left out of its addition in training, drawn per example."""

    lora_init: Literal["gaussian", "kaiming", "pissa"] = "gaussian"
    """How A begins: normal with deviation 1 / rank, uniform within 1 / sqrt(inputs), or at the largest singular values
    of the weight (Meng et al. 2024). The base stays the base in every case."""

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        infinity = float("inf")
        problems = out_of_bounds(self, rank=(1, infinity), comfyui_rank=(0, infinity), lora_dropout=(0, 0.999999))
        if self.lora_alpha is not None and not 0 < self.lora_alpha < float("inf"):
            problems.append(f"--lora_alpha is {self.lora_alpha:g}, but must be above 0 and finite.")
        if not all(name.strip() for name in self.lora_layers.split(",")):
            problems.append(f"--lora_layers {self.lora_layers!r} has an empty name; as in 'to_q,to_k,to_v,to_out.0'.")
        for flag, whole in (("rank_pattern", True), ("alpha_pattern", False)):
            try:
                patterns_of(flag, getattr(self, flag), whole=whole)
            except ConfigError as error:
                problems.append(str(error))
        if self.text_encoder_layers != "attention" and not self.train_text_encoder:
            problems.append("--text_encoder_layers has an effect only with --train_text_encoder.")
        if self.init_lora is not None:
            given = [f"--{name}" for name in SHAPING if getattr(self, name) != getattr(AdapterOptions, name)]
            if given:
                problems.append(f"--init_lora decides layers, ranks and alphas itself; leave {', '.join(given)} out.")
        if self.comfyui_rank is not None and not self.use_dora and self.init_lora is None:
            problems.append("--comfyui_rank has an effect only with --use_dora; leave it out.")
        if self.lora_init == "pissa" and self.use_dora:
            problems.append("--lora_init pissa and --use_dora both re-parameterise the weight; give one.")
        return problems


def patterns_of(flag: str, text: str | None, *, whole: bool = False) -> dict[str, float]:
    """'a=8,b=4' as {'a': 8, 'b': 4}. Raises ConfigError for anything else, and for numbers not above 0."""
    found = {}
    for part in text.split(",") if text is not None else ():
        pattern, equals, value = part.strip().rpartition("=")
        number = _number(value)
        if not (pattern.strip() and equals) or number is None or (whole and number != round(number)):
            kind = "a whole number" if whole else "a number"
            raise ConfigError(
                f"--{flag} {text!r}: {part.strip()!r} is not layer=n with {kind} above 0, as in 'to_k=8'."
            )
        found[pattern.strip()] = number
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
