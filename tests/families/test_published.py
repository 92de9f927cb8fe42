"""The layers each preset adapts in the published models, from their configurations alone, against golden lists.

`python -m tests.families.test_published` writes the lists anew: then read what changed.
"""

import json
import sys
import tempfile
from pathlib import Path

import diffusers
import pytest
import torch

from pipeline.adapter.layers import PRESETS, target_modules
from pipeline.adapter.options import AdapterOptions
from pipeline.bench import published
from pipeline.families import registry

pytestmark = pytest.mark.contract
HERE = Path(__file__).parent
MODELS = {
    "sd15": "StableDiffusionPipeline",
    "sd21": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd35_medium": "StableDiffusion3Pipeline",
    "flux_dev": "FluxPipeline",
}
# Counted by hand, of the attention preset. SD 1.5 and 2.1 have 16 transformer blocks of two attentions of four
# layers, XL has 70; SD 3.5 medium 24 blocks of eight, less the last one's text queries and output, and 13 second
# attentions; FLUX.1 19 blocks of eight and 38 of three.
NUM_LAYERS = {
    "sd15": 16 * 8,
    "sd21": 16 * 8,
    "sdxl": 70 * 8,
    "sd35_medium": 24 * 8 - 2 + 13 * 4,
    "flux_dev": 19 * 8 + 38 * 3,
}
# Known of diffusers' scripts at their rank 4: 797,184 weights for SD 1.5 and 5,806,080 for SDXL.
NUM_WEIGHTS = {"sd15": 4 * 797_184, "sdxl": 4 * 5_806_080}


def listing(model: str, folder: Path) -> tuple[list[str], dict[str, tuple[int, int]]]:
    """One line per layer that some preset adapts, with the presets; layers and weights of each preset."""
    config = published.config(model)
    family_class = registry.class_of(MODELS[model])
    (folder / family_class.denoiser).mkdir(parents=True, exist_ok=True)
    (folder / family_class.denoiser / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": MODELS[model]}), encoding="utf-8")
    family = registry.detect(folder)
    with torch.device("meta"):
        denoiser = getattr(diffusers, config["_class_name"]).from_config(config)
    found = {name: target_modules(denoiser, AdapterOptions(lora_layers=name), family.targets) for name in PRESETS}
    names = {preset: {site.name for site in chosen} for preset, chosen in found.items()}
    every = sorted(set().union(*names.values()))
    lines = [f"{name} {' '.join(preset for preset in PRESETS if name in names[preset])}" for name in every]
    counts = {preset: (len(chosen), sum(site.num_weights for site in chosen)) for preset, chosen in found.items()}
    return lines, counts


@pytest.mark.parametrize("model", MODELS)
def test_the_layers_of_every_preset_are_the_recorded_ones(model, tmp_path):
    lines, counts = listing(model, tmp_path)
    assert lines == (HERE / "golden" / f"{model}.txt").read_text(encoding="utf-8").splitlines()
    recorded = json.loads((HERE / "golden" / "counts.json").read_text(encoding="utf-8"))
    assert {preset: list(count) for preset, count in counts.items()} == recorded[model]
    num_layers, num_weights = counts["attention"]
    assert num_layers == NUM_LAYERS[model]
    assert num_weights == NUM_WEIGHTS.get(model, num_weights)


def write() -> None:
    """Write the golden lists anew."""
    (HERE / "golden").mkdir(exist_ok=True)
    every = {}
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            lines, every[model] = listing(model, Path(folder))
        (HERE / "golden" / f"{model}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (HERE / "golden" / "counts.json").write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
    sys.stdout.write("written\n")
