"""A folder is held by one process, until that ends."""

import subprocess
import sys

import pytest

from pipeline import durable

pytestmark = pytest.mark.unit
HOLDER = "import sys, time, pathlib; from pipeline import durable\n"
HOLDER += "print(durable.hold_folder(pathlib.Path(sys.argv[1]), 0.0), flush=True); time.sleep(60)"


def test_a_folder_is_held_until_the_process_is_gone(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "True\n"
    assert not durable.hold_folder(tmp_path, 0.2)
    holder.kill()
    assert durable.hold_folder(tmp_path, 5.0)
    assert durable.hold_folder(tmp_path, 0.0)  # a second run of the same process, as in a notebook
    assert not list(tmp_path.iterdir())
    holder.wait()
