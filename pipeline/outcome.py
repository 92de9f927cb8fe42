"""How a run ends: exit code, last sentence, status.json. Imports nothing heavy until the arguments are checked."""

import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

from pipeline import config, errors, material
from pipeline.config import Command
from pipeline.console import is_main_process
from pipeline.status import Status, resume_command
from pipeline.timer import PhaseTimer


def run_and_report(argv: list[str]) -> int:
    """Parse, run, and turn whatever happens into an exit code and one last sentence."""
    timer = PhaseTimer()
    try:
        command = config.parse(argv)
    except errors.UserError as error:
        return _refuse(error)
    if command is None:
        return errors.EXIT_DONE
    status = Status(output_folder(command))

    def terminate(number: int, frame: FrameType | None) -> None:
        raise errors.Interrupted(errors.EXIT_TERMINATED, status.step)

    signal.signal(signal.SIGTERM, terminate)  # while training, the loop has its own way of stopping
    try:
        with timer.section("data"):
            found = material.look(command.run, status.folder)
        from pipeline.run import execute

        return execute(command, found, status, timer)
    except errors.UserError as error:
        if command.debug:
            traceback.print_exc()
        if status.claimed and is_main_process():
            status.write("failed", str(error), exit_code=errors.EXIT_USER)
        return _refuse(error)
    except errors.Interrupted as stopped:
        return _end(status, "interrupted", str(stopped), stopped.exit_code)
    except errors.TrainingStopped as stopped:
        return _end(status, "failed", str(stopped), errors.EXIT_STOPPED)
    except KeyboardInterrupt:
        return _end(status, "interrupted", "stopped at once; the last checkpoint stands", errors.EXIT_CTRL_C)
    except errors.PeerLost as error:  # whoever is left speaks, for the first process may be the one that is gone
        return _end(status, "failed", f"{error}. The last checkpoint stands", errors.EXIT_BUG, speaks=True)
    except Exception as error:  # the last line of defence: say what stands, then show where it broke
        traceback.print_exc()
        sentence = f"{type(error).__name__}: {error}. The last checkpoint stands"
        if "deterministic implementation" in str(error):
            sentence += ". With --no-deterministic that operation is allowed"
        return _end(status, "failed", sentence, errors.EXIT_BUG)


def output_folder(command: Command) -> Path:
    """--output_dir, or outputs/<dataset name>."""
    run = command.run
    if run.train.output_dir is not None:
        return Path(run.train.output_dir)
    return Path("outputs") / material.dataset_name(run.data)


def _refuse(error: Exception) -> int:
    if is_main_process():
        _say(f"Error: {error}")
    return errors.EXIT_USER


def _end(status: Status, state: str, sentence: str, exit_code: int, *, speaks: bool = False) -> int:
    if not (speaks or is_main_process()):
        return exit_code
    if status.claimed:
        try:
            status.write("interrupted" if state == "interrupted" else "failed", sentence, exit_code=exit_code)
            sentence = f"{sentence}. Go on with: {resume_command(status.folder)}"
        except OSError as error:  # a full disk must not hide the first error
            sentence = f"{sentence}. status.json could not be written ({error})"
    _say(sentence)
    return exit_code


def _say(sentence: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
