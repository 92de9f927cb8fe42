"""The stages of a run, from the checked options to the report: plan, encode, train, verify, finish."""

import contextlib
from pathlib import Path

from pipeline.adapter.names import FILE
from pipeline.config import PATHS, SECRETS, Command
from pipeline.console import tell
from pipeline.data.class_images import num_to_draw
from pipeline.errors import Interrupted
from pipeline.evaluation.previews import Previews
from pipeline.families.options import ModelOptions
from pipeline.progress import Progress
from pipeline.run import build, dry_run, export, finish
from pipeline.run.build import Models
from pipeline.run.context import RunContext, prepare
from pipeline.run.draw_class import with_drawn_class
from pipeline.run.encode import encode
from pipeline.run.finish import TrainResult
from pipeline.run.identity import BY_DRAWING, NOT_FETCHED, identity_of
from pipeline.run.output_folder import claim, hold, is_complete, resumed
from pipeline.run.preflight import RunData
from pipeline.sharing import hub
from pipeline.status import Status, launched_by_accelerate
from pipeline.timer import PhaseTimer
from pipeline.training import checkpoint, tracker_names, trackers, tracking
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.evaluator import Evaluator
from pipeline.training.loop import Outputs, Task, train
from pipeline.training.remaining import Remaining
from pipeline.training.signals import StopSignal
from pipeline.training.trackers import Trackers


def execute(
    command: Command, data: RunData, status: Status, timer: PhaseTimer, dry: dry_run.DryRun | None
) -> TrainResult | None:
    """Carry out a parsed command line; None for a dry run. Raises whatever goes wrong before the adapter is safe."""
    context = prepare(
        command.run,
        data,
        status.folder,
        yielding=command.yielding,
        notes=command.notes,
        weights=dry is None,
        card=command.card,
    )
    tell(context.plan.text())
    try:
        if dry is not None:
            if command.run.train.resume_from_checkpoint is not None:
                unknown = NOT_FETCHED if is_on_hub(command.run.model) else frozenset[str]()
                resumed(context, checkpoints_before(context, unknown))
            dry.keep(context.plan.text(), context.plan.room)
            tell(dry_run.DONE)
            return None
        context.engine.on_main(lambda: require_sharing(context))
        with timer.section("draw"):
            context = draw(context)
        return run_stages(context, status, timer)
    finally:
        context.engine.release()


def draw(context: RunContext) -> RunContext:
    """The run with the pictures of its class. Drawing may take minutes, so what would be refused then is refused first.

    Raises ConfigError or CheckpointError as `hold` does.
    """
    if not num_to_draw(context.run.data, context.data.class_given):
        return context
    before = checkpoints_before(context)
    context.engine.on_main(lambda: hold(context, before))
    return with_drawn_class(context)


def checkpoints_before(context: RunContext, undecided: frozenset[str] = frozenset()) -> Checkpoints:
    """Those of the run as far as it can be told apart before the pictures of its class are drawn.

    `undecided` are more facts that cannot be said yet.
    """
    is_drawn = num_to_draw(context.run.data, context.data.class_given) > 0
    return Checkpoints(
        context.folder, identity_of(context, undecided | (BY_DRAWING if is_drawn else frozenset())), None
    )


def is_on_hub(model: ModelOptions) -> bool:
    """Whether a dry run has only the configuration of a model: its weights are fetched when they are needed."""
    is_vae_there = model.pretrained_vae_model_name_or_path is None or model.local_vae is not None
    return model.local_folder is None or not is_vae_there


def run_stages(context: RunContext, status: Status, timer: PhaseTimer) -> TrainResult:
    """The stages of a planned run, one after the other."""
    with contextlib.ExitStack() as open_until_done:
        return _run_stages(context, status, timer, open_until_done)


def _run_stages(
    context: RunContext, status: Status, timer: PhaseTimer, open_until_done: contextlib.ExitStack
) -> TrainResult:
    folder, engine = context.folder, context.engine
    checkpoints = Checkpoints(folder, identity_of(context), context.run.train.checkpoints_total_limit)
    status.goes_on_from(context.run.train.resume_from_checkpoint)

    def claimed() -> tuple[Path | None, bool]:
        found = claim(context, checkpoints, status)
        return found, found is not None and is_complete(context, found)

    found, complete = engine.on_main(claimed)
    if complete:
        engine.close()
        tell(f"Already complete: {folder / FILE} is the adapter of this run.")
        return TrainResult.read(folder)
    status.claimed = True
    opened = open_trackers(context, checkpoint.step_of(found) if found else 0)
    open_until_done.callback(opened.close)
    with timer.section("encode"):
        engine.together(lambda: encode(context))
    models = build.load_models(context)
    previews = build.build_previews(context, models) if engine.is_main else None
    kept_step = fit(context, models, previews, opened, checkpoints=checkpoints, found=found, status=status, timer=timer)
    engine.close()
    if not engine.is_main:
        return TrainResult(folder)
    status.write("finishing", f"trained; checking the adapter of step {kept_step}")
    with timer.section("check"):
        exported = export.export(context, models, kept_step)
    verification = exported.verification
    tell(
        f"Adapter verified: relative error {verification.error:.1e} after reload ({verification.num_layers} layers), "
        f"step {kept_step}: {folder / FILE}"
    )
    return finish.finish(context, previews, exported, opened, status=status, timer=timer)


def open_trackers(context: RunContext, first_step: int) -> Trackers:
    """What the main process reports to, opened before anything expensive; raises ConfigError where that fails."""
    train_options, opened = context.run.train, list[Trackers]()
    told = {name: value for name, value in context.run.flat().items() if name not in (*SECRETS, *PATHS, "source")}

    def work() -> None:
        names, folder = tracker_names.named(train_options.report_to), context.folder / train_options.logging_dir
        start, title = context.engine.start_tracker, context.folder.resolve().name
        opened.append(trackers.open_all(names, start, folder, title=title, first_step=first_step, options=told))

    context.engine.on_main(work)
    return opened[0] if opened else Trackers({})


def require_sharing(context: RunContext) -> None:
    """Make sure before the first step that what --push_to_hub asks for will be allowed; raises ConfigError."""
    share = context.run.share
    if share.push_to_hub:
        repo = hub.full_name(share.hub_model_id, context.folder, share.hub_token)
        hub.require_access(repo, share.hub_token)
        tell(f"May share as {repo}")


def fit(
    context: RunContext,
    models: Models,
    previews: Previews | None,
    opened: Trackers,
    *,
    checkpoints: Checkpoints,
    found: Path | None,
    status: Status,
    timer: PhaseTimer,
) -> int:
    """Restore, train, and keep metrics, status and previews on the way; returns the step whose weights are kept.

    Afterwards the models hold those weights.
    """
    run, plan, engine = context.run, context.plan, context.engine
    state = build.build_state(context, models)
    first_step = checkpoints.restore(found, state) if found else 0
    if found:
        tell(f"Resuming from {found}, step {first_step} of {plan.num_steps}")
    status.step = first_step
    task = build.build_task(context, models, state)

    def on_step(step: int) -> None:
        status.step = step
        if engine.is_main and step % run.train.checkpointing_steps == 0:
            status.write("training", f"step {step} of {plan.num_steps}")

    with contextlib.ExitStack() as open_until_done:
        outputs = None
        if engine.is_main:
            status.write("training", f"from step {first_step} of {plan.num_steps}")
            outputs = open_outputs(
                context, models, task, previews, opened, checkpoints=checkpoints, status=status, timer=timer
            )
            for output in (outputs.metrics, outputs.progress):
                open_until_done.callback(output.close)
        stop = open_until_done.enter_context(StopSignal(watch_parent=launched_by_accelerate()))
        if not state.has_stalled(run.train.early_stopping_patience):
            train(engine, task, outputs, first_step=first_step, stop=stop, timer=timer, on_step=on_step)
        if asked := [code for code in engine.gather(stop.exit_code) if code is not None]:
            raise Interrupted(max(asked), status.step)  # in the last step, which saved as it always does
    if run.train.keep == "best" and state.best is not None:
        state.put(state.best.weights)
        return state.best.step
    state.put(state.copy_of_current())
    return status.step


def open_outputs(
    context: RunContext,
    models: Models,
    task: Task,
    previews: Previews | None,
    opened: Trackers,
    *,
    checkpoints: Checkpoints,
    status: Status,
    timer: PhaseTimer,
) -> Outputs:
    """Where the main process reports and saves; the base is measured here, for later losses to be compared with."""
    folder, num_steps, first_step = context.folder, context.plan.num_steps, status.step
    with timer.section("validate"):
        validation = build.build_loss_validation(context, models)
        class_validation = build.build_loss_of_class(context, models)
    left = Remaining(
        task.intervals,
        context.plan.beside,
        timer.seconds_of,
        first_step=first_step,
        batch_size=context.plan.global_batch,
    )
    return Outputs(
        checkpoints=checkpoints,
        metrics=tracking.Metrics(folder, first_step),
        trackers=opened,
        progress=Progress(num_steps, "step", first=first_step, steadily=True, left=left.seconds),
        evaluator=Evaluator(
            state=task.state,
            denoiser=models.denoiser,
            validation=validation,
            class_validation=class_validation,
            previews=previews,
            trackers=opened,
            intervals=task.intervals,
            patience=task.patience,
            timer=timer,
        ),
    )
