"""A run from end to end: plan -> data -> train -> verify -> report. The only module that may import every room."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

import pipeline
from pipeline import draws, durable, errors, starter
from pipeline.adapter import formats, lora, verify
from pipeline.conditioning import Conditioning, stack
from pipeline.config import Command
from pipeline.data import cache as caches
from pipeline.data.loader import CachedExamples
from pipeline.data.sampler import StepSampler
from pipeline.evaluation import unseen
from pipeline.evaluation.previews import Previews
from pipeline.evaluation.sample import Sampler, SampleSettings, Shot
from pipeline.objective.weighting import weighting_for
from pipeline.report import page
from pipeline.setting import Setting, claim, identity_of, is_complete, prepare
from pipeline.status import Status, launched_by_accelerate, resume_command
from pipeline.training import tracking
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.loop import Outputs, Task, train
from pipeline.training.optim import optimizer_for
from pipeline.training.signals import StopSignal
from pipeline.training.tracking import tell

TOLERANCE = 1e-3  # of the hand-over check, in units of the adapter's own effect


def execute(command: Command, status: Status) -> int:
    """Carry out a parsed command line; returns the exit code. What goes wrong is raised."""
    quieten_libraries()
    started = time.monotonic()
    setting = prepare(command, status.folder)
    tell(setting.plan.text())
    if command.dry_run:
        tell("Dry run: everything checked, nothing written.")
        return errors.EXIT_DONE
    checkpoints = Checkpoints(setting.folder, identity_of(setting), setting.run.train.checkpoints_total_limit)
    found = claim(setting, checkpoints, status)
    if found is not None and is_complete(setting, found):
        tell(f"Already complete: {setting.folder / formats.FILE} holds step {setting.plan.num_steps}.")
        return errors.EXIT_DONE
    encode(setting)
    denoiser = load_denoiser(setting)
    previews = previews_for(setting, denoiser)
    fit(setting, denoiser, previews, checkpoints, found, status)
    status.write("finishing", "trained; checking the adapter")
    verdict = hand_over(setting, denoiser)
    tell(
        f"Handed over {setting.folder / formats.FILE}: reloaded by diffusers it is {verdict.distance:.1e} of its own "
        f"effect from the trained adapter ({verdict.num_layers} layers)."
    )
    return finish(setting, previews, verdict, status, started)


def quieten_libraries() -> None:
    """Only errors from the libraries: what of their warnings concerns a user is checked and said by us."""
    import diffusers
    import transformers

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def encode(setting: Setting) -> None:
    """Fill the cache with what it lacks; the encoders are gone again afterwards."""
    run, family, cache = setting.run, setting.family, setting.cache
    views = caches.missing_views(cache, setting.manifest.examples, run.train.seed, setting.plan.resolution, run.data)
    prompts = [example.caption for example in setting.manifest.examples] + [shot.prompt for shot in shots_of(setting)]
    prompts += [example.caption for example in setting.unseen.examples] if setting.unseen else []
    captions = caches.missing_captions(cache, prompts)
    if not views and not captions:
        return
    tell(f"Encoding {len(views)} views and {len(captions)} captions")
    pipe = family.load("vae", *family.encoders, dtype=setting.engine.precision.dtype).to(setting.engine.device)
    long = [caption for caption in captions if family.is_truncated(pipe, caption)]
    if long:
        tell(f"note: {len(long)} captions are cut at the text encoder's limit, for example: {long[0]!r}")
    for caption in captions:
        caches.store_text(cache, caption, lambda text: family.encode_text(pipe, text))
    for example, view in views:
        try:
            caches.store_latents(cache, example, view, run.data, lambda pixels: family.encode_image(pipe, pixels))
        except ValueError as error:
            raise errors.DataError(f"{error}.") from error


def load_denoiser(setting: Setting) -> Any:
    """The frozen denoiser with a new adapter on it."""
    run, family, engine = setting.run, setting.family, setting.engine
    denoiser = getattr(family.load(family.denoiser, dtype=engine.precision.dtype), family.denoiser).to(engine.device)
    if run.train.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    lora.attach(denoiser, run.adapter, family.lora_targets, run.train.seed)
    return denoiser


def shots_of(setting: Setting) -> tuple[Shot, ...]:
    """What the previews show: the prompts given, or else a few captions of images never trained on."""
    preview = setting.run.preview
    prompts, per_prompt = preview.validation_prompt, preview.num_validation_images
    if not prompts and setting.unseen:
        prompts, per_prompt = unseen.preview_prompts(setting.unseen), 1
    return tuple(Shot(prompt, setting.run.train.seed + number) for prompt in prompts for number in range(per_prompt))


def previews_for(setting: Setting, denoiser: Any) -> Previews | None:
    """The previews, with only the decoder loaded beside the denoiser; None where there is nothing to show."""
    shots = shots_of(setting)
    if not shots:
        return None
    preview, cache, device = setting.run.preview, setting.cache, setting.engine.device
    dtype = setting.engine.precision.dtype
    pipe = setting.family.around(denoiser, dtype=dtype).to(device)

    def states(prompt: str) -> dict[str, torch.Tensor]:
        return stack([caches.load(cache.text_path(prompt))]).to(device, dtype).row(0)

    settings = SampleSettings(preview.guidance_scale, preview.num_inference_steps, setting.plan.resolution)
    null = Conditioning({name: value[None] for name, value in states("").items()})
    return Previews(setting.folder / "samples", Sampler(pipe, states, null, settings), denoiser, shots)


def fit(
    setting: Setting,
    denoiser: Any,
    previews: Previews | None,
    checkpoints: Checkpoints,
    found: Path | None,
    status: Status,
) -> None:
    """Restore, train, and keep metrics, status and previews on the way."""
    run, plan = setting.run, setting.plan
    named = lora.parameters(denoiser)
    optimizer = optimizer_for(named.values(), run.optim)
    first_step = checkpoints.restore(found, named, optimizer) if found else 0
    every = preview_interval(setting)
    if found:
        tell(f"Going on from {found}, step {first_step} of {plan.num_steps}")
    metrics = tracking.Metrics(setting.folder, first_step)
    board = setting.folder / run.train.logging_dir if run.train.report_to == "tensorboard" else None
    tensorboard, progress = tracking.Tensorboard(board, first_step), tracking.Progress(first_step, plan.num_steps)

    def on_step(step: int) -> None:
        status.step = step
        if step % run.train.checkpointing_steps == 0:
            status.write("training", f"step {step} of {plan.num_steps}")
        if previews is not None and every and step % every == 0 and step < plan.num_steps:
            previews.draw_tuned(step)

    if previews is not None and every and first_step % every == 0 and 0 < first_step < plan.num_steps:
        previews.draw_tuned(first_step)  # a kill may have come between the checkpoint and its pictures
    status.step = first_step
    status.write("training", f"from step {first_step} of {plan.num_steps}")
    task = task_for(setting, denoiser, named, optimizer)
    outputs = Outputs(checkpoints, run.train.checkpointing_steps, metrics, tensorboard, progress, on_step)
    try:
        with StopSignal(watch_parent=launched_by_accelerate()) as stop:
            train(setting.engine, task, outputs, first_step, stop)
    finally:
        metrics.close()
        tensorboard.close()
        progress.close()


def task_for(
    setting: Setting, denoiser: Any, named: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> Task:
    """What is trained: the model, the maths and the stream of examples."""
    run, plan = setting.run, setting.plan
    examples = CachedExamples(
        setting.manifest,
        setting.cache,
        run.data,
        seed=run.train.seed,
        resolution=plan.resolution,
        offset=run.objective.noise_offset,
    )
    path = setting.family.path()
    return Task(
        setting.family,
        denoiser,
        path,
        weighting_for(run.objective.snr_gamma, path.prediction),
        examples,
        StepSampler(plan.num_examples, plan.global_batch, run.train.seed),
        plan.schedule,
        named,
        optimizer,
        run.train.gradient_accumulation_steps,
        run.optim.max_grad_norm,
        run.data.dataloader_num_workers,
    )


def preview_interval(setting: Setting) -> int:
    """Optimizer steps between previews; 0 for none on the way."""
    preview, plan = setting.run.preview, setting.plan
    if preview.validation_epochs is not None:
        return max(1, round(preview.validation_epochs * plan.num_examples / plan.global_batch))
    return preview.validation_steps or 0


def hand_over(setting: Setting, denoiser: Any) -> verify.Verdict:
    """Write the canonical adapter and prove it; raises TrainingStopped where it is not what was trained."""
    import diffusers

    family, engine, run = setting.family, setting.engine, setting.run
    note = {
        "version": pipeline.__version__,
        "family": family.name,
        "rank": run.adapter.rank,
        "step": setting.plan.num_steps,
    }
    example = setting.manifest.examples[0]
    rows = [caches.load(setting.cache.text_path(caption)) for caption in (example.caption, "")]
    states = stack(rows).to(engine.device, torch.float32)
    x_t = draws.normal(0, 0, "", "verify", (2, *family.latent_shape(family.native_pixels))).to(engine.device)
    t = torch.tensor([0.3, 0.8], device=engine.device)
    aside = setting.folder / ".handover"  # under its own name only once it is proven
    file = formats.write(aside, denoiser, family.denoiser, json.dumps(note, sort_keys=True))
    denoiser.eval()
    lora.cast_base(denoiser, torch.float32)  # half precision would drown a small effect in rounding
    stock = getattr(diffusers, family.pipeline_class)
    verdict = verify.verify(
        file, denoiser, stock, lambda: family.denoise(denoiser, x_t, t, states), tolerance=TOLERANCE
    )
    lora.cast_base(denoiser, engine.precision.dtype)
    os.replace(file, setting.folder / formats.FILE)
    aside.rmdir()
    return verdict


def finish(setting: Setting, previews: Previews | None, verdict: verify.Verdict, status: Status, started: float) -> int:
    """Pictures, measurements and the page. A failure here costs none of them the adapter: exit code 3."""
    folder = setting.folder
    try:
        if previews is not None:
            previews.draw_base()
            previews.draw_tuned(setting.plan.num_steps)
        if setting.unseen is not None and previews is not None:
            judge = starter_judge(setting.unseen.folder) if setting.family.folder == starter.BASE else None
            unseen.evaluate(setting.unseen, previews, judge, setting.run.train.seed)
        facts = {"verdict": vars(verdict), "seconds": time.monotonic() - started}
        durable.write_text(folder / "result.json", json.dumps(facts, indent=2) + "\n")
        page.write(folder)
    except errors.Interrupted:
        raise
    except Exception as error:  # whatever it is, the adapter is trained, saved and proven
        command = resume_command(folder)
        sentence = f"Trained and saved, but afterwards: {type(error).__name__}: {error}"
        status.write("incomplete", sentence, exit_code=errors.EXIT_AFTERWARDS, next_command=command)
        tell(f"{sentence}. Try again with: {command}")
        return errors.EXIT_AFTERWARDS
    status.write("done", f"trained {setting.plan.num_steps} steps", exit_code=errors.EXIT_DONE)
    tell(f"Adapter  {folder / formats.FILE}\nReport   {folder / page.FILE}")
    return errors.EXIT_DONE


def starter_judge(folder: Path) -> unseen.Judge:
    """The judge of the starter world, told by the dataset's metadata what each picture should show."""
    from pipeline.starter import judge

    text = (folder / "metadata.jsonl").read_text(encoding="utf-8")
    concept_of = {row["file_name"]: row["concept"] for row in map(json.loads, text.splitlines())}
    model = judge.load()
    return unseen.Judge(
        judge.NAME,
        lambda pictures: judge.features(model, pictures),
        lambda pictures, names: judge.concept_ranks(model, pictures, [concept_of[name] for name in names]),
    )
