"""The noise that is added to the latents, as it is drawn for an example in an epoch."""

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import rng
from pipeline.objective.noise_options import NoiseOptions


def noise_of(options: NoiseOptions, seed: int, epoch: int, example_id: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise [c h w], with a constant or coarser noise added where that is asked for."""
    noise = rng.normal(seed, epoch, example_id, "noise", shape)
    if options.noise_offset:
        noise = noise + options.noise_offset * rng.normal(seed, epoch, example_id, "offset", (shape[0], 1, 1))
    if options.multires_noise_iterations:
        noise = _pyramid(options, noise, (seed, epoch, example_id))
    return noise


def perturbed(options: NoiseOptions, noise: Tensor, seed: int, epoch: int, example_id: str) -> Tensor | None:
    """The noise [c h w] that the model sees; None where that is `noise` itself."""
    if not options.input_perturbation:
        return None
    return noise + options.input_perturbation * rng.normal(seed, epoch, example_id, "perturbation", tuple(noise.shape))


def _pyramid(options: NoiseOptions, noise: Tensor, key: tuple[int, int, str]) -> Tensor:
    """Noise with coarser noise added, enlarged bilinearly, and scaled back to deviation 1 by its own: an example's
    noise depends on no other's."""
    channels, height, width = noise.shape
    coarser = 1.0
    for number in range(1, options.multires_noise_iterations + 1):
        coarser *= 2 + 2 * rng.uniform(*key, f"coarser {number}")
        size = (max(1, int(height / coarser)), max(1, int(width / coarser)))
        coarse: Float[Tensor, "1 c a b"] = rng.normal(*key, f"noise {number}", (channels, *size))[None]
        large = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
        noise = noise + options.multires_noise_discount**number * large[0]
        if min(size) == 1:
            break
    return noise / noise.std()
