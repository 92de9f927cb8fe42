"""Training of the judge on renders: plain, recoloured, or reduced to their edges."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.starter import world
from pipeline.starter.build import fitting, pixels
from pipeline.starter.judge import BATCH, FOLDER, Judge, load

RESTYLED_SHARE, LINES_SHARE = 0.3, 0.35  # of the renders: recoloured, and reduced to their edges
PLAN = fitting.Fit("judge", num_steps=1200, learning_rate=2e-3, weight_decay=0.05, ema_decay=0.99)


def train(folder: Path, seed: int = 0, *, warm_start: bool = False) -> Judge:
    """Train the judge on renders; resumes from `folder`. A warm start takes the judge that ships."""
    torch.manual_seed(seed)
    judge = load().train() if warm_start else Judge()
    names = {concept.name: index for index, concept in enumerate(world.concepts())}

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        scenes, rows = [], []
        for index in range(step * BATCH, (step + 1) * BATCH):
            scene, _ = world.training_scene(seed + 1, index)
            generator = np.random.default_rng((seed, 5, index))
            picture, look = scene.image(), generator.random()
            if look < RESTYLED_SHARE:
                picture = pixels.restyled(picture, generator)
            elif look < RESTYLED_SHARE + LINES_SHARE:
                picture = pixels.line_drawing(picture, generator)
            scenes.append(scene)
            rows.append(world.to_array(picture))
        with fitting.fast_precision():
            seen = judge(torch.from_numpy(np.stack(rows)))
        concept = torch.tensor([names[scene.concept.name] for scene in scenes])
        cross_entropy = nn.functional.cross_entropy
        loss = cross_entropy(seen.concept, concept, label_smoothing=0.05)
        loss = loss + 0.3 * cross_entropy(seen.count, torch.tensor([scene.count - 1 for scene in scenes]))
        loss = loss + 0.3 * cross_entropy(seen.size, torch.tensor([world.SIZES.index(scene.size) for scene in scenes]))
        return loss, {"concept_accuracy": (seen.concept.argmax(1) == concept).float().mean().item()}

    fitting.fit(PLAN, judge, loss_of, folder)
    return judge


def save(judge: Judge) -> None:
    """Keep the judge beside this file: weights as 8-bit integers with a scale per output, the rest in float16."""
    FOLDER.mkdir(exist_ok=True)
    tensors = {}
    for name, value in judge.state_dict().items():
        if value.dim() == 1:
            tensors[name] = value.half().contiguous()
            continue
        scale = value.flatten(1).abs().amax(1) / 127
        tensors[name] = (value / scale.view(-1, *[1] * (value.dim() - 1))).round().to(torch.int8).contiguous()
        tensors[f"{name}.scale"] = scale
    save_file(tensors, FOLDER / "judge.safetensors")
