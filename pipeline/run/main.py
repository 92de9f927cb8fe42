"""How a run ends: exit code, last sentence, status.json. Imports nothing heavy until the arguments are checked."""

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pipeline import atomic, config, errors, put_off
from pipeline.config import Command, Run
from pipeline.console import is_main_process, quiet_libraries, say_error, show_traceback
from pipeline.run import preflight
from pipeline.run.dry_run import DryRun
from pipeline.run.typed import as_typed
from pipeline.status import State, Status
from pipeline.timer import PhaseTimer
from pipeline.training.signals import termination_signals

if TYPE_CHECKING:
    from pipeline.run.finish import TrainResult

AT_ONCE = "stopped at once"  # by a second Ctrl-C, or one that nothing waited for


def run_and_report(argv: list[str]) -> int:
    """Parse, run, and turn whatever happens into an exit code and one last sentence."""
    timer = PhaseTimer()
    put_off.install()
    try:
        command = config.parse(argv)
    except errors.UserError as error:
        return _refuse(error)
    except OSError as error:  # a file with options, or the place that help is written to
        return _refuse(errors.ConfigError(f"{error.filename} cannot be used: {error.strerror}."))
    if command is None:
        return errors.EXIT_DONE
    status = Status(output_folder(command.run), debug=command.debug)

    def terminate(number: int, frame: FrameType | None) -> None:
        # A launcher stops the survivor of a lost process, which may be on its way to say so: that is not to be undone.
        if not isinstance(sys.exc_info()[1], errors.PeerLost):
            raise errors.Interrupted(errors.EXIT_TERMINATED, status.step)

    for number in termination_signals():  # while training, the loop has its own way of stopping
        signal.signal(number, terminate)
    try:
        result = _run(command, status, timer)
        return errors.EXIT_DONE if result is None else result.exit_code
    except (Exception, errors.Interrupted, KeyboardInterrupt) as error:
        ended = ending_of(error)
        is_explained = isinstance(error, errors.PeerLost) or atomic.is_full(error)
        if command.debug or (ended.exit_code == errors.EXIT_BUG and not is_explained):
            show_traceback()
        if isinstance(error, errors.UserError):
            _note(status, ended)
            return _refuse(error)
        if is_main_process() or isinstance(error, errors.PeerLost):  # the first process may be the one that is gone
            say_error(_note(status, ended))
        return ended.exit_code


def train(run: Run) -> "TrainResult":
    """Train as the command line does; returns the output folder, and what was verified and measured.

    Options are set by the names of their flags: train(Run().replaced(train_data_dir="photos", max_train_steps=200)).
    Recipes belong to the command line, the starter's too. Signal handlers, the libraries' verbosity, random generators
    and the lock on the output folder are afterwards as they were, so runs can follow one another in a process.

    Raises ConfigError, DataError or CheckpointError for what the caller can correct, TrainingStopped, or Interrupted.
    A report or an upload that failed is exit_code 3 of the result.
    """
    run = as_typed(run)
    status = Status(output_folder(run))
    try:
        result = _run(Command(run, dry_run=False, debug=False), status, PhaseTimer())
        assert result is not None, "only a dry run has none"
        return result
    except (Exception, errors.Interrupted, KeyboardInterrupt) as error:
        _note(status, ending_of(error))
        raise
    finally:
        atomic.release_folder(status.folder)


@dataclass(frozen=True)
class Ending:
    """What an error means for a run."""

    state: State
    sentence: str
    exit_code: int


def ending_of(error: BaseException) -> Ending:
    """The state, the sentence and the exit code that an error ends a run with."""
    if isinstance(error, errors.UserError):
        return Ending("failed", str(error), errors.EXIT_USER)
    if isinstance(error, errors.Interrupted):
        return Ending("interrupted", str(error), error.exit_code)
    if isinstance(error, errors.TrainingStopped):
        return Ending("failed", str(error), errors.EXIT_STOPPED)
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", AT_ONCE, errors.EXIT_CTRL_C)
    if isinstance(error, errors.PeerLost):
        return Ending("failed", str(error), errors.EXIT_BUG)
    if atomic.is_full(error):
        where = f"for {error.filename}" if error.filename else "on the disk"
        return Ending("failed", f"No room is left {where}; free some", errors.EXIT_BUG)
    sentence = f"{type(error).__name__}: {error}"
    if "deterministic implementation" in str(error):
        sentence += ". With --no-deterministic that operation is allowed"
    return Ending("failed", sentence, errors.EXIT_BUG)


def _run(command: Command, status: Status, timer: PhaseTimer) -> "TrainResult | None":
    """Look at the data, then import what is heavy and run; None for a dry run."""
    with timer.section("data"):
        data = preflight.preflight(command.run, status.folder, command.yielding)
    dry = DryRun(command, data, status.folder) if command.dry_run else None
    if dry is not None and dry.told_again():
        return None
    from pipeline import rng
    from pipeline.run.stages import execute

    with quiet_libraries(), rng.global_state_kept():
        return execute(command, data, status, timer, dry)


def output_folder(run: Run) -> Path:
    """--output_dir, or outputs/<dataset name>."""
    if run.train.output_dir is not None:
        return Path(run.train.output_dir)
    return Path("outputs") / preflight.dataset_name(run.data)


def _refuse(error: Exception) -> int:
    if is_main_process():
        say_error(f"Error: {error}")
    return errors.EXIT_USER


def _note(status: Status, ended: Ending) -> str:
    """Write the ending down where the folder is this run's; returns the sentence with what to type next."""
    sentence = ended.sentence.removesuffix(".")
    if not status.claimed or not (is_main_process() or (ended.exit_code == errors.EXIT_BUG and status.lives())):
        return sentence
    if ended.exit_code == errors.EXIT_BUG or ended.sentence == AT_ONCE:
        sentence += f". {'The last checkpoint stands' if status.has_checkpoint else 'There is no checkpoint yet'}"
    try:
        status.write(ended.state, sentence, exit_code=ended.exit_code)
    except OSError as error:  # a full disk must not hide the first error
        sentence += f". status.json could not be written ({error.strerror}), so it says what was before"
    if ended.exit_code == errors.EXIT_STOPPED:  # the same again would end the same
        return sentence
    return f"{sentence}. Go on with: {status.resume_command()}"
