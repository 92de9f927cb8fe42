"""What is said at the terminal, and that nothing which goes wrong there is raised."""

import io
import os
import subprocess
import sys

import pytest

from pipeline import console
from pipeline.console import columns

pytestmark = pytest.mark.unit


def test_a_stream_that_is_not_there_takes_nothing():
    console.write("text", None)


def test_a_closed_stream_takes_nothing():
    stream = io.TextIOWrapper(io.BytesIO())
    stream.close()
    console.write("text", stream)


def test_a_letter_that_a_stream_cannot_write_is_escaped():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    console.write("caf\u00e9", stream)
    assert raw.getvalue() == b"caf\\xe9"


@pytest.mark.parametrize("place", ["a pipe without a reader", "/dev/full"])
def test_what_nobody_takes_goes_nowhere_and_the_process_ends_well(place):
    """Also what is written later, by others too, and what Python flushes at its end."""
    code = "from pipeline import console; import sys\n"
    code += "for number in range(3): console.write('x' * 100_000, sys.stdout)\nsys.stdout.write('y' * 10)"
    if place == "/dev/full":
        with open(place, "w") as stream:
            ended = subprocess.run([sys.executable, "-c", code], stdout=stream, stderr=subprocess.PIPE, check=False)
    else:
        reader, writer = os.pipe()
        os.close(reader)
        ended = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize("words", [["-m", "pipeline", "families"], ["train_lora.py", "--help"]])
def test_an_answer_that_cannot_be_kept_is_an_error(words):
    """Or a script would take an empty file for the answer. A reader that has enough is none."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, *words], stdout=full, stderr=subprocess.PIPE, check=False, text=True)
    assert (ended.returncode, ended.stderr) == (2, "Error: standard output cannot be used: No space left on device.\n")
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, *words], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_the_cells_of_rows_stand_below_one_another():
    rows = [("name", "rank", ""), ("a", "16", "the last cell ends the line"), ("longer", "", "x")]
    assert columns(rows) == [
        "  name    rank",
        "  a       16    the last cell ends the line",
        "  longer        x",
    ]
    assert columns([("a", "b")], indent="") == ["a  b"]
    assert columns([]) == []
