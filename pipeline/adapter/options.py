"""Options of the adapter."""

from dataclasses import dataclass

from pipeline.errors import out_of_bounds


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """What is trained: a low-rank addition to chosen layers of the denoiser (Hu et al. 2021)."""

    rank: int = 16
    """Rank of each addition."""

    lora_alpha: float | None = None
    """The addition is scaled by lora_alpha / rank. Not given: equal to the rank, so scaled by 1."""

    lora_layers: str | None = None
    """Comma-separated names of the layers to adapt, matched at the end of a module's name. Not given: attention."""

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        problems = out_of_bounds(self, rank=(1, float("inf")))
        if self.lora_alpha is not None and self.lora_alpha <= 0:
            problems.append(f"--lora_alpha is {self.lora_alpha:g}, but must be above 0.")
        if self.lora_layers is not None and not all(name.strip() for name in self.lora_layers.split(",")):
            problems.append(f"--lora_layers {self.lora_layers!r} has an empty name; as in 'to_q,to_k,to_v,to_out.0'.")
        return problems

    @property
    def alpha(self) -> float:
        """The alpha in force."""
        return float(self.rank if self.lora_alpha is None else self.lora_alpha)
