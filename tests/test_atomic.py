"""A folder is held by one process, until that ends."""

import errno
import fcntl
import subprocess
import sys

import pytest

from pipeline import atomic
from tests.conftest import replaced
from tests.running import Running, wait_until

pytestmark = pytest.mark.unit
HOLDER = "import sys, time, pathlib; from pipeline import atomic\n"
HOLDER += "print(atomic.hold_folder(pathlib.Path(sys.argv[1]), 0.0), flush=True); time.sleep(60)"


def test_a_folder_is_held_until_the_process_is_gone(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "True\n"
    assert not atomic.hold_folder(tmp_path, 0.2)
    holder.kill()
    assert atomic.hold_folder(tmp_path, 5.0)
    assert atomic.hold_folder(tmp_path, 0.0)  # a second run of the same process, as in a notebook
    assert not list(tmp_path.iterdir())
    holder.wait()


@pytest.fixture
def waited(small, tmp_path):
    """Start a run in a folder that another process holds and leaves when this has been done; the run, once it ended."""

    def after(meanwhile):
        out, log = tmp_path / "out", tmp_path / "log"
        out.mkdir()
        with subprocess.Popen([sys.executable, "-c", HOLDER, str(out)], stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout.readline() == "True\n"
            running = Running([*replaced(small, max_train_steps=2), "--output_dir", str(out)], log)
            wait_until(lambda: log.is_file() and f"Another run is still writing to {out}" in log.read_text())
            assert not list(out.iterdir())
            meanwhile(out)
            other.kill()
        return running.wait()

    return after


def test_a_run_waits_until_the_folder_is_free_and_says_so(waited):
    ended = waited(lambda out: None)
    assert ended.code == 0, ended.output


def test_what_a_run_waited_for_is_not_written_over(waited, tmp_path):
    """Two were started in one new folder: the second may only go on in it if it was told so."""
    out = tmp_path / "out"
    ended = waited(lambda out: (out / "run.toml").write_text("seed = 1\n"))
    assert ended.code == 2, ended.output
    assert f"{out} is not empty. Go on with --resume_from_checkpoint latest" in ended.output
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("run.toml", "seed = 1\n")]


def test_the_cache_may_lie_in_the_output_folder(trainer, small, tmp_path):
    """Where it is written to while the run is planned."""
    out = tmp_path / "out"
    ended = trainer(*replaced(small, max_train_steps=1, cache_dir=out / "cache"), "--output_dir", out)
    assert ended.code == 0, ended.output
    assert (out / "cache").is_dir()


def test_a_file_system_that_cannot_lock_a_folder_is_trusted_and_other_errors_are_told(tmp_path, monkeypatch):
    def refuses(number):
        def flock(descriptor, operation):
            raise OSError(number, "no")

        monkeypatch.setattr(fcntl, "flock", flock)

    refuses(errno.ENOSYS)
    assert atomic.hold_folder(tmp_path, 0.0)
    refuses(errno.EIO)
    with pytest.raises(OSError, match="no"):
        atomic.hold_folder(tmp_path, 0.0)
