"""Plain diffusers code that draws a picture as it was drawn here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.adapter.names import FILE as ADAPTER
from pipeline.evaluation import snippet
from pipeline.families import registry, schedules
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
    """The code; `folder` holds the adapter. What a file says goes into it as literals."""
    run, named = model.run, ', adapter_name="lora"' if drawn.scale != 1 else ""
    which = "".join(f", {name}={run[name]!r}" for name in ("revision", "variant") if name in run)
    lines = [
        "import torch",
        "from diffusers import DiffusionPipeline",
        "",
        *_unsaid(run),
        f"pipe = DiffusionPipeline.from_pretrained({model.base!r}{which})",
        f"pipe.load_lora_weights({str(folder)!r}, weight_name={ADAPTER!r}{named})",
    ]
    lines += [f'pipe.set_adapters("lora", {drawn.scale!r})'] if drawn.scale != 1 else []
    lines += schedules.as_code(run)
    if run.get("clip_skip") and model.pipeline_class == "StableDiffusionPipeline":
        lines += ["if not hasattr(pipe.text_encoder, 'text_model'):  # where diffusers 0.42 looks for clip_skip"]
        lines += ["    pipe.text_encoder.__dict__['text_model'] = pipe.text_encoder"]
    if not drawn.guidance.is_usual:
        family = registry.class_of(model.pipeline_class)
        lines += ["", snippet.code(drawn.guidance, drawn.guidance_scale, drawn.seed, family), ""]
    told = "".join(f" {name}={run[name]!r}," for name in ("clip_skip", "max_sequence_length") if run.get(name))
    return (
        "\n".join(lines)
        + f"""
image = pipe(
    {drawn.prompt!r}, height={drawn.size.height}, width={drawn.size.width},{told}
    guidance_scale={drawn.guidance.stock_scale(drawn.guidance_scale)!r},
    num_inference_steps={drawn.num_inference_steps!r},
    generator=torch.Generator().manual_seed({drawn.seed!r}),
).images[0]"""
    )


def _unsaid(run: Mapping[str, Any]) -> list[str]:
    """A comment where a run is read or loaded otherwise than these few lines do."""
    chunks, vae = run.get("prompt_chunks"), run.get("pretrained_vae_model_name_or_path")
    said = ["in chunks of 75 tokens"] if isinstance(chunks, int) and chunks > 1 else []
    said += ["with another autoencoder"] if vae else []
    said += ["from one file"] if run.get("single_file_config") else []
    return (
        [f"# This run was drawn {' and '.join(said)}: README.md beside the adapter has the lines for that."]
        if said
        else []
    )
