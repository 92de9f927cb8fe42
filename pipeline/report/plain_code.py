"""Plain diffusers code that draws a picture as it was drawn here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.adapter.names import FILE as ADAPTER
from pipeline.evaluation import snippet
from pipeline.families import registry
from pipeline.geometry import Size
from pipeline.sampling.options import GuidanceOptions


@dataclass(frozen=True)
class Model:
    """The base, and the options that say which files of it."""

    base: str
    pipeline_class: str  # of diffusers
    run: Mapping[str, Any]


@dataclass(frozen=True)
class Drawn:
    """One picture, and how."""

    prompt: str
    seed: int
    guidance: GuidanceOptions
    guidance_scale: float
    num_inference_steps: int
    size: Size
    scale: float = 1.0  # of the adapter


def plain(folder: Path, model: Model, drawn: Drawn) -> str:
    """The code; `folder` holds the adapter."""
    which = "".join(f", {name}={model.run[name]!r}" for name in ("revision", "variant") if name in model.run)
    scaled = drawn.scale != 1
    name = ', adapter_name="lora"' if scaled else ""
    lines = [
        "import torch",
        "from diffusers import DiffusionPipeline",
        "",
        f"pipe = DiffusionPipeline.from_pretrained({model.base!r}{which})",
        f"pipe.load_lora_weights({str(folder)!r}, weight_name={ADAPTER!r}{name})",
    ]
    lines += [f'pipe.set_adapters("lora", {drawn.scale:g})'] if scaled else []
    if not drawn.guidance.is_usual:
        family = registry.class_of(model.pipeline_class)
        lines += ["", snippet.code(drawn.guidance, drawn.guidance_scale, drawn.seed, family), ""]
    return (
        "\n".join(lines)
        + f"""
image = pipe(
    {drawn.prompt!r}, height={drawn.size.height}, width={drawn.size.width},
    guidance_scale={drawn.guidance.stock_scale(drawn.guidance_scale)}, num_inference_steps={drawn.num_inference_steps},
    generator=torch.Generator().manual_seed({drawn.seed}),
).images[0]"""
    )
