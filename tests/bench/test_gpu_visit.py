"""A visit to a GPU: a part that fails or runs out of time leaves its trace, and the next one runs."""

import json
import sys

import psutil
import pytest

from pipeline.bench import gpu_visit, results
from pipeline.bench.gpu_visit import Part
from pipeline.bench.published import MODELS
from pipeline.bench.results import Found, Row
from tests.running import wait_until

pytestmark = pytest.mark.unit


def part(name: str, program: str, seconds: float) -> Part:
    return Part(name, seconds / 60, (sys.executable, "-c", program))


def test_parts_fail_and_run_out_of_time_each_for_itself(tmp_path):
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    sleeper = "import subprocess, sys; print('began', flush=True); "
    sleeper += f"subprocess.run([sys.executable, '-c', {child!r}])"
    parts = [
        part("sleeps", sleeper, 1.5),
        part("fails", "raise ValueError('no such kernel')", 60),
        part("works", "print('all is well')", 60),
    ]
    found = gpu_visit.visit(parts, 10, tmp_path)
    assert [one.ended.split(":")[0].split(" after")[0] for one in found] == ["stopped", "failed with 1", "done"]
    assert "ValueError: no such kernel" in found[1].said_last
    assert "began" in found[0].said_last
    assert (tmp_path / "works.log").read_text() == "all is well\n"
    kept = json.loads((tmp_path / "visit.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in kept["parts"]] == ["sleeps", "fails", "works"]
    assert kept["parts"][1]["said_last"] == found[1].said_last
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 10)
    (ended,) = gpu_visit.visit([part("late", "print('never')", 600)], 1 / 60, tmp_path)
    assert (ended.ended, ended.seconds) == (gpu_visit.NO_TIME, 0.0)
    assert not (tmp_path / "late.log").exists()


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


def test_the_profile_is_of_what_makes_least_of_the_device(tmp_path):
    assert gpu_visit.slowest(tmp_path) == "sd15"
    shares = {("sd15", "eager"): 0.1, ("sd15", "graphs"): 0.5, ("sdxl", "eager"): 0.3, ("sdxl", "plain loop"): 0.01}
    rows = [
        Row({"model": MODELS[name].title, "lane": lane}, {"mfu": (share,)}) for (name, lane), share in shares.items()
    ]
    results.write(Found("gpu", "", "", "card", "", {}, {}, tuple(rows)), tmp_path)
    assert gpu_visit.slowest(tmp_path) == "sdxl"
    told = Part("profile", 1, (sys.executable, "-c", "import sys; print(sys.argv[1])", gpu_visit.SLOWEST))
    assert gpu_visit.run(told, 60, tmp_path).command[-1] == "sdxl"
    assert (tmp_path / "profile.log").read_text() == "sdxl\n"


@pytest.mark.slow
def test_a_whole_visit_at_toy_size(tmp_path):
    assert gpu_visit.main(minutes=30, to=tmp_path, toy=True) == 0
    kept = json.loads((tmp_path / "visit.json").read_text(encoding="utf-8"))
    assert {one["ended"] for one in kept["parts"]} == {"done"}
    assert len(list(tmp_path.glob("gpu-toy-*.json"))) == 5
