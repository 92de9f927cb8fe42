"""After the adapter is safe: pictures, measurements, the page, the card, the Hub."""

from dataclasses import dataclass
from pathlib import Path

import pipeline
from pipeline import errors
from pipeline.adapter.names import FILE
from pipeline.adapter.verify import VerificationResult
from pipeline.console import show_traceback, tell
from pipeline.evaluation import results, test_set
from pipeline.evaluation.extractors import table as extractors
from pipeline.evaluation.previews import Previews
from pipeline.evaluation.results import Evaluation
from pipeline.remembered import cache_folder
from pipeline.report import dataset, page
from pipeline.run.context import RunContext
from pipeline.run.export import Exported
from pipeline.sharing import documents, hub, publish
from pipeline.status import Status
from pipeline.timer import PhaseTimer
from pipeline.training import result
from pipeline.training.result import RunResult
from pipeline.training.trackers import Trackers


@dataclass(frozen=True)
class TrainResult:
    """How a run ended: where its files are, and what is known of its adapter."""

    folder: Path
    exit_code: int = errors.EXIT_DONE
    result: RunResult | None = None  # None where the run did not come that far
    evaluation: Evaluation | None = None  # None where nothing was measured on a test set

    @property
    def verification(self) -> VerificationResult | None:
        """How far the saved adapter is from the trained one."""
        return self.result.verification if self.result else None

    @classmethod
    def read(cls, folder: Path, exit_code: int = errors.EXIT_DONE) -> "TrainResult":
        """What a run has left in its folder. Raises CheckpointError for a file that is damaged."""
        finished = (folder / result.FILE).is_file()
        return cls(folder, exit_code, result.read(folder) if finished else None, results.read(folder))


def finish(
    context: RunContext,
    previews: Previews | None,
    exported: Exported,
    trackers: Trackers,
    *,
    status: Status,
    timer: PhaseTimer,
) -> TrainResult:
    """Pictures, measurements and the page. A failure here costs none of them the adapter: exit code 3."""
    folder, run, step = context.folder, context.run, exported.step
    try:
        with timer.section("draw"):
            draw(context, previews, step, trackers)
        facts_of(context, exported, timer).write(folder)
        page.write(folder)
        base = documents.base_model(run.model, context.family, run.preview.guidance)
        documents.keep(folder, base, context.data.card, run.share.allow_undocumented_data)
        documents.write_card(folder)
    except Exception as error:  # whatever it is, the adapter is trained, saved and verified
        sentence = f"Trained and saved, but afterwards: {type(error).__name__}: {error}"
        if not (folder / hub.SETTINGS).is_file():
            sentence = (
                f"Trained and saved as {folder / FILE}, but what was in {folder} before is gone: it was moved or "
                "removed while the run went on. Move it back first"
            )
        return incomplete(status, sentence, status.resume_command())
    trackers.close()  # what they say comes before the last words
    if run.share.push_to_hub:
        repo = run.share.hub_model_id or folder.resolve().name
        command = publish.command(folder, repo)
        status.write("finishing", f"uploading to {repo}", next_command=command)
        try:
            share(context)
        except Exception as error:  # the adapter is trained, saved and verified; it can be shared later
            return incomplete(status, f"Trained and saved, but not shared: {error}", command)
    kept = "" if step == status.step else f", kept step {step}"
    status.write("done", f"trained {status.step} steps{kept}", exit_code=errors.EXIT_DONE)
    tell(f"Adapter  {folder / FILE}\nReport   {folder / page.FILE}")
    return TrainResult.read(folder)


def facts_of(context: RunContext, exported: Exported, timer: PhaseTimer) -> RunResult:
    """What result.json keeps of a run."""
    return RunResult(
        verification=exported.verification,
        kept_step=exported.step,
        rank=exported.rank,
        alpha=exported.alpha,
        comfyui=exported.comfyui.relative_to(context.folder).as_posix() if exported.comfyui else None,
        data=dataset.facts(context.run.data, context.data.held_out, seen_by(context), context.data.class_images),
        seconds=timer.seconds,
        peak_memory=context.engine.peak_memory,
    )


def seen_by(context: RunContext) -> dataset.Shown:
    """The dataset as a run shows it."""
    return dataset.Shown(context.data.manifest, context.data.shown, context.plan.buckets)


def incomplete(status: Status, sentence: str, command: str) -> TrainResult:
    """Say what did not work after the adapter was safe, and how to try it again."""
    if status.debug:
        show_traceback()
    status.write("incomplete", sentence, exit_code=errors.EXIT_AFTERWARDS, next_command=command)
    tell(f"{sentence.rstrip('.')}. Try again with: {command}")
    return TrainResult.read(status.folder, errors.EXIT_AFTERWARDS)


def share(context: RunContext) -> None:
    """Upload what may be shared, its card naming the repository it is loaded from."""
    options, folder = context.run.share, context.folder
    repo = hub.full_name(options.hub_model_id, folder, options.hub_token)
    documents.write_card(folder, repo)
    url = hub.upload(folder, repo, options.hub_token, f"LoRA trained with t2i-lora {pipeline.__version__}")
    tell(f"Shared   {url}")


def draw(context: RunContext, previews: Previews | None, kept_step: int, trackers: Trackers) -> None:
    """Every picture of the page, and what is measured on them."""
    run, reference = context.run, context.data.test_set
    dataset.keep_examples(seen_by(context), context.folder / "samples", cache_folder(run.data.cache_dir))
    if previews is None:
        return
    previews.draw_base()
    trackers.show(context.plan.num_steps, previews.draw_adapted(kept_step))  # the kept weights, after the last step
    previews.draw_grid()
    if reference is None:
        return
    name = extractors.named(run.preview.clip_model_name_or_path, context.family.source)
    pictured = {example.name: example.caption for example in reference.examples}
    found = extractors.load(name, pictured, run.data.cache_dir) if name is not None else ()
    drawn = test_set.draw(reference, previews, run.train.seed)
    evaluation = test_set.evaluate(drawn, found, cache_folder(run.data.cache_dir))
    trackers.show(context.plan.num_steps, drawn.adapted, "test set")
    if evaluation is not None:
        evaluation.write(context.folder)
        trackers.measured(context.plan.num_steps, evaluation)
