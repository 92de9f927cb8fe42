"""The starter base in figures: python -m pipeline.starter.measure. Needs the font, for real renders are the ceiling.

Prompts are held-out combinations, with seeds used for nothing else; the guidance is chosen on
other prompts first. The judge's own accuracy on held-out renders stands beside every figure. A network
trained on photographs (evaluation/photographs.py) says how far what is drawn, and what the autoencoder
makes of true pictures, lies from those pictures.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from pipeline import shipped
from pipeline.evaluation.extractors import photographs
from pipeline.evaluation.metrics.distances import kid, scaled
from pipeline.evaluation.metrics.neighbours import own_is_nearest
from pipeline.evaluation.statistics import Interval, share
from pipeline.starter import judge, world
from pipeline.starter.build import autoencoder, pixels, style
from pipeline.starter.seen import background

SWEEP_SEED, FIGURE_SEED = 31, 32  # used for nothing else
SCALES = (1.5, 3.0, 5.0)
NUM_INFERENCE_STEPS = 15
Draw = Callable[[list[world.Scene], int, float], list[Image.Image]]


def main() -> None:
    """Measure and write docs/starter.json and the contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_pictures", type=int, default=500)
    parser.add_argument("--num_sweep", type=int, default=96)
    parser.add_argument("--num_reconstructed", type=int, default=240)
    parser.add_argument("--to", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(shipped.BASE)
    pipe.set_progress_bar_config(disable=True)
    model = judge.load()

    def draw(scenes: list[world.Scene], seed: int, scale: float) -> list[Image.Image]:
        pictures: list[Image.Image] = []
        for first in range(0, len(scenes), 20):
            batch = scenes[first : first + 20]
            generators = [torch.Generator().manual_seed(seed * 1_000_000 + first + i) for i in range(len(batch))]
            captions = [scene.caption() for scene in batch]
            pictures += pipe(
                captions, guidance_scale=scale, num_inference_steps=NUM_INFERENCE_STEPS, generator=generators
            ).images
        return pictures

    arguments.to.mkdir(exist_ok=True)
    network = photographs.load()
    result: dict[str, Any] = {"autoencoder": {}, "photographs": {"judge": photographs.NAME}}
    scenes = world.held_out_scenes(FIGURE_SEED, arguments.num_reconstructed)
    for name, images in true_pictures(scenes).items():
        decoded = reconstructed(pipe.vae, images)
        result["autoencoder"][name] = round(autoencoder.psnr(pipe.vae, [world.to_array(image) for image in images]), 2)
        apart = distance(network, images, decoded, scenes)
        result["photographs"][f"{name} through the autoencoder, from themselves"] = apart
    reconstruction_sheet(pipe.vae).save(arguments.to / "starter-autoencoder.png", optimize=True)
    scenes = world.held_out_scenes(SWEEP_SEED, arguments.num_sweep)
    sweep = {scale: judged(model, draw(scenes, SWEEP_SEED, scale), scenes) for scale in SCALES}
    best = max(SCALES, key=lambda scale: sweep[scale]["concept top-1"].value)
    scenes = world.held_out_scenes(FIGURE_SEED, arguments.num_pictures)
    drawn, real = draw(scenes, FIGURE_SEED, best), [scene.image() for scene in scenes]
    result["guidance"] = {"chosen": best, **{str(scale): rows(found) for scale, found in sweep.items()}}
    result["drawn"], result["real renders"] = rows(judged(model, drawn, scenes)), rows(judged(model, real, scenes))
    result["photographs"] |= {"drawn, from real renders": distance(network, real, drawn, scenes)}
    (arguments.to / "starter.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sheet = contact_sheet(drawn[:60], scenes[:60]).quantize(256)  # a third of the bytes, no visible difference
    sheet.save(arguments.to / "starter.png", optimize=True)


def judged(model: judge.Judge, pictures: list[Image.Image], scenes: list[world.Scene]) -> dict[str, Interval]:
    """How often the pictures show what their scenes say, question by question."""
    ranks = judge.concept_ranks(model, pictures, [scene.concept.name for scene in scenes])
    with torch.no_grad():
        seen = [model(batch) for batch in judge.batches(pictures)]
    count = torch.cat([part.count.argmax(1) for part in seen]) + 1
    size = torch.cat([part.size.argmax(1) for part in seen])
    counts = torch.tensor([scene.count for scene in scenes])
    sizes = torch.tensor([world.SIZES.index(scene.size) for scene in scenes])
    colours = [background(picture) == scene.colour for picture, scene in zip(pictures, scenes, strict=True)]
    hits = {
        "colour": sum(colours),
        "count": int((count == counts).sum()),
        "size": int((size == sizes).sum()),
        "count and size": int(((count == counts) & (size == sizes)).sum()),
        "concept top-1": int((ranks < 1).sum()),
        "concept top-5": int((ranks < 5).sum()),
    }
    small = torch.tensor([scene.size == "small" for scene in scenes])
    found = {name: share(number, len(scenes)) for name, number in hits.items()}
    for guesses in (1, 5):
        named = int((ranks[small] < guesses).sum())
        found[f"concept top-{guesses}, small things alone"] = share(named, int(small.sum()))
    return found


def true_pictures(scenes: list[world.Scene]) -> dict[str, list[Image.Image]]:
    """Renders, and the same scenes in the starter style."""
    return {"renders": [scene.image() for scene in scenes], "starter style": [style.sticker(scene) for scene in scenes]}


@torch.no_grad()
def reconstructed(vae: Any, images: list[Image.Image]) -> list[Image.Image]:
    """Pictures after encoder and decoder, as 8-bit pictures."""
    made: list[Image.Image] = []
    for first in range(0, len(images), 40):
        batch = torch.from_numpy(np.stack([world.to_array(image) for image in images[first : first + 40]]))
        decoded = vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
        values = ((decoded + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        made += [Image.fromarray(value) for value in values]
    return made


def distance(
    network: Any, real: list[Image.Image], made: list[Image.Image], scenes: list[world.Scene]
) -> dict[str, str]:
    """What a network trained on photographs says: KID, and how often a picture's own truth is the nearest.

    Of scenes that differ by a shift alone each is the other's truth, for captions do not tell them apart.
    """
    true, false = photographs.features(network, real), photographs.features(network, made)
    told = [scene.unshifted for scene in scenes]
    groups = torch.tensor([told.index(scene) for scene in told])
    apart, own = kid(*scaled(true, false)), own_is_nearest(true, false, groups, groups)
    nearest = share(int(own.sum()), len(own))
    return {"KID": f"{apart.text('{:.3f}')} (n = {apart.n})", **rows({"own truth nearest": nearest})}


def reconstruction_sheet(vae: Any, columns: int = 10) -> Image.Image:
    """Three pairs of rows, each picture above what the autoencoder makes of it: renders, starter style, broad set."""
    scenes, side = world.held_out_scenes(FIGURE_SEED, columns), world.SIDE_PIXELS
    kinds = [
        [scene.image() for scene in scenes],
        [style.sticker(scene) for scene in scenes],
        [pixels.broad_picture(FIGURE_SEED, index) for index in range(columns)],
    ]
    sheet = Image.new("RGB", (columns * (side + 4), 6 * (side + 4)), "white")
    for number, pictures in enumerate(kinds):
        for column, pair in enumerate(zip(pictures, reconstructed(vae, pictures), strict=True)):
            for below, picture in enumerate(pair):
                sheet.paste(picture, (column * (side + 4), (2 * number + below) * (side + 4)))
    return sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).quantize(256)


def contact_sheet(pictures: list[Image.Image], scenes: list[world.Scene], columns: int = 10) -> Image.Image:
    """Pictures twice their size with their captions beneath."""
    width, height = 128, 164
    sheet = Image.new("RGB", (columns * (width + 8), -(-len(pictures) // columns) * (height + 6)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (picture, scene) in enumerate(zip(pictures, scenes, strict=True)):
        x, y = number % columns * (width + 8), number // columns * (height + 6)
        sheet.paste(picture.resize((width, width), Image.Resampling.LANCZOS), (x, y))
        words, lines = scene.caption().split(), [""]
        for word in words:
            if len(lines[-1]) + len(word) > 24:
                lines.append("")
            lines[-1] += word + " "
        draw.multiline_text((x, y + width + 2), "\n".join(lines[:3]), fill="black", font_size=9.5, spacing=1)
    return sheet


def rows(found: dict[str, Interval]) -> dict[str, str]:
    """Estimates as text: value, 95 % interval, n."""
    return {name: f"{e.value:.1%} [{e.low:.1%}, {e.high:.1%}] (n = {e.n})" for name, e in found.items()}


if __name__ == "__main__":
    main()
