"""How long every part is trained, on two cores and on a GPU; the device and a share of that length travel together."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Literal

import torch

from pipeline.starter.build.fitting import Fit

Part = Literal["clip", "judge", "autoencoder", "denoiser"]

# Two cores take hours over these, in many goes.
CPU = {
    "clip": Fit("clip", 600, 128, 1e-3, weight_decay=0.1, ema_decay=0.99),
    "judge": Fit("judge", 1200, 64, 2e-3, weight_decay=0.05, ema_decay=0.99),
    "autoencoder": Fit("autoencoder", 12_000, 8, 1e-3, weight_decay=0.0, decay_share=0.5, ema_decay=0.998),
    "denoiser": Fit("denoiser", 30_000, 32, 1e-3, decay_share=0.3, ema_decay=0.999),
}
# The clock ends each: eight minutes of one H100 or H200, rendering and encoding included.
GPU = {
    "clip": Fit("clip", 100_000, 512, 1e-3, weight_decay=0.1, ema_decay=0.99, seconds=25.0),
    "judge": Fit("judge", 100_000, 256, 2e-3, weight_decay=0.05, ema_decay=0.99, seconds=25.0),
    "autoencoder": Fit(
        "autoencoder", 100_000, 64, 1.5e-3, weight_decay=0.0, decay_share=0.5, ema_decay=0.998, seconds=60.0
    ),
    "denoiser": Fit(
        "denoiser", 1_000_000, 512, 1.2e-3, warmup_steps=200, decay_share=0.3, ema_decay=0.999, seconds=280.0
    ),
}
EXAMPLES = {
    "cpu": {"clip": 60_000, "judge": 60_000, "autoencoder": 20_000, "denoiser": 96_000},
    "cuda": {"clip": 100_000, "judge": 100_000, "autoencoder": 40_000, "denoiser": 262_144},
}


@dataclass(frozen=True)
class Ground:
    """What a build stands on: the device, the share of the full length, and the seed of everything."""

    device: torch.device
    share: float = 1.0
    seconds: float | None = None  # in place of a plan's own limit
    seed: int = 0

    def plan(self, part: Part) -> Fit:
        """How long a part is trained here."""
        plan = (CPU if self.device.type == "cpu" else GPU)[part]
        steps = max(4, round(plan.num_steps * self.share))
        return dataclasses.replace(plan, num_steps=steps, seconds=self.seconds or plan.seconds * self.share)

    def num_examples(self, part: Part) -> int:
        """How many examples are rendered for it: whole batches, so that every step has one."""
        batch = self.plan(part).batch
        wanted = EXAMPLES["cpu" if self.device.type == "cpu" else "cuda"][part] * self.share
        return batch * max(2, round(wanted / batch))

    def generator(self, *numbers: int) -> torch.Generator:
        """Random numbers of their own for (seed, numbers), on the device."""
        mixed = self.seed
        for number in numbers:
            mixed = mixed * 1_000_003 + number
        return torch.Generator(self.device).manual_seed(mixed)


def quick_kernels() -> None:
    """TF32 products, and no attention of cuDNN, whose gradient is NaN now and then (pytorch/pytorch#196678)."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.enable_cudnn_sdp(False)


def order(ground: Ground, part: Part, step: int) -> torch.Tensor:
    """Which examples step `step` sees, [batch]: every example once in each pass, in an order of that pass."""
    batch, number = ground.plan(part).batch, ground.num_examples(part)
    passed, first = divmod(step * batch, number)
    return _permutation(passed, number)[first : first + batch]


@functools.lru_cache(maxsize=1)
def _permutation(passed: int, number: int) -> torch.Tensor:
    return torch.randperm(number, generator=torch.Generator().manual_seed(passed))
