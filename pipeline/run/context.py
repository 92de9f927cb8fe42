"""Everything about a run that is decided before anything large is loaded."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

from pipeline import cards, run_toml
from pipeline.adapter.files import cutting
from pipeline.cards import Device
from pipeline.config import Run, giving_way
from pipeline.data.cache import Cache
from pipeline.data.class_images import apart, num_to_draw, promised
from pipeline.data.manifest import Manifest, column
from pipeline.data.split import FOR_FEW
from pipeline.engine import Engine, Precision
from pipeline.errors import ConfigError
from pipeline.evaluation.extractors import table as extractors
from pipeline.evaluation.sample import guidance_clashes
from pipeline.families import fit, registry
from pipeline.families.base import Family
from pipeline.objective.paths import DiffusionPath
from pipeline.remembered import cache_folder
from pipeline.run import data_notes, prompts, shapes, speed
from pipeline.run.cost.devices import at_hand
from pipeline.run.cost.estimate import estimate_of
from pipeline.run.plan import Plan, make_plan
from pipeline.run.preflight import MAX_DRAWN, RunData
from pipeline.sampling.options import SCALES


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """A planned run: all that its stages need to know."""

    run: Run
    engine: Engine
    family: Family
    path: DiffusionPath
    data: RunData
    plan: Plan
    folder: Path

    @functools.cached_property
    def cache(self) -> Cache:
        """Where encoded examples lie; the encoders' files are hashed for it when it is first asked for."""
        run, source, precision = self.run, self.family.source, self.engine.precision.name
        return Cache(
            cache_folder(run.data.cache_dir),
            image_encoder=source.fingerprint(("vae",), precision),
            text_encoder=source.fingerprint(self.family.encoders, precision + run.model.reading_key),
        )


def prepare(
    run: Run,
    data: RunData,
    folder: Path,
    *,
    yielding: frozenset[str] = frozenset(),
    notes: tuple[str, ...] = (),
    weights: bool = True,
    card: str | None = None,
) -> RunContext:
    """Check everything that can be checked without loading weights, and plan the run; they are downloaded if wanted.

    With a `card` the plan is for that one, else for the device at hand. What the model or the data have no use for
    gives way if it is `yielding`; `notes` join the plan's. Raises ConfigError or CheckpointError, naming all that does
    not go together.
    """
    engine = engine_for(run, card)
    family = registry.find(run.model, run.data.cache_dir, weights=weights)
    _ = family.path(run.objective)  # raises for a model that cannot be trained, a refiner say
    captions = [caption for texts in column(data.manifest.examples, "captions") for caption in texts]
    there = weights or run.model.local_folder is not None
    fit.require_fitting(family, captions, with_weights=there, cache=cache_folder(run.data.cache_dir))
    run, lowered = with_what_is_left(run, yielding)
    run = resumed_batch(resolved(run, family, engine, folder), folder)
    run, family = prompts.in_chunks(run, family, data)
    path = family.path(run.objective)
    run, gave_way = giving_way(run, clashes(run, family, path, data), yielding)
    require_fitting(run, family, path, data)
    path = family.path(run.objective)
    data, drawn = to_draw(run, family, data)
    data = with_class(run, family, data)
    device = least_at_hand(engine) if card is None else cards.CARDS[cards.spelled(card)]
    run, cut = with_batch(run, engine, family, path, data=data, device=device)
    context = planned(run, engine, family, path, data=data, folder=folder, device=device, dry=not weights)
    others = data_notes.of_other("test set", data.test_set if run.data.evaluation_data_dir is not None else None)
    others += data_notes.of_other("class", data.class_given)
    said = notes + lowered + gave_way + cut + context.plan.notes + prompts.cut(run, family, data) + others + drawn
    return dataclasses.replace(context, plan=dataclasses.replace(context.plan, notes=said))


def planned(
    run: Run,
    engine: Engine,
    family: Family,
    path: DiffusionPath,
    *,
    data: RunData,
    folder: Path,
    device: Device | None = None,
    dry: bool = False,
) -> RunContext:
    """A checked run with its plan, for a `device` or the one at hand.

    Raises ConfigError where its numbers do not fit together, or it does not fit the device.
    """
    device = device or least_at_hand(engine)
    possible = shapes.offered(run, family)
    sampler = shapes.sampler_for(run, data.shown, possible, engine.num_processes)
    estimate = estimate_of(
        run, family, path, data=data, buckets=sampler.buckets, dtype=engine.precision.dtype, device=device
    )
    plan = make_plan(
        run,
        family,
        path,
        data=data,
        possible=possible,
        sampler=sampler,
        precision=engine.precision,
        how=speed.choose(run, device=engine.device if device.is_here else device, precision=engine.precision),
        num_processes=engine.num_processes,
        output_dir=folder,
        estimate=estimate,
        is_estimated=estimate.is_wanted(run, dry=dry),
    )
    path = path.to(engine.device)
    return RunContext(run=run, engine=engine, family=family, path=path, data=data, plan=plan, folder=folder)


def with_batch(
    run: Run, engine: Engine, family: Family, path: DiffusionPath, *, data: RunData, device: Device
) -> tuple[Run, tuple[str, ...]]:
    """The run with a number for --train_batch_size auto, the same in every process, and a note that says how."""
    if run.train.train_batch_size != "auto":
        return run, ()

    def fitted() -> tuple[Run, tuple[str, ...]]:
        buckets = shapes.sampler_for(run, data.shown, shapes.offered(run, family), engine.num_processes).buckets
        dtype = engine.precision.dtype
        return estimate_of(run, family, path, data=data, buckets=buckets, dtype=dtype, device=device).fitted(run)

    return engine.on_main(fitted)


def engine_for(run: Run, card: str | None) -> Engine:
    """What executes the run; for a card that is not here nothing does, and its precision is the one it has there."""
    train, asked = run.train, run.train.mixed_precision
    engine = Engine(asked if card is None else "no", allow_tf32=train.allow_tf32, deterministic=train.deterministic)
    if card is not None:
        why = "asked for by --mixed_precision" if asked else "as accelerate_configs/single_gpu.yaml says"
        where = f"for {cards.CARDS[cards.spelled(card)].name}, which is not here"
        engine.precision = Precision(asked or "bf16", f"{why}; {where}")
    return engine


def least_at_hand(engine: Engine) -> Device:
    """The device with the least free memory of all processes: what is decided by it is so for all of them."""
    devices: list[Device] = engine.gather(at_hand(engine.device, engine.num_processes))
    return min(devices, key=lambda device: device.memory_bytes)


def resumed_batch(run: Run, folder: Path) -> Run:
    """With --train_batch_size auto, a run goes on with what it was cut into when it began, on whatever device.

    Unless another number of examples is asked for by now, which is another run's.
    """
    begun = folder / "run.toml"
    if run.train.train_batch_size != "auto" or run.train.resume_from_checkpoint is None or not begun.is_file():
        return run
    names = ("train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
    recorded = run.replaced(**{name: value for name, value in run_toml.read(begun).items() if name in names})
    return recorded if recorded.train.examples_per_process == run.train.examples_per_process else run


def with_class(run: Run, family: Family, data: RunData, drawn: Manifest | None = None) -> RunData:
    """The data with the pictures of the class; what stands for those that the base has not drawn, until they are."""
    if not run.data.has_class:
        return data
    number = num_to_draw(run.data, data.class_given)
    if number and drawn is None:
        drawn = promised(run.data, number, shapes.offered(run, family).square)
    return dataclasses.replace(data, class_images=apart(run.data, data.class_given, drawn))


def resolved(run: Run, family: Family, engine: Engine, folder: Path) -> Run:
    """The run with the values that only the model and the machine decide."""
    guidance = run.preview.guidance_scale
    return run.replaced(
        mixed_precision=engine.precision.name,
        output_dir=str(folder),
        caption_dropout=run.data.dropout_for(supports_cfg=family.supports_cfg),
        guidance_scale=usual_guidance(run, family) if guidance is None else guidance,
    )


def usual_guidance(run: Run, family: Family) -> float:
    """The pipeline's own guidance, or what is left of it."""
    if run.preview.guidance_against != "unconditional":
        return SCALES[run.preview.guidance_against]
    return left_of(family.default_guidance, run)


def with_what_is_left(run: Run, yielding: frozenset[str]) -> tuple[Run, tuple[str, ...]]:
    """The run with what is left of a `yielding` guidance scale, and a note that says so; what a user gave stays."""
    given = run.preview.guidance_scale
    if given is None or "guidance_scale" not in yielding or run.preview.guidance_against != "unconditional":
        return run, ()
    left = left_of(given, run)
    if left == given:
        return run, ()
    learnt = run.objective.guided_target_scale
    note = f"--guidance_scale {given:g} gives way: {learnt:g} is learnt and the two multiply, so previews take {left:g}"
    return run.replaced(guidance_scale=left), (note,)


def left_of(guidance_scale: float, run: Run) -> float:
    """What is left of a guidance scale where some is learnt, for the two multiply; at least 1, which is none."""
    if run.objective.guided_target is None:
        return guidance_scale
    return max(1.0, guidance_scale / run.objective.guided_target_scale)


def clashes(run: Run, family: Family, path: DiffusionPath, data: RunData) -> list[str]:
    """Options that have no meaning for the model or the data, one sentence each."""
    found = run.objective.clashes(is_flow=path.prediction == "flow")
    if run.objective.guided_target is not None and not family.supports_cfg:
        found.append(
            f"--guided_target: {family.name} was distilled to answer as if guided, and has no unconditional "
            "prediction; leave it out."
        )
    elif run.objective.learns_its_own_unconditional and not run.data.dropout_share:
        found.append(
            "--guided_target_against live leads away from what the model predicts without a caption, which "
            "--caption_dropout 0 never trains; give 0.1, or against the base."
        )
    if run.objective.reads_wrong_captions and set.intersection(*map(set, column(data.manifest.examples, "captions"))):
        found.append(
            "--guided_target contrastive leads away from another picture's caption, and all pictures share one."
        )
    if run.adapter.train_text_encoder and not family.trainable_encoders:
        found.append(f"--train_text_encoder: {family.name} has no CLIP text encoder; leave it out.")
    if run.data.encoder_dropout and not family.text_parts:
        found.append(f"--encoder_dropout: {family.name} has one text encoder, which is dropped by --caption_dropout.")
    found += guidance_clashes(run.preview.guiding, family, is_flow=path.prediction == "flow")
    if run.preview.guidance_against != "unconditional" and num_to_draw(run.data, data.class_given):
        found.append(
            f"--guidance_against {run.preview.guidance_against}: --guidance_scale is for previews then, and images of "
            "the class are drawn with it too; give all of them in --class_data_dir."
        )
    if run.adapter.comfyui_rank is not None:
        found += comfyui_clashes(family, run.adapter.comfyui_rank)
    if data.held_out is None and run.data.validation_split:
        found.append(f"{FOR_FEW}.")
    if data.held_out is None and run.train.early_stopping_patience is not None:
        found.append("--early_stopping_patience needs held-out images: give --validation_split, for example 0.1.")
    return found


def comfyui_clashes(family: Family, rank: int) -> list[str]:
    """Why a DoRA of this family cannot be written for ComfyUI so."""
    kind = type(family)
    if not (kind.comfyui_prefixes or kind.comfyui_knows_original_names or kind.comfyui_reads_diffusers):
        return [f"--comfyui_rank: ComfyUI reads no adapter of {family.name}; leave it out."]
    if rank == 0 and cutting.are_fused(kind):
        return [f"--comfyui_rank 0: ComfyUI has layers of {family.name} fused; give a rank, as in --comfyui_rank 64."]
    return []


def require_fitting(run: Run, family: Family, path: DiffusionPath, data: RunData) -> None:
    """Raise ConfigError for options that have no meaning for the model or the data."""
    found = clashes(run, family, path, data)
    if found:
        raise ConfigError("\n".join(found))
    asserted = run.model.prediction_type
    if asserted not in (None, path.prediction):
        raise ConfigError(
            f"--prediction_type {asserted}: the scheduler of {family.source.folder} says {path.prediction}. "
            "If that is wrong, correct its scheduler_config.json, so that sampling agrees with training."
        )


def to_draw(run: Run, family: Family, data: RunData) -> tuple[RunData, tuple[str, ...]]:
    """The data with the test images that are drawn: a few where nothing measures them, with a note that says so."""
    test_set = data.test_set
    is_measured = extractors.named(run.preview.clip_model_name_or_path, family.source) is not None
    if test_set is None or is_measured or len(test_set.examples) <= MAX_DRAWN:
        return data, ()
    note = f"{MAX_DRAWN} of {len(test_set.examples)} test images are drawn; --clip_model_name_or_path measures all"
    return dataclasses.replace(data, test_set=test_set.limited(MAX_DRAWN)), (note,)
