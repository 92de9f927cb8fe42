"""Training of the autoencoder on pixels far broader than the world's renders, and its compact form."""

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.starter import world
from pipeline.starter.build import fitting, linear_start, parts, pixels, pool
from pipeline.starter.build.plans import Ground, order

log = logging.getLogger(__name__)

LINEAR_STEPS = 1000
KL_WEIGHT = 2e-5  # of the sum over all latents: noise on them may make some 4 % of the error
EDGE_WEIGHT = 0.5  # of the error of differences between neighbours, which a blur has most of
EVENNESS = 0.25  # power of the variance: 0 leaves principal axes as they are, 0.5 makes their variances equal
COMPACT_PICTURES = 512  # that the compact form is worked out on
FLOOR = 1e-4  # a squared error below which a picture counts little (46 dB)


def example(seed: int, index: int) -> tuple[Image.Image, None]:
    """A picture of the broad set, of which nothing is said."""
    return pixels.broad_picture(seed, index), None


def train(folder: Path, ground: Ground) -> Any:
    """Train the autoencoder; resumes from `folder`. The result is not yet compact."""
    torch.manual_seed(ground.seed)
    plan = ground.plan("autoencoder")
    rendered, _ = pool.rendered(functools.partial(example, ground.seed), 0, ground.num_examples("autoencoder"))
    pictures = torch.from_numpy(rendered)

    def batch_of(step: int) -> Tensor:
        values = pool.to_values(pictures[order(ground, "autoencoder", step)], ground.device)
        return varied(values, ground.generator(step))

    autoencoder = parts.build_autoencoder(parts.LATENT_CHANNELS).to(ground.device)
    if not plan.state_in(folder).exists():
        steps = max(2, round(LINEAR_STEPS * min(1.0, ground.share * 10)))
        codec = linear_start.fit_linear(batch_of, parts.LEVELS, parts.LATENT_CHANNELS, steps)
        linear_start.start(autoencoder, codec)
    linear_start.keep_held(autoencoder)

    def loss_of(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        target = batch_of(step)
        posterior = autoencoder.encode(target).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=ground.generator(step, 1), device=ground.device)
        difference = autoencoder.decode(posterior.mean + posterior.std * noise).sample - target
        error = difference.square().mean((1, 2, 3))
        across, down = difference.diff(dim=3), difference.diff(dim=2)
        edges = across.square().mean((1, 2, 3)) + down.square().mean((1, 2, 3))
        loss = (error + FLOOR).log().mean() + EDGE_WEIGHT * (edges + FLOOR).log().mean()
        loss = loss + KL_WEIGHT * posterior.kl().mean()
        return loss, {"psnr": (10 * torch.log10(4 / error.detach())).mean()}

    fitting.fit(plan, autoencoder, loss_of, folder)
    return autoencoder.cpu()


def varied(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures [b, 3, h, w] mirrored, turned and with their colour channels exchanged at random, each on its own."""
    coins = torch.rand((3, len(pictures), 1, 1, 1), generator=generator, device=pictures.device) < 0.5
    pictures = torch.where(coins[0], pictures.flip(3), pictures)
    pictures = torch.where(coins[1], pictures.flip(2), pictures)
    pictures = torch.where(coins[2], pictures.transpose(2, 3), pictures)
    keys = torch.rand(pictures.shape[:2], generator=generator, device=pictures.device)
    plain = torch.rand(len(pictures), 1, generator=generator, device=pictures.device) < 0.7
    channels = torch.where(plain, torch.arange(3, device=pictures.device), keys.argsort(1))
    return pictures.gather(1, channels[:, :, None, None].expand_as(pictures))


def compacted(autoencoder: Any, ground: Ground) -> Any:
    """The same autoencoder with latents in units that suit a denoiser.

    Training leaves directions among the latent channels that the decoder hardly reads, and others that
    it reads a hundred times as much; a denoiser would spend itself on the former. With J the decoder's
    Jacobian, G = E[J^T J] over channels says what a unit of each direction does to the pixels. The
    channels are scaled by the square roots of G's eigenvalues, so that equal noise does equal harm, and
    rotated to their principal axes on the world's renders. There the mean colour varies ten times as
    much as fine detail does; each axis is divided by the square root of its standard deviation, half-way
    to equal ones, so that detail gets its share of the denoiser's loss. Last, mean 0 and on average
    variance 1. All of it is folded into the convolutions beside the latents, exactly.
    """
    seed, autoencoder = ground.seed, autoencoder.to(ground.device)
    num_pictures = max(16, round(COMPACT_PICTURES * ground.share))
    broad = [world.to_array(pixels.broad_picture(seed, index)) for index in range(num_pictures)]
    renders = [world.to_array(world.training_scene(seed, index)[0].image()) for index in range(num_pictures)]
    with torch.no_grad():
        latents = {
            name: _latent_means(autoencoder, pictures) for name, pictures in (("broad", broad), ("renders", renders))
        }
    strength, directions = torch.linalg.eigh(_decoder_gram(autoencoder, latents["broad"], ground).double())
    log.info("what a unit of each latent direction does to the pixels: %s", strength.tolist())
    mean = latents["renders"].double().mean((0, 2, 3))
    rows = latents["renders"].permute(0, 2, 3, 1).flatten(0, 2) - mean
    variance, axes = torch.linalg.eigh(torch.cov((rows @ directions * strength.sqrt()).T))
    to_compact = variance[:, None] ** -EVENNESS * (axes.T @ (strength.sqrt()[:, None] * directions.T))
    scale = (rows @ to_compact.T).square().mean().sqrt()
    to_compact = to_compact / scale  # [compact, latent]
    to_latent = scale * (directions / strength.sqrt()) @ (axes * variance**EVENNESS)  # [latent, compact]
    log.info("standard deviations of the compact channels: %s", (rows @ to_compact.T).std(0).tolist())
    return _folded(autoencoder, mean, to_compact, to_latent, latents["renders"])


@torch.no_grad()
def _latent_means(autoencoder: Any, pictures: list[np.ndarray]) -> Tensor:
    batches = (torch.from_numpy(np.stack(pictures[first : first + 64])) for first in range(0, len(pictures), 64))
    return torch.cat([autoencoder.encode(batch.to(autoencoder.device)).latent_dist.mean for batch in batches])


def _decoder_gram(autoencoder: Any, latents: Tensor, ground: Ground, num_probes: int = 3) -> Tensor:
    """E[J^T J] over the channels of one place, [latent, latent]: for u standard normal, E[(J^T u)(J^T u)^T]."""
    generator = ground.generator(0)
    gram, count = torch.zeros(latents.shape[1], latents.shape[1], device=ground.device), 0
    for batch in torch.split(latents, 32):
        point = batch.clone().requires_grad_(True)
        decoded = autoencoder.decode(point).sample
        for _ in range(num_probes):
            probe = torch.randn(decoded.shape, generator=generator, device=ground.device)
            (found,) = torch.autograd.grad(decoded, point, probe, retain_graph=True)
            rows = found.permute(0, 2, 3, 1).flatten(0, 2)
            gram, count = gram + rows.T @ rows, count + len(rows)
    return gram / count


@torch.no_grad()
def _folded(autoencoder: Any, mean: Tensor, to_compact: Tensor, to_latent: Tensor, latents: Tensor) -> Any:
    """A new autoencoder that works in compact = to_compact (latent - mean), latent = mean + to_latent compact."""
    old, new = autoencoder, parts.build_autoencoder().to(autoencoder.device)
    own = {name: value for name, value in old.state_dict().items() if name in new.state_dict()}
    new.load_state_dict({name: v for name, v in own.items() if v.shape == new.state_dict()[name].shape}, strict=False)
    channels, compact = to_latent.shape
    quant, post = old.quant_conv.weight[:, :, 0, 0].double(), old.post_quant_conv.weight[:, :, 0, 0].double()
    # Encoder: mean and log-variance; the latter, tiny everywhere, becomes a constant.
    conv, folded = old.encoder.conv_out, new.encoder.conv_out
    map_mean = to_compact @ quant[:channels]
    folded.weight.zero_()
    folded.weight[:compact] = torch.einsum("ij,jkhw->ikhw", map_mean, conv.weight.double())
    folded.bias[:compact] = map_mean @ conv.bias.double() + to_compact @ (old.quant_conv.bias[:channels] - mean)
    variance = old.encode(old.decode(latents[:64]).sample).latent_dist.var.double().mean((0, 2, 3))
    folded.bias[compact:] = (to_compact.square() @ variance).log()
    # Decoder: a constant in front of a padded convolution stays one as far as the compact channels can hold it.
    conv, folded = old.decoder.conv_in, new.decoder.conv_in
    map_back = post @ to_latent
    folded.weight.copy_(torch.einsum("okhw,kj->ojhw", conv.weight.double(), map_back))
    constant = post @ mean + old.post_quant_conv.bias
    held = torch.linalg.lstsq(map_back, constant[:, None]).solution[:, 0]
    folded.bias.copy_(conv.bias + torch.einsum("okhw,k->o", conv.weight.double(), constant - map_back @ held))
    for conv_1x1, bias in ((new.quant_conv, 0.0), (new.post_quant_conv, held)):
        conv_1x1.weight.copy_(torch.eye(len(conv_1x1.weight))[:, :, None, None])
        conv_1x1.bias.copy_(torch.zeros_like(conv_1x1.bias) + bias)
    return new.cpu().eval()


@torch.no_grad()
def psnr(autoencoder: Any, pictures: list[np.ndarray]) -> float:
    """Mean peak signal-to-noise ratio in dB of pictures [3, h, w] in [-1, 1] after encoding and decoding."""
    values = []
    for first in range(0, len(pictures), 64):
        batch = torch.from_numpy(np.stack(pictures[first : first + 64]))
        decoded = autoencoder.decode(autoencoder.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(10 * torch.log10(4 / (decoded - batch).square().mean((1, 2, 3))))
    return float(torch.cat(values).mean())
