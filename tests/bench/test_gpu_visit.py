"""A visit to a GPU: a part that fails or runs out of time leaves its trace, and the next one runs."""

import json
import sys
import time

import pytest

from pipeline.bench import gpu_visit
from pipeline.bench.gpu_visit import Part

pytestmark = pytest.mark.unit


def part(name: str, program: str, seconds: float) -> Part:
    return Part(name, seconds / 60, (sys.executable, "-c", program))


def test_parts_fail_and_run_out_of_time_each_for_itself(tmp_path):
    marker = tmp_path / "marker"
    child = f"import time; time.sleep(3); open({str(marker)!r}, 'w')"
    sleeper = (
        f"import subprocess, sys, time; print('began', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    )
    parts = [
        part("fails", "raise ValueError('no such kernel')", 60),
        part("sleeps", sleeper, 1.5),
        part("works", "print('all is well')", 60),
        part("late", "print('never')", 600),
    ]
    parts[3] = Part("late", 0.5, parts[3].command)
    started = time.monotonic()
    found = gpu_visit.visit(parts[:3], 10, tmp_path)
    assert [one.ended.split(":")[0].split(" after")[0] for one in found] == ["failed with 1", "stopped", "done"]
    assert "ValueError: no such kernel" in found[0].said_last
    assert "began" in found[1].said_last
    assert (tmp_path / "works.log").read_text() == "all is well\n"
    kept = json.loads((tmp_path / "visit.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in kept["parts"]] == ["fails", "sleeps", "works"]
    assert kept["parts"][0]["said_last"] == found[0].said_last
    assert not marker.exists(), "what a part started is stopped with it"
    (ended,) = gpu_visit.visit([parts[3]], 1 / 60, tmp_path)
    assert (ended.ended, ended.seconds) == (gpu_visit.NO_TIME, 0.0)
    assert not (tmp_path / "late.log").exists()
    assert time.monotonic() - started < 60


def test_what_a_part_leaves_over_is_there_for_the_next(tmp_path):
    """The second has a second of its own and needs two; the first took less than its own three."""
    parts = [part("quick", "", 3), part("slow", "import time; time.sleep(2)", 1)]
    assert [one.ended for one in gpu_visit.visit(parts, 1, tmp_path)] == ["done", "done"]


def test_a_visit_is_in_the_order_of_what_is_wanted_most(tmp_path):
    found = gpu_visit.parts_of(tmp_path, tmp_path / "starter", toy=False)
    names = ["starter", "tests", "sd15", "sdxl", "sd35", "flux", "small-cards", "profile"]
    assert [one.name for one in found] == names
    assert found[5].command[-7:-5] == ("--blocks", "12")
    assert all("--toy" in one.command for one in gpu_visit.parts_of(tmp_path, None, toy=True)[1:-1])


@pytest.mark.slow
def test_a_whole_visit_at_toy_size(tmp_path):
    assert gpu_visit.main(minutes=30, to=tmp_path, toy=True) == 0
    kept = json.loads((tmp_path / "visit.json").read_text(encoding="utf-8"))
    assert {one["ended"] for one in kept["parts"]} == {"done"}
    assert len(list(tmp_path.glob("gpu-toy-*.json"))) == 4
