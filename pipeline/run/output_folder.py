"""The output folder of a run: made its own, searched for a checkpoint to go on from, described."""

import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import pipeline
from pipeline import atomic, records, run_toml, shipped
from pipeline.adapter.names import FILE
from pipeline.config import PATHS, Run
from pipeline.console import tell
from pipeline.errors import CheckpointError, ConfigError
from pipeline.evaluation.previews import forget_after
from pipeline.notes import grouped
from pipeline.run import kept_examples
from pipeline.run.context import RunContext
from pipeline.run.kept_examples import EXAMPLES_FILE
from pipeline.run.plan import NOTES_FILE
from pipeline.run.preflight import RunData, require_free
from pipeline.status import Status
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.options import TrainOptions

PATIENCE_SECONDS = 60.0  # with another run in the same output folder, which may be ending
MARKS = ("run.toml", "status.json", "environment.json")  # one of them lies in every folder that a run began in
OWN_NAMES = (
    ".export",
    "samples",
    "logs",
    "report.html",
    "run.toml",
    "environment.json",
    EXAMPLES_FILE,
    NOTES_FILE,
    "status.json",
    "metrics.jsonl",
    "evaluation.json",
    "result.json",
    "documents.json",
    "README.md",
    "comfyui",
)


def hold(context: RunContext, checkpoints: Checkpoints) -> Path | None:
    """Keep other runs out of the output folder from now on; returns the checkpoint to go on from. Nothing is removed.

    Raises ConfigError for a folder that is in use, taken since or cannot be made, CheckpointError if its
    checkpoint is another's.
    """
    folder = context.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not atomic.hold_folder(folder, patience=0.0):
            tell(f"Another run is still writing to {folder}; waiting for it to end")
            if not atomic.hold_folder(folder, PATIENCE_SECONDS):
                raise ConfigError(
                    f"Another run does not stop writing to {folder}; stop it, or give another --output_dir."
                )
        # Empty when the run was planned; by now a cache may lie in it, or what another run left that began since.
        require_free(context.run.train, folder, is_taken=(folder / "run.toml").exists())
    except OSError as error:
        raise _unwritable(folder, error) from error
    return resumed(context, checkpoints)


def resumed(context: RunContext, checkpoints: Checkpoints) -> Path | None:
    """The checkpoint to go on from. Raises CheckpointError for another run's, ConfigError in a foreign folder."""
    resume = context.run.train.resume_from_checkpoint
    found = checkpoints.find(resume) if resume else None
    if found is not None:
        _require_identity(context, checkpoints, found)
    _require_own(context.run.train, context.folder, found)
    return found


def _require_own(options: TrainOptions, folder: Path, found: Path | None) -> None:
    """Raise ConfigError where a run would write over what no run left, or begin anew over a finished one unasked."""
    there = [name for name in (*OWN_NAMES, FILE) if (folder / name).exists()]
    there += [path.name for path in checkpoint.existing(folder)]
    goes_on = found is not None and found.resolve().parent == folder.resolve()
    if there and not goes_on and not any(name in there for name in MARKS):
        raise ConfigError(f"{folder} holds {', '.join(there)} of something else; give another --output_dir.")
    if options.resume_from_checkpoint is not None and found is None and (folder / FILE).exists():
        raise ConfigError(
            f"{folder} holds a finished adapter and no checkpoint to go on from; give another --output_dir, or train "
            "it anew with --overwrite_output_dir in place of --resume_from_checkpoint."
        )


def _require_identity(context: RunContext, checkpoints: Checkpoints, found: Path) -> None:
    """Raise CheckpointError with every difference, to the example, if a checkpoint was made by another run."""
    try:
        checkpoints.require_identity(found)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{kept_examples.changes_since(found.parent, context.data)}") from error


def claim(context: RunContext, checkpoints: Checkpoints, status: Status) -> Path | None:
    """Make the output folder this run's; returns the checkpoint to go on from.

    Raises ConfigError for a folder that is in use or cannot be written, CheckpointError if its checkpoint is another's.
    """
    folder = context.folder
    found = hold(context, checkpoints)
    try:
        atomic.remove_leftovers(folder, "checkpoint-[0-9]*", *(f"{name}.*" for name in (*OWN_NAMES, FILE)))
        if context.run.train.overwrite_output_dir:
            _remove_own(folder)
        if found is not None and is_complete(context, found):
            return found
        status.claimed = True
        forget_after(folder / "samples", checkpoint.step_of(found) if found else 0)
        _note_other_threads(folder)
        atomic.write_text(folder / "run.toml", _recorded(context.run))
        atomic.write_text(folder / "environment.json", json.dumps(environment(context), indent=2) + "\n")
        kept_examples.write(folder, context.data)
        _write_notes(folder / NOTES_FILE, context.plan.notes)
        status.write("starting", "encoding images and captions")
    except OSError as error:
        raise _unwritable(folder, error) from error
    return found


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--output_dir {folder} cannot be written: {error.strerror}.")


def is_complete(context: RunContext, found: Path) -> bool:
    """Whether the run has ended with 'done' after the very step of this checkpoint, its last, and with these options.

    What was changed since may ask for other weights, files, pictures or an upload: then it goes on, if only to its end.
    """
    status, settings = (_left_in(context.folder / name) for name in ("status.json", "run.toml"))
    done = (status.get("state"), status.get("step")) == ("done", checkpoint.step_of(found))
    as_before = _asked(settings) == _asked(run_toml.parse(_recorded(context.run), "run.toml"))
    return done and as_before and (context.folder / FILE).is_file()


def _left_in(path: Path) -> dict[str, Any]:
    """What an earlier start wrote in a file that this one writes anew: nothing of it is needed to go on."""
    try:
        return records.table_in(path) if path.is_file() else {}
    except CheckpointError:
        tell(f"note: {path} is damaged; it is written anew")
        return {}


def _asked(settings: dict[str, Any]) -> dict[str, Any]:
    """The options of a run.toml but for places, which may have moved with the run."""
    return {name: value for name, value in settings.items() if name not in (*PATHS, run_toml.TABLES)}


def _recorded(run: Run) -> str:
    """run.toml: the run without how it was started."""
    return run.replaced(overwrite_output_dir=False, resume_from_checkpoint=None).to_toml()


def environment(context: RunContext) -> dict[str, Any]:
    """Versions, threads and the plan: what a run.toml alone does not say."""
    packages = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy", "pillow")
    plan = context.plan
    return {
        "t2i_lora": pipeline.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": str(context.engine.device),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in packages},
        "plan": [list(row) for row in plan.rows],
        "notes": list(grouped(plan.notes)),
        **fingerprints(context.data),
        "size": [plan.size.width, plan.size.height],
        "pipeline_class": context.family.pipeline_class,
        "base_model": context.run.model.pretrained_model_name_or_path or str(shipped.BASE),
    }


def recorded(folder: Path) -> dict[str, Any]:
    """environment.json of a run. Raises ConfigError where there is none, CheckpointError for a damaged one."""
    path = folder / "environment.json"
    if not path.is_file():
        raise ConfigError(f"{folder} has no environment.json; give the output folder of a finished run.")
    return records.table_in(path)


def fingerprints(data: RunData) -> dict[str, Any]:
    """Of what is trained on, and of what is held out."""
    return {
        "dataset": data.manifest.fingerprint,
        "held_out": [data.held_out.fingerprint] if data.held_out is not None else [],
    }


def _write_notes(path: Path, notes: tuple[str, ...]) -> None:
    """Every note on a line of its own; no file where there is none."""
    if notes:
        lines = (note.replace("\n", "\\n") for note in notes)  # a name of a file may hold one
        atomic.write_text(path, "".join(f"{line}\n" for line in lines))
    else:
        path.unlink(missing_ok=True)


def _note_other_threads(folder: Path) -> None:
    before = _left_in(folder / "environment.json").get("threads", torch.get_num_threads())
    if before != torch.get_num_threads():
        tell(f"note: {torch.get_num_threads()} threads now, {before} before: sums are rounded in another order")


def _remove_own(folder: Path) -> None:
    own = [folder / name for name in (*OWN_NAMES, FILE)] + checkpoint.existing(folder)
    for path in own:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
