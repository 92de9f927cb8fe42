"""Training of the autoencoder on pixels far broader than the world's renders, and its compact form."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.starter import world
from pipeline.starter.build import fitting, parts, pixels

log = logging.getLogger(__name__)

TRAINED_CHANNELS = 8  # of which the compact form keeps parts.LATENT_CHANNELS
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
        picture = world.to_array(pixels.broad_picture(seed, index))
        if not whole:
            generator = np.random.default_rng((seed, 11, index))
            top, left = generator.integers(0, picture.shape[1] - CROP_PIXELS + 1, size=2)
            picture = picture[:, top : top + CROP_PIXELS, left : left + CROP_PIXELS]
        rows.append(picture)
    return torch.from_numpy(np.stack(rows))


def train(folder: Path, seed: int = 0) -> Any:
    """Train the autoencoder; resumes from `folder`. The result is not yet compact."""
    torch.manual_seed(seed)
    autoencoder = parts.build_autoencoder(TRAINED_CHANNELS)

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


def compacted(autoencoder: Any, seed: int, num_pictures: int = 512) -> Any:
    """The same autoencoder with fewer latent channels, in units in which equal noise does equal harm.

    Training leaves directions among the latent channels that the decoder hardly reads, and others that
    it reads a hundred times as much; a denoiser would spend itself on the former. With J the decoder's
    Jacobian, G = E[J^T J] over channels says what a unit of each direction does to the pixels. The
    channels become the LATENT_CHANNELS strongest directions of G, scaled by the square roots of its
    eigenvalues, rotated to their principal axes on the world's renders, and brought to mean 0 and
    variance 1 on average. What is dropped is set to its mean. All of it is folded into the convolutions
    beside the latents; the border of one convolution is the only approximation.
    """
    broad = [world.to_array(pixels.broad_picture(seed, index)) for index in range(num_pictures)]
    renders = [world.to_array(world.training_scene(seed, index)[0].image()) for index in range(num_pictures)]
    with torch.no_grad():
        latents = {
            name: _latent_means(autoencoder, pictures) for name, pictures in (("broad", broad), ("renders", renders))
        }
    strength, directions = torch.linalg.eigh(_decoder_gram(autoencoder, latents["broad"], seed))
    log.info("what a unit of each latent direction does to the pixels: %s", strength.tolist())
    strength, directions = strength[-parts.LATENT_CHANNELS :], directions[:, -parts.LATENT_CHANNELS :]
    mean = latents["renders"].mean((0, 2, 3))
    rows = latents["renders"].permute(0, 2, 3, 1).flatten(0, 2) - mean
    _, axes = torch.linalg.eigh(torch.cov((rows @ directions * strength.sqrt()).T))
    to_compact = axes.T @ (strength.sqrt()[:, None] * directions.T)  # [compact, latent]
    scale = (rows @ to_compact.T).square().mean().sqrt()
    to_compact = to_compact / scale
    to_latent = scale * (directions / strength.sqrt()) @ axes  # [latent, compact]
    return _folded(autoencoder, mean, to_compact, to_latent, latents["renders"])


@torch.no_grad()
def _latent_means(autoencoder: Any, pictures: list[np.ndarray]) -> Tensor:
    batches = (torch.from_numpy(np.stack(pictures[first : first + 64])) for first in range(0, len(pictures), 64))
    return torch.cat([autoencoder.encode(batch).latent_dist.mean for batch in batches])


def _decoder_gram(autoencoder: Any, latents: Tensor, seed: int, num_probes: int = 3) -> Tensor:
    """E[J^T J] over the channels of one place, [latent, latent]: for u standard normal, E[(J^T u)(J^T u)^T]."""
    generator = torch.Generator().manual_seed(seed)
    gram, count = torch.zeros(latents.shape[1], latents.shape[1]), 0
    for batch in torch.split(latents, 32):
        point = batch.clone().requires_grad_(True)
        decoded = autoencoder.decode(point).sample
        for _ in range(num_probes):
            probe = torch.randn(decoded.shape, generator=generator)
            (found,) = torch.autograd.grad(decoded, point, probe, retain_graph=True)
            rows = found.permute(0, 2, 3, 1).flatten(0, 2)
            gram, count = gram + rows.T @ rows, count + len(rows)
    return gram / count


@torch.no_grad()
def _folded(autoencoder: Any, mean: Tensor, to_compact: Tensor, to_latent: Tensor, latents: Tensor) -> Any:
    """A new autoencoder that works in compact = to_compact (latent - mean), latent = mean + to_latent compact."""
    old, new = autoencoder, parts.build_autoencoder(parts.LATENT_CHANNELS)
    own = {name: value for name, value in old.state_dict().items() if name in new.state_dict()}
    new.load_state_dict({name: v for name, v in own.items() if v.shape == new.state_dict()[name].shape}, strict=False)
    channels, compact = to_latent.shape
    quant, post = old.quant_conv.weight[:, :, 0, 0], old.post_quant_conv.weight[:, :, 0, 0]
    # Encoder: mean and log-variance; the latter, tiny everywhere, becomes a constant.
    conv, folded = old.encoder.conv_out, new.encoder.conv_out
    map_mean = to_compact @ quant[:channels]
    folded.weight.zero_()
    folded.weight[:compact] = torch.einsum("ij,jkhw->ikhw", map_mean, conv.weight)
    folded.bias[:compact] = map_mean @ conv.bias + to_compact @ (old.quant_conv.bias[:channels] - mean)
    variance = old.encode(old.decode(latents[:64]).sample).latent_dist.var.mean((0, 2, 3))
    folded.bias[compact:] = (to_compact.square() @ variance).log()
    # Decoder: a constant in front of a padded convolution stays one as far as the compact channels can hold it.
    conv, folded = old.decoder.conv_in, new.decoder.conv_in
    map_back = post @ to_latent
    folded.weight.copy_(torch.einsum("okhw,kj->ojhw", conv.weight, map_back))
    constant = post @ mean + old.post_quant_conv.bias
    held = torch.linalg.lstsq(map_back, constant[:, None]).solution[:, 0]
    folded.bias.copy_(conv.bias + torch.einsum("okhw,k->o", conv.weight, constant - map_back @ held))
    for conv_1x1, bias in ((new.quant_conv, 0.0), (new.post_quant_conv, held)):
        conv_1x1.weight.copy_(torch.eye(conv_1x1.weight.shape[0])[:, :, None, None])
        conv_1x1.bias.copy_(torch.zeros_like(conv_1x1.bias) + bias)
    return new.eval()


@torch.no_grad()
def psnr(autoencoder: Any, pictures: list[np.ndarray]) -> float:
    """Mean peak signal-to-noise ratio in dB of pictures [3, h, w] in [-1, 1] after encoding and decoding."""
    values = []
    for first in range(0, len(pictures), 64):
        batch = torch.from_numpy(np.stack(pictures[first : first + 64]))
        decoded = autoencoder.decode(autoencoder.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(10 * torch.log10(4 / (decoded - batch).square().mean((1, 2, 3))))
    return float(torch.cat(values).mean())
