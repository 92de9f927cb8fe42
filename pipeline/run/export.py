"""Write the final adapter files.

Each is written to a temporary folder and read back, the main one by diffusers' own loader, before it gets its name.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

import pipeline
from pipeline import rng
from pipeline.adapter import verify
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files import kohya, writer
from pipeline.adapter.names import FILE, is_magnitude
from pipeline.conditioning import stack
from pipeline.console import tell
from pipeline.families.base import Family
from pipeline.geometry import Size, whole
from pipeline.run.build import Models
from pipeline.run.context import RunContext
from pipeline.run.encode import verified_caption
from pipeline.sharing import documents
from pipeline.sharing.redact import redactor

TOLERANCE = 1e-3  # of the relative error after reload
LEAST_LATENTS = 16  # on the shorter side of what it is proven on: a UNet's lowest level has four of them left
TEMP = ".export"  # in the output folder: what is there is not yet verified


@dataclass(frozen=True)
class Exported:
    """The weights of which step were written, and what the files say of them."""

    step: int
    rank: int  # the largest
    alpha: float  # the commonest
    comfyui: Path | None  # the file for it, where it needs one
    verification: verify.VerificationResult


def export(context: RunContext, models: Models, kept_step: int) -> Exported:
    """Write the adapter and verify it; raises TrainingStopped where it is not what was trained."""
    family, engine = context.family, context.engine
    size = proven_at(family, context.plan.size)
    rank, alpha = writer.rank_and_alpha(models.adapted)
    base = documents.base_model(context.run.model, family, context.run.preview.guidance)
    facts = documents.for_header(base, ", ".join(context.run.data.trigger_words) or None)
    note = {"version": pipeline.__version__, "family": family.name, "rank": rank, "step": kept_step, **facts}
    sizes = family.size_states(whole(size))

    def predict() -> torch.Tensor:
        rows = [{**models.prompts(caption), **sizes} for caption in (verified_caption(context), None)]
        conditioning = stack(rows, family.ragged).to(engine.device, torch.float32)
        return family.denoise(models.adapted.denoiser, x_t, t, conditioning)

    x_t = rng.normal(0, 0, "", "verify", (2, *family.latent_shape(size))).to(engine.device)
    t = torch.tensor([0.3, 0.8], device=engine.device)
    temp = context.folder / TEMP
    shutil.rmtree(temp, ignore_errors=True)  # of a run that was killed here
    file = writer.write(temp, models.adapted, json.dumps(note, sort_keys=True))
    with models.adapted.in_float32():  # half precision would drown a small effect in rounding
        verification = verify.verify(file, family, models.adapted, predict=predict, tolerance=TOLERANCE)
    comfyui = write_for_comfyui(context, models.adapted, facts)
    os.replace(file, context.folder / FILE)
    temp.rmdir()
    return Exported(kept_step, rank, alpha, comfyui, verification)


def proven_at(family: Family, size: Size) -> Size:
    """Half of each side, a quarter of the work, where attention still chooses between tokens on every level.

    Whether two adapters are the same does not depend on the size: every layer is used at any.
    """
    multiple = family.size_multiple
    half = Size(*(side // 2 // multiple * multiple for side in (size.width, size.height)))
    return half if min(family.latent_shape(half)[1:]) >= LEAST_LATENTS else size


def write_for_comfyui(context: RunContext, adapted: AdaptedModels, facts: dict[str, str]) -> Path | None:
    """Write a second file if ComfyUI cannot read the first; of DoRA, which it computes differently, where asked for."""
    family, wanted = context.family, context.run.adapter.comfyui_rank
    is_dora = any(is_magnitude(name) for name in adapted.parameters())
    own = family.comfyui_prefixes or family.comfyui_knows_original_names
    if wanted is None if is_dora else not own:
        return None
    title = redactor(facts.get("trigger", ""))(context.folder.resolve().name)
    name = re.sub(r"[^\w.-]+", "-", title).strip("-.") or "adapter"
    rank, alpha = writer.rank_and_alpha(adapted)
    header = kohya.modelspec(
        architecture=family.architecture,
        title=name,
        size=context.plan.size,
        rank=rank,
        alpha=alpha,
        trigger=facts.get("trigger"),
        licence=facts.get("licence"),
    )
    path, temp = context.folder / "comfyui" / f"{name}.safetensors", context.folder / TEMP / "comfyui.safetensors"
    lost = writer.write_for_comfyui(temp, adapted, type(family), header, wanted or None)
    if lost:
        tell("\n".join([f"What is lost of the DoRA at rank {wanted}, in {path}:", *lost]))
    path.parent.mkdir(exist_ok=True)
    os.replace(temp, path)
    return path
