"""Training of the judge on renders: plain, recoloured, or reduced to their edges."""

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.starter import world
from pipeline.starter.build import fitting, pixels, pool
from pipeline.starter.build.plans import Ground, order
from pipeline.starter.judge import Judge, load

RESTYLED_SHARE, LINES_SHARE = 0.3, 0.35  # of the renders: recoloured, and reduced to their edges


def example(seed: int, index: int) -> tuple[Image.Image, tuple[int, int, int]]:
    """A scene in one of the looks, with the numbers of its concept, count and size."""
    scene, _ = world.training_scene(seed + 1, index)
    generator = np.random.default_rng((seed, 5, index))
    picture, look = scene.image(), generator.random()
    if look < RESTYLED_SHARE:
        picture = pixels.restyled(picture, generator)
    elif look < RESTYLED_SHARE + LINES_SHARE:
        picture = pixels.line_drawing(picture, generator)
    return picture, (world.concepts().index(scene.concept), scene.count - 1, world.SIZES.index(scene.size))


def train(folder: Path, ground: Ground, *, warm_start: bool = False) -> Judge:
    """Train the judge on renders; resumes from `folder`. A warm start takes the judge that ships."""
    torch.manual_seed(ground.seed)
    judge = (load().train() if warm_start else Judge()).to(ground.device)
    rendered, said = pool.rendered(functools.partial(example, ground.seed), 0, ground.num_examples("judge"))
    pictures, truth = torch.from_numpy(rendered), torch.tensor(said)

    def loss_of(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = order(ground, "judge", step)
        concept, count, size = truth[chosen].to(ground.device).T
        with fitting.fast_precision(ground.device):
            seen = judge(pool.to_values(pictures[chosen], ground.device))
        cross_entropy = nn.functional.cross_entropy
        loss = cross_entropy(seen.concept, concept, label_smoothing=0.05)
        loss = loss + 0.3 * cross_entropy(seen.count, count) + 0.3 * cross_entropy(seen.size, size)
        return loss, {"concept_accuracy": (seen.concept.argmax(1) == concept).float().mean()}

    fitting.fit(ground.plan("judge"), judge, loss_of, folder)
    return judge.cpu()


def save(judge: Judge, folder: Path) -> None:
    """Keep the judge: weights as 8-bit integers with a scale per output, the rest in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, value in judge.state_dict().items():
        if value.dim() == 1:
            tensors[name] = value.half().contiguous()
            continue
        scale = value.flatten(1).abs().amax(1) / 127
        tensors[name] = (value / scale.view(-1, *[1] * (value.dim() - 1))).round().to(torch.int8).contiguous()
        tensors[f"{name}.scale"] = scale
    save_file(tensors, folder / "judge.safetensors")
