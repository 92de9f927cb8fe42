"""The files that a run hands over: written, read back by those who will load them, and only then given their names."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

import pipeline
from pipeline import rng
from pipeline.adapter import formats, kohya, verify
from pipeline.adapter.adapted import Adapted
from pipeline.assemble import Models
from pipeline.conditioning import stack, whole
from pipeline.setting import Setting
from pipeline.sharing import documents
from pipeline.sharing.private import cleaner

TOLERANCE = 1e-3  # of the check, in units of the adapter's own effect


@dataclass(frozen=True)
class HandedOver:
    """What a run hands over: the weights of a step, and what its files say of them."""

    step: int
    rank: int  # the largest
    alpha: float  # the commonest
    comfyui: Path | None  # the file for it, where it needs one
    verdict: verify.Verdict


def hand_over(setting: Setting, models: Models, kept_step: int) -> HandedOver:
    """Write the canonical adapter and prove it; raises TrainingStopped where it is not what was trained."""
    family, engine = setting.family, setting.engine
    rank, alpha = formats.strength(models.adapted)
    base = documents.base_model(setting.run.model, family, setting.run.preview.guidance)
    facts = documents.for_header(base, setting.run.data.trigger_word)
    note = {"version": pipeline.__version__, "family": family.name, "rank": rank, "step": kept_step, **facts}
    example = setting.manifest.examples[0]
    size = family.size_states(whole(setting.plan.resolution))

    def predict() -> torch.Tensor:
        rows = [{**models.texts(caption), **size} for caption in (example.caption, None)]
        states = stack(rows).to(engine.device, torch.float32)
        return family.denoise(models.adapted.denoiser, x_t, t, states)

    x_t = rng.normal(0, 0, "", "verify", (2, *family.latent_shape(setting.plan.resolution))).to(engine.device)
    t = torch.tensor([0.3, 0.8], device=engine.device)
    aside = setting.folder / ".handover"  # under its own name only once it is proven
    file = formats.write(aside, models.adapted, json.dumps(note, sort_keys=True))
    with models.adapted.in_float32():  # half precision would drown a small effect in rounding
        verdict = verify.verify(file, family, models.adapted, predict, TOLERANCE)
    comfyui = write_for_comfyui(setting, models.adapted, facts)
    os.replace(file, setting.folder / formats.FILE)
    aside.rmdir()
    return HandedOver(kept_step, rank, alpha, comfyui, verdict)


def write_for_comfyui(setting: Setting, adapted: Adapted, facts: dict[str, str]) -> Path | None:
    """A second file where ComfyUI does not read the first; ComfyUI's DoRA is another, so there is none of that."""
    family = setting.family
    is_dora = any(".lora_magnitude_vector." in name for name in adapted.parameters())
    if not family.comfyui_prefixes or is_dora:
        return None
    title = cleaner(facts.get("trigger", ""))(setting.folder.resolve().name)
    name = re.sub(r"[^\w.-]+", "-", title).strip("-.") or "adapter"
    rank, alpha = formats.strength(adapted)
    header = kohya.modelspec(
        architecture=family.architecture,
        title=name,
        resolution=setting.plan.resolution,
        rank=rank,
        alpha=alpha,
        trigger=facts.get("trigger"),
        licence=facts.get("licence"),
    )
    path = setting.folder / "comfyui" / f"{name}.safetensors"
    formats.write_for_comfyui(path, adapted, family.comfyui_prefixes, header)
    return path
