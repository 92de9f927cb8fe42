"""Training of the autoencoder on pixels far broader than the world's renders, and its standardisation."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.starter import fitting, parts, pixels

CROP_PIXELS = 32
CROP_BATCH = 12
WHOLE_BATCH = 4
WHOLE_SHARE = 0.25  # the last quarter sees whole pictures, so that group statistics fit those
KL_WEIGHT = 1e-7
PLAN = fitting.Fit(
    "autoencoder", num_steps=5200, learning_rate=2e-3, weight_decay=0.0, decay_share=0.5, ema_decay=0.995
)


def batch_of(seed: int, step: int) -> Tensor:
    """Crops for most of the training, whole pictures at its end; [b, 3, h, w] in [-1, 1]."""
    whole = step >= (1 - WHOLE_SHARE) * PLAN.num_steps
    rows = []
    for offset in range(WHOLE_BATCH if whole else CROP_BATCH):
        index = step * CROP_BATCH + offset
        picture = pixels.to_array(pixels.broad_picture(seed, index))
        if not whole:
            generator = np.random.default_rng((seed, 11, index))
            top, left = generator.integers(0, picture.shape[1] - CROP_PIXELS + 1, size=2)
            picture = picture[:, top : top + CROP_PIXELS, left : left + CROP_PIXELS]
        rows.append(picture)
    return torch.from_numpy(np.stack(rows))


def train(folder: Path, seed: int = 0) -> Any:
    """Train the autoencoder; resumes from `folder`. The result is not yet standardised."""
    torch.manual_seed(seed)
    autoencoder = parts.build_autoencoder()

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        target = batch_of(seed, step)
        posterior = autoencoder.encode(target).latent_dist
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        decoded = autoencoder.decode(posterior.sample(generator)).sample
        error = (decoded - target).square().mean()
        divergence = posterior.kl().mean() / target[0].numel()
        loss = error + 0.05 * (decoded - target).abs().mean() + KL_WEIGHT * posterior.kl().mean()
        return loss, {"psnr": (10 * torch.log10(4 / error)).item(), "kl": divergence.item()}

    fitting.fit(PLAN, autoencoder, loss_of, folder)
    return autoencoder


@torch.no_grad()
def standardise(autoencoder: Any, seed: int, num_pictures: int = 512) -> None:
    """Fold a shift and a scale per channel into the two 1 x 1 convolutions: latents of mean 0 and variance 1.

    The decoded picture does not change; only the latents' units do. Measured on renders of the
    training world, which is what the denoiser sees.
    """
    from pipeline.starter import world

    pictures = [pixels.to_array(world.training_scene(seed, index)[0].image()) for index in range(num_pictures)]
    latents = torch.cat(
        [
            autoencoder.encode(torch.from_numpy(np.stack(pictures[i : i + 64]))).latent_dist.mean
            for i in range(0, num_pictures, 64)
        ]
    )
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    encode, decode = autoencoder.quant_conv, autoencoder.post_quant_conv
    encode.weight[:channels] /= std[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - mean) / std
    encode.bias[channels:] -= 2 * std.log()  # log-variance
    decode.bias += (decode.weight[:, :, 0, 0] * mean).sum(1)
    decode.weight *= std[None, :, None, None]


@torch.no_grad()
def psnr(autoencoder: Any, pictures: list[np.ndarray]) -> float:
    """Mean peak signal-to-noise ratio in dB of pictures [3, h, w] in [-1, 1] after encoding and decoding."""
    values = []
    for first in range(0, len(pictures), 64):
        batch = torch.from_numpy(np.stack(pictures[first : first + 64]))
        decoded = autoencoder.decode(autoencoder.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(10 * torch.log10(4 / (decoded - batch).square().mean((1, 2, 3))))
    return float(torch.cat(values).mean())
