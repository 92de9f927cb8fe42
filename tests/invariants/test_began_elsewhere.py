"""Invariant 3 for a run that goes on, in a folder of its own, from another one's checkpoint."""

import signal

import pytest

from tests.conftest import dedupe, next_argv
from tests.invariants.test_resume import EXACT, adapter, die
from tests.running import Running

pytestmark = pytest.mark.invariant


def test_what_began_from_a_checkpoint_elsewhere_does_so_again_until_it_has_its_own(small, finished_run, tmp_path):
    out, undisturbed = tmp_path / "out", finished_run(*EXACT)
    start = undisturbed / "checkpoint-4"
    flags = [*dedupe([*small, *EXACT, "--checkpointing_steps", "100"]), "--output_dir", str(out)]
    begun = [*flags, "--resume_from_checkpoint", str(start)]
    killed = Running(begun, tmp_path / "log", prepared=at_the_first_step).wait()
    assert killed.code == -signal.SIGKILL, killed.output
    assert next_argv(out)[-1] == str(start)
    ended = Running(next_argv(out), tmp_path / "again").wait()
    assert ended.code == 0, ended.output
    assert adapter(out) == adapter(undisturbed)
    whole = Running([*flags, "--resume_from_checkpoint", str(undisturbed)], tmp_path / "whole").wait()
    assert whole.code == 2
    assert f"it is a run; give one of its checkpoints, the last is {undisturbed / 'checkpoint-12'}" in whole.output


def at_the_first_step() -> None:
    from pipeline.training import loop

    loop.optimizer_step = lambda *given, **more: die()
