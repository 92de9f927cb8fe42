"""A run from end to end: plan -> data -> train -> verify -> report. The only module that may import every room."""

import contextlib
import json
from pathlib import Path

import torch

import pipeline
from pipeline import assemble, atomic, errors, handover
from pipeline.adapter import formats
from pipeline.assemble import Models
from pipeline.config import Command
from pipeline.console import quieten_libraries, tell
from pipeline.data import cache as caches
from pipeline.evaluation import unseen
from pipeline.evaluation.previews import Previews
from pipeline.material import Material
from pipeline.report import dataset, page
from pipeline.setting import Setting, claim, identity_of, is_complete, prepare
from pipeline.sharing import documents, hub, publish
from pipeline.status import Status, launched_by_accelerate, resume_command
from pipeline.timer import PhaseTimer
from pipeline.training import tracking
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.loop import Outputs, train
from pipeline.training.signals import StopSignal


def execute(command: Command, material: Material, status: Status, timer: PhaseTimer) -> int:
    """Carry out a parsed command line; returns the exit code. What goes wrong is raised."""
    quieten_libraries()
    setting = prepare(command.run, material, status.folder)
    tell(setting.plan.text())
    if command.dry_run:
        tell("Dry run: everything checked, nothing written.")
        return errors.EXIT_DONE
    checkpoints = Checkpoints(setting.folder, identity_of(setting), setting.run.train.checkpoints_total_limit)
    engine = setting.engine

    def claimed() -> tuple[Path | None, bool]:
        require_sharing(setting)
        found = claim(setting, checkpoints, status)
        return found, found is not None and is_complete(setting, found)

    found, complete = engine.on_main(claimed)
    if complete:
        engine.close()
        tell(f"Already complete: {setting.folder / formats.FILE} is the adapter of this run.")
        return errors.EXIT_DONE
    status.claimed = True
    with timer.section("encode"):
        engine.together(lambda: encode(setting))
    models = assemble.load_models(setting)
    previews = assemble.previews_for(setting, models) if engine.is_main else None
    kept_step = fit(setting, models, previews, checkpoints, found, status, timer)
    engine.close()
    if not engine.is_main:
        return errors.EXIT_DONE
    status.write("finishing", f"trained; checking the adapter of step {kept_step}")
    with timer.section("check"):
        handed_over = handover.hand_over(setting, models, kept_step)
    tell(
        f"Handed over {setting.folder / formats.FILE}, step {kept_step}: reloaded by diffusers it is "
        f"{handed_over.verdict.distance:.1e} of its own effect from the trained adapter "
        f"({handed_over.verdict.num_layers} layers)."
    )
    return finish(setting, previews, handed_over, status, timer)


def require_sharing(setting: Setting) -> None:
    """Make sure before the first step that what --push_to_hub asks for will be allowed."""
    share = setting.run.share
    if share.push_to_hub:
        repo = hub.full_name(share.hub_model_id, setting.folder, share.hub_token)
        hub.require_access(repo, share.hub_token)
        tell(f"May share as {repo}")


def encode(setting: Setting) -> None:
    """Fill the cache with what it lacks, each process with its share; the encoders are gone again afterwards."""
    run, family, cache, engine = setting.run, setting.family, setting.cache, setting.engine
    share = slice(engine.rank, None, engine.num_processes)
    views = caches.missing_views(cache, assemble.views_of(setting)[share], run.data)
    captions = caches.missing_captions(cache, assemble.captions_of(setting)[share])
    if not views and not captions:
        return
    tell(f"Encoding {len(views)} views and {len(captions)} captions")
    pipe = family.load_encoders(engine.precision.dtype).to(engine.device)
    with torch.no_grad():
        for caption in captions:
            caches.store_text(cache, caption, lambda text: family.encode_text(pipe, text))
        for example, view in views:
            try:
                caches.store_latents(cache, example, view, run.data, lambda pixels: family.encode_image(pipe, pixels))
            except ValueError as error:
                raise errors.DataError(f"{error}.") from error


def fit(
    setting: Setting,
    models: Models,
    previews: Previews | None,
    checkpoints: Checkpoints,
    found: Path | None,
    status: Status,
    timer: PhaseTimer,
) -> int:
    """Restore, train, and keep metrics, status and previews on the way; returns the step whose weights are kept.

    Afterwards the models hold those weights.
    """
    run, plan, engine = setting.run, setting.plan, setting.engine
    state = assemble.state_of(setting, models)
    first_step = checkpoints.restore(found, state) if found else 0
    if found:
        tell(f"Going on from {found}, step {first_step} of {plan.num_steps}")
    status.step = first_step
    task = assemble.task_for(setting, models, state)
    with contextlib.ExitStack() as open_until_done:
        outputs = None
        if engine.is_main:
            status.write("training", f"from step {first_step} of {plan.num_steps}")
            board = setting.folder / run.train.logging_dir if run.train.report_to == "tensorboard" else None
            metrics = tracking.Metrics(setting.folder, first_step)
            tensorboard = tracking.Tensorboard(board, first_step)
            progress = tracking.Progress(first_step, plan.num_steps)
            for output in (metrics, tensorboard, progress):
                open_until_done.callback(output.close)
            with timer.section("validate"):
                watch = assemble.watch_for(setting, models, state, previews, status, timer)
            outputs = Outputs(checkpoints, run.train.checkpointing_steps, metrics, tensorboard, progress, watch)
        stop = open_until_done.enter_context(StopSignal(watch_parent=launched_by_accelerate()))
        if not state.has_stalled(run.train.early_stopping_patience):
            train(engine, task, outputs, first_step, stop, timer)
    if run.train.keep == "best" and state.best is not None:
        state.put(state.best.weights)
        return state.best.step
    state.put(state.current)
    return status.step


def finish(
    setting: Setting, previews: Previews | None, handed_over: handover.HandedOver, status: Status, timer: PhaseTimer
) -> int:
    """Pictures, measurements and the page. A failure here costs none of them the adapter: exit code 3."""
    folder, kept_step = setting.folder, handed_over.step
    try:
        with timer.section("draw"):
            draw(setting, previews, kept_step)
        data = dataset.facts(setting.manifest, setting.held_out)
        facts = {
            "verdict": vars(handed_over.verdict),
            "kept_step": kept_step,
            "rank": handed_over.rank,
            "alpha": handed_over.alpha,
            "comfyui": handed_over.comfyui and handed_over.comfyui.relative_to(folder).as_posix(),
            "data": data,
            "budget": timer.seconds,
            "peak_memory": setting.engine.peak_memory,  # bytes of the GPU
        }
        atomic.write_text(folder / "result.json", json.dumps(facts, indent=2) + "\n")
        page.write(folder)
        base = documents.base_model(setting.run.model, setting.family, setting.run.preview.guidance)
        documents.keep(folder, base, setting.card, setting.run.share.allow_undocumented_data)
        documents.write_card(folder)
    except Exception as error:  # whatever it is, the adapter is trained, saved and proven
        sentence = f"Trained and saved, but afterwards: {type(error).__name__}: {error}"
        return incomplete(status, sentence, resume_command(folder))
    if setting.run.share.push_to_hub:
        repo = setting.run.share.hub_model_id or folder.resolve().name
        command = publish.command(folder, repo)
        status.write("finishing", f"uploading to {repo}", next_command=command)
        try:
            share(setting)
        except Exception as error:  # the adapter is trained, saved and proven; it can be shared later
            return incomplete(status, f"Trained and saved, but not shared: {error}", command)
    kept = "" if kept_step == status.step else f", handed over step {kept_step}"
    status.write("done", f"trained {status.step} steps{kept}", exit_code=errors.EXIT_DONE)
    tell(f"Adapter  {folder / formats.FILE}\nReport   {folder / page.FILE}")
    return errors.EXIT_DONE


def incomplete(status: Status, sentence: str, command: str) -> int:
    """Say what did not work after the adapter was safe, and how to try it again."""
    status.write("incomplete", sentence, exit_code=errors.EXIT_AFTERWARDS, next_command=command)
    tell(f"{sentence.rstrip('.')}. Try again with: {command}")
    return errors.EXIT_AFTERWARDS


def share(setting: Setting) -> None:
    """Upload what may be shared, its card naming the repository it is loaded from."""
    options, folder = setting.run.share, setting.folder
    repo = hub.full_name(options.hub_model_id, folder, options.hub_token)
    documents.write_card(folder, repo)
    url = hub.upload(folder, repo, options.hub_token, f"LoRA trained with t2i-lora {pipeline.__version__}")
    tell(f"Shared   {url}")


def draw(setting: Setting, previews: Previews | None, kept_step: int) -> None:
    """Every picture of the page, and what is measured on them."""
    dataset.keep_examples(setting.manifest, setting.folder / "samples", setting.plan.resolution, setting.run.data)
    if previews is None:
        return
    previews.draw_base()
    previews.draw_tuned(kept_step)
    previews.draw_grid()
    if setting.unseen is not None:
        judge, reader = assemble.measures_for(setting, setting.unseen)
        unseen.evaluate(setting.unseen, previews, judge, reader, setting.run.data, setting.run.train.seed)
