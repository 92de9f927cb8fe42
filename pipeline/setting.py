"""Everything about a run that is decided before anything large is loaded, and whose output folder it is."""

import dataclasses
import json
import platform
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import pipeline
from pipeline import atomic, errors, hashing, starter
from pipeline.adapter import formats
from pipeline.config import Run
from pipeline.console import tell
from pipeline.data import cache as caches
from pipeline.data.card import Card
from pipeline.data.manifest import Manifest
from pipeline.engine import Engine
from pipeline.evaluation.previews import forget_after
from pipeline.families import reading, registry
from pipeline.families.base import Family
from pipeline.hashing import digest
from pipeline.material import MAX_DRAWN, Material
from pipeline.plan import Plan, cache_folder, make_plan
from pipeline.status import Status
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Checkpoints

# What may differ between a run and its continuation without changing a single weight.
NOT_IDENTITY = frozenset(
    {
        "pretrained_model_name_or_path",
        "single_file_config",
        "pretrained_vae_model_name_or_path",
        "revision",
        "variant",
        "train_data_dir",
        "dataset_name",
        "dataset_config_name",
        "evaluation_data_dir",
        "cache_dir",
        "dataloader_num_workers",
        "deterministic",
        "output_dir",
        "overwrite_output_dir",
        "resume_from_checkpoint",
        "gradient_checkpointing",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "report_to",
        "logging_dir",
        "keep",
        "early_stopping_patience",
        "validation_split",
        "validation_prompt",
        "num_validation_images",
        "validation_epochs",
        "validation_steps",
        "guidance_scale",
        "num_inference_steps",
        "clip_model_name_or_path",
        "num_train_epochs",
        "max_train_steps",
        "prediction_type",
        "image_column",
        "caption_column",
        "caption_template",
        "trigger_word",
        "max_train_samples",
        "on_bad_image",
        "missing_caption",
        "init_lora",
        "push_to_hub",
        "hub_model_id",
        "hub_token",
        "data_card",
        "allow_undocumented_data",
    }
)
DROPOUT = 0.1  # of captions, where the sampler has a null (Ho & Salimans 2022, table 1)
PATIENCE_SECONDS = 60.0  # with another run in the same output folder, which may be ending
OWN_NAMES = (
    ".handover",
    "samples",
    "logs",
    "report.html",
    "run.toml",
    "environment.json",
    "status.json",
    "metrics.jsonl",
    "evaluation.json",
    "result.json",
    "documents.json",
    "README.md",
    "comfyui",
)


@dataclass(frozen=True)
class Setting:
    """A planned run: everything known before anything large is loaded."""

    run: Run
    engine: Engine
    family: Family
    manifest: Manifest  # what is trained on
    held_out: Manifest | None  # of the same dataset, for the held-out loss
    unseen: Manifest | None  # images never trained on
    card: Card | None  # of the dataset
    plan: Plan
    cache: caches.Cache
    folder: Path


def prepare(run: Run, material: Material, folder: Path) -> Setting:
    """Check everything that can be checked without loading weights."""
    train = run.train
    engine = Engine(train.mixed_precision, allow_tf32=train.allow_tf32, deterministic=train.deterministic)
    run = run.replaced(mixed_precision=engine.precision.name, output_dir=str(folder))
    family = registry.find(run.model, starter.BASE, run.data.cache_dir)
    run = run.replaced(
        caption_dropout=run.data.caption_dropout
        if run.data.caption_dropout is not None
        else DROPOUT * family.uses_null,
        guidance_scale=family.default_guidance if run.preview.guidance_scale is None else run.preview.guidance_scale,
    )
    found = family.path(run.objective, family.native_pixels).prediction
    clashes = run.objective.clashes(is_flow=found == "flow")
    if run.adapter.train_text_encoder and not family.trainable_encoders:
        clashes.append(f"--train_text_encoder: {family.name} has no CLIP text encoder; leave it out.")
    if clashes:
        raise errors.ConfigError("\n".join(clashes))
    asserted = run.model.prediction_type
    if asserted not in (None, found):
        raise errors.ConfigError(
            f"--prediction_type {asserted}: the scheduler of {family.folder} says {found}. "
            "If that is wrong, correct its scheduler_config.json, so that sampling agrees with training."
        )
    manifest, held_out = material.manifest, material.held_out
    plan = make_plan(run, family, manifest, held_out, engine.precision, engine.num_processes, folder)
    plan = dataclasses.replace(plan, notes=plan.notes + cut_captions(run, family, manifest))
    unseen, note = to_draw(run, family, material.unseen)
    plan = dataclasses.replace(plan, notes=plan.notes + note)
    precision, limit = engine.precision.name, run.model.max_sequence_length
    length = "" if limit is None else f" {limit} tokens"
    cache = caches.Cache(
        cache_folder(run),
        image_encoder=fingerprint_of(family, ("vae",), precision),
        text_encoder=fingerprint_of(family, family.encoders, precision + length),
    )
    return Setting(run, engine, family, manifest, held_out, unseen, material.card, plan, cache, folder)


def to_draw(run: Run, family: Family, unseen: Manifest | None) -> tuple[Manifest | None, tuple[str, ...]]:
    """The unseen images to draw, twice each: a few where nothing measures them, with a note that says so."""
    is_measured = run.preview.clip_model_name_or_path is not None or family.folder == starter.BASE
    if unseen is None or is_measured or len(unseen.examples) <= MAX_DRAWN:
        return unseen, ()
    note = f"{MAX_DRAWN} of {len(unseen.examples)} unseen images are drawn; --clip_model_name_or_path measures all"
    return unseen.limited(MAX_DRAWN), (note,)


def cut_captions(run: Run, family: Family, manifest: Manifest) -> tuple[str, ...]:
    """A note for every caption and prompt whose end the text encoder never reads, with that end."""
    said = [caption for example in manifest.examples for caption in example.captions]
    lost = reading.truncated(family, dict.fromkeys([*said, *run.preview.validation_prompt]))
    return tuple(f"cut by the text encoder: {caption[:40]!r}... loses {end!r}" for caption, end in lost.items())


def fingerprint_of(family: Family, parts: Collection[str], precision: str = "") -> str:
    """A hash of some parts of a model: of their files, and of the single file where the weights are in one."""
    place = family.place
    extra = f"{precision} {place.variant}".lstrip()
    if place.file is not None:
        extra += f" {hashing.digest_of_file(place.file)}"
    if place.vae is not None and "vae" in parts:
        extra += f" {hashing.fingerprint_of(place.vae, ['.'])}"
    return hashing.fingerprint_of(family.folder, parts, extra)


def identity_of(setting: Setting) -> dict[str, Any]:
    """All that decides the trained weights, by name; equal identities make a resume exact."""
    family = setting.family
    kept = {name: value for name, value in setting.run.flat().items() if name not in NOT_IDENTITY}
    return {
        **kept,
        "dataset": setting.manifest.fingerprint,
        "held_out": setting.held_out.fingerprint if setting.held_out else None,
        "base_model": fingerprint_of(family, (family.denoiser, "scheduler")),
        "encoders": digest((setting.cache.image_encoder + setting.cache.text_encoder).encode()),
        "start": hashing.fingerprint_of_adapter(setting.run.adapter.init_lora),
        "num_steps": setting.plan.num_steps,
        "global_batch": setting.plan.global_batch,
        "resolution": setting.plan.resolution,
    }


def claim(setting: Setting, checkpoints: Checkpoints, status: Status) -> Path | None:
    """Make the output folder this run's; returns the checkpoint to go on from. Refuses a folder that is in use."""
    train_options, folder = setting.run.train, setting.folder
    resume = train_options.resume_from_checkpoint
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not atomic.hold_folder(folder, patience=0.0):
            tell(f"Another run is still writing to {folder}; waiting for it to end")
            if not atomic.hold_folder(folder, PATIENCE_SECONDS):
                raise errors.ConfigError(
                    f"Another run does not stop writing to {folder}; stop it, or give another --output_dir."
                )
        found = checkpoints.find(resume) if resume else None
        if found is not None:
            checkpoints.require_identity(found)
        if train_options.overwrite_output_dir:
            _remove_own(folder)
        if found is not None and is_complete(setting, found):
            return found
        status.claimed = True
        forget_after(folder / "samples", checkpoint.step_of(found) if found else 0)
        _note_other_threads(folder)
        kept = setting.run.replaced(overwrite_output_dir=False, resume_from_checkpoint=None)
        atomic.write_text(folder / "run.toml", kept.to_toml())
        atomic.write_text(folder / "environment.json", json.dumps(environment(setting), indent=2) + "\n")
        status.write("starting", "encoding images and captions")
    except OSError as error:
        raise errors.ConfigError(f"--output_dir {folder} cannot be written: {error.strerror}.") from error
    return found


def _note_other_threads(folder: Path) -> None:
    path = folder / "environment.json"
    before = json.loads(path.read_text(encoding="utf-8"))["threads"] if path.is_file() else torch.get_num_threads()
    if before != torch.get_num_threads():
        tell(f"note: {torch.get_num_threads()} threads now, {before} before: sums are rounded in another order")


def is_complete(setting: Setting, found: Path) -> bool:
    """Whether the run has said 'done' after the very step of this checkpoint, its last."""
    path = setting.folder / "status.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"state": "none"}
    done = said["state"] == "done" and said["step"] == checkpoint.step_of(found)
    return done and (setting.folder / formats.FILE).is_file()


def environment(setting: Setting) -> dict[str, Any]:
    """Versions, threads and the plan: what a run.toml alone does not say."""
    packages = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy", "pillow")
    return {
        "t2i_lora": pipeline.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": str(setting.engine.device),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in packages},
        "plan": [list(row) for row in setting.plan.rows],
        "notes": list(setting.plan.notes),
        "dataset": setting.manifest.fingerprint,
        "resolution": setting.plan.resolution,
        "base_model": setting.run.model.pretrained_model_name_or_path or str(starter.BASE),
    }


def _remove_own(folder: Path) -> None:
    own = [folder / name for name in (*OWN_NAMES, formats.FILE)] + checkpoint.existing(folder)
    for path in own:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
