"""The plan of a run in the words that a terminal shows."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from pipeline.adapter.layers import TargetModule
from pipeline.config import Run
from pipeline.data import tags
from pipeline.data.captions import fields_of
from pipeline.data.groups import weights_text
from pipeline.data.manifest import Manifest, column
from pipeline.data.sources import names_of, shown_by_source
from pipeline.data.split import MIN_IMAGES
from pipeline.families.base import Family
from pipeline.objective.noise_options import NoiseOptions
from pipeline.objective.options import LossOptions, ObjectiveOptions
from pipeline.objective.time_options import TimeOptions
from pipeline.remembered import cache_folder
from pipeline.run.disk import Needed
from pipeline.run.preflight import RunData
from pipeline.training.schedule import Schedule

Rows = tuple[tuple[str, str], ...]


def kept_rows(run: Run, held_out: Manifest | None, interval: int, reason: str) -> Rows:
    """What weights are measured by and which stay."""
    return (
        ("held out", _held_out_text(run, held_out, interval, reason)),
        ("kept", _keep_text(run, held_out)),
        ("checkpoints", f"every {run.train.checkpointing_steps} steps and at the end, {_kept_text(run)}"),
    )


def training_rows(run: Run, family: Family, schedule: Schedule, chosen: list[TargetModule]) -> Rows:
    """What moves, and how."""
    return (
        ("optimizer", f"{run.optim.optimizer_name}, weight decay {run.optim.adam_weight_decay:g}"),
        ("learning rate", _rate_text(run, schedule)),
        ("adapter", _adapter_text(run, chosen)),
        *_reading_rows(family),
        ("caption dropout", f"{run.data.dropout_share:.0%} of examples{_dropout_text(family)}"),
        *_encoder_rows(run, family),
        *_column_rows(run),
        *_objective_rows(run.objective),
        *([("guidance", f"of previews: {run.preview.guiding.text}")] if not run.preview.guiding.is_usual else []),
        *(
            [("tags", tags.said(run.data, kept=not run.adapter.train_text_encoder))]
            if run.data.varies_tags and not run.data.source
            else []
        ),
    )


def _reading_rows(family: Family) -> Rows:
    """How prompts are read and pictures noised, where not as a pipeline would by itself, and what a model is told."""
    number, skipped = family.num_chunks, family.options.clip_skip
    rows = []
    if family.options.long_prompts == "chunks":
        pieces = "1 chunk" if number == 1 else f"{number} chunks"
        rows.append(("prompts", f"read in {pieces} of 75 tokens (--long_prompts chunks)"))
    if skipped is not None:
        rows.append(("clip skip", f"{skipped}, as diffusers counts; A1111 and kohya call it {skipped + 1}"))
    if family.options.rescale_betas_zero_snr:
        rows.append(
            ("noise schedule", "rescaled to end in pure noise, for training and drawing (--rescale_betas_zero_snr)")
        )
    if family.is_told_guidance:
        told = family.options.training_guidance
        rows.append(("told guidance", f"{told:g} while it learns and is measured (--training_guidance)"))
    return tuple(rows)


def _encoder_rows(run: Run, family: Family) -> Rows:
    share, names = run.data.encoder_dropout, [*family.text_parts]
    if not share:
        return ()
    text = f"{share:.0%} of examples for each of {', '.join(names)} by itself; all at once {share ** len(names):.2%}"
    return (("encoder dropout", text),)


def _column_rows(run: Run) -> Rows:
    share, template = run.data.column_dropout, run.data.caption_template
    if not share or template is None or run.data.source:
        return ()
    columns = fields_of(template)
    ways = f"up to {2 ** len(columns)} captions of each picture"
    return (("columns", f"{share:.0%} of examples for each of {', '.join(columns)} without it: {ways}"),)


def data_rows(run: Run, data: RunData, sizes: str) -> Rows:
    """What is trained on, at which sizes; of several sources how often each is shown, and what it says for itself."""
    manifest = data.manifest
    number = sum(mask is not None for mask in column(manifest.examples, "mask"))
    more = f", {number} with a mask beside them" if run.data.has_masks else ""
    reason = "--resolution" if any(source.sides for source in run.data.sources) else "the model's own size"
    text = f"{manifest.origin}: {len(manifest.examples)} examples at {sizes} ({reason}){more}"
    return (
        ("data", text),
        *_source_rows(run, manifest),
        *_class_rows(run, data),
        *_weight_rows(run, data),
    )


def _objective_rows(options: ObjectiveOptions) -> Rows:
    """What of the loss is not as usual."""
    usual = dataclasses.asdict(ObjectiveOptions())
    owners = (TimeOptions, NoiseOptions, LossOptions)
    elsewhere = ("preservation_weight", "preservation_prompt", "prior_loss_weight")
    names = [field.name for owner in owners for field in dataclasses.fields(owner) if field.name not in elsewhere]
    said = [_said(name, getattr(options, name)) for name in names if getattr(options, name) != usual[name]]
    rows = [("loss", ", ".join(said))] if said else []
    rows += [("target", options.guided_text)] if options.guided_target is not None else []
    return (*rows, *([("preserved", options.preserved)] if options.preservation_weight else []))


def _weight_rows(run: Run, data: RunData) -> Rows:
    """What examples count."""
    rows = [("balance", data.balance.text())] if data.balance is not None else []
    if run.data.weight_column is not None:
        rows.append(("weights", weights_text(run.data.weight_column, data.manifest.examples)))
    return tuple(rows)


def _class_rows(run: Run, data: RunData) -> Rows:
    found = data.class_images
    if found is None:
        return ()
    parts = [f"{found.num_given} of {run.data.class_data_dir}"] if run.data.class_data_dir is not None else []
    parts += [f"{found.num_drawn} drawn by the base, {run.data.class_prompt!r}"] if found.num_drawn else []
    number = len(found.trained) + len(found.measured)
    text = f"{number} images ({', '.join(parts)}), {len(found.measured)} of them measured"
    if not run.data.with_prior_preservation:
        return (("class", f"{text} and none trained on (--with_prior_preservation does that)"),)
    how_often = f"{sum(example.is_class for example in data.shown.examples)} of {len(data.shown.examples)} examples"
    weight = run.objective.prior_loss_weight
    return (("class", f"{text} and not trained on; {how_often} of an epoch, their loss with weight {weight:g}"),)


def _source_rows(run: Run, manifest: Manifest) -> Rows:
    if not run.data.source:
        return ()
    rows = []
    counts, names = shown_by_source(run.data, manifest), names_of(run.data)
    for number, table in enumerate(run.data.source):
        images, examples = counts[number]
        total = len(manifest.examples)
        share = f"{examples} of {total} examples of an epoch ({examples / total:.0%})"
        said = [_said(key, value) for key, value in table.items() if key not in ("train_data_dir", "dataset_name")]
        rows.append((f"source {number + 1}", ", ".join([f"{names[number]}: {images} images", share, *said])))
    return tuple(rows)


def _said(name: str, value: Any) -> str:
    """An option with its value, in a sentence."""
    return name if value is True else f"no {name}" if value is False else f"{name} {json.dumps(value)}"


def disk_rows(run: Run, needed: Needed, output_dir: Path) -> Rows:
    """What is written, and where."""
    folder = cache_folder(run.data.cache_dir)
    return (
        ("cache", f"{needed.num_views} views{_prompts_text(run, needed.num_captions)}, in {folder}"),
        ("disk", needed.text()),
        ("output", str(output_dir)),
    )


def _dropout_text(family: Family) -> str:
    return ", for classifier-free guidance" if family.supports_cfg else ": its sampler has no classifier-free guidance"


def _held_out_text(run: Run, held_out: Manifest | None, interval: int, reason: str) -> str:
    asked = run.data.validation_split is not None
    if held_out is None:
        why = "--validation_split 0" if asked else f"chosen for fewer than {MIN_IMAGES} images"
        return f"nothing ({why}), so the last step cannot be compared with earlier ones"
    why = "--validation_split" if asked else "chosen: a tenth"
    return f"{len(held_out.examples)} examples ({why}); their loss every {interval} steps ({reason}) and at the end"


def _keep_text(run: Run, held_out: Manifest | None) -> str:
    what = "average of the weights" if run.optim.use_ema else "weights"
    if run.train.keep == "best" and held_out is not None:
        return f"the {what} with the lowest held-out loss (--keep best)"
    return f"the {what} of the last step ({'--keep last' if held_out else 'nothing is held out'})"


def _adapter_text(run: Run, chosen: list[TargetModule]) -> str:
    options = run.adapter
    ranks, scales = sorted({m.rank for m in chosen}), sorted({m.scale for m in chosen})
    dora = "DoRA (not in text encoders)" if options.train_text_encoder else "DoRA"
    extras = [name for name, on in (("rsLoRA", options.use_rslora), (dora, options.use_dora)) if on]
    extras += [f"dropout {options.lora_dropout:g}"] if options.lora_dropout else []
    extras += [options.lora_init] if options.lora_init != "gaussian" else []
    layers = f"those of {options.init_lora}" if options.init_lora else options.lora_layers
    num_weights = sum(module.num_weights for module in chosen)
    return ", ".join(
        [
            f"rank {_range_text(ranks)}, scaled by {_range_text(scales)}",
            *extras,
            f"{len(chosen)} layers ({layers}), {num_weights:,} weights, float32",
        ]
    )


def _prompts_text(run: Run, number: int) -> str:
    if run.adapter.train_text_encoder:
        return " and no prompt embeddings (the text encoders learn, so each step computes them)"
    return f" and {number} captions"


def _range_text(values: list[Any]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def model_text(family: Family, prediction: str) -> str:
    """Which model, and what it predicts."""
    if family.source.file is None:
        return f"{family.source.folder} ({family.name}, {prediction})"
    return f"{family.source.file} ({family.name}; {prediction}, as the configuration in {family.source.folder} says)"


def _rate_text(run: Run, schedule: Schedule) -> str:
    chosen = f" (chosen for {run.optim.optimizer_name})" if run.optim.learning_rate is None else ""
    cycles = f" in {schedule.num_cycles} cycles" if schedule.num_cycles > 1 else ""
    return f"{schedule.peak:g}{chosen}, {schedule.kind}{cycles} after {schedule.warmup_steps} steps of warm-up"


def batch_text(run: Run, num_processes: int) -> str:
    """What an optimizer step sees."""
    train = run.train
    total = train.examples_per_process * num_processes
    return (
        f"{total} examples ({train.train_batch_size} per micro-step x {train.gradient_accumulation_steps} "
        f"x {num_processes} process{'es' if num_processes > 1 else ''})"
    )


def _kept_text(run: Run) -> str:
    limit = run.train.checkpoints_total_limit
    return "all kept" if limit is None else f"the newest {limit} kept"
