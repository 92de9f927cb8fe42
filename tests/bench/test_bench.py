"""`bench cpu`: both programs do the same work, and what is told of them is what was measured."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.bench import cpu, spawning
from pipeline.bench.cpu import Programs, Ran, Round
from pipeline.bench.shapes import SHAPES
from pipeline.errors import ConfigError
from tests.running import Running

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", ["starter", "toy"])
def test_both_programs_have_the_same_losses(name, tmp_path, monkeypatch):
    """In warmed processes: what a cold start costs is what is measured elsewhere, not what is computed."""

    def fork(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, int]:
        ended = Running([], folder / "log", program=tuple(words[1:])).wait()
        assert ended.code == 0, ended.output
        return 0.0, 0

    monkeypatch.setattr(spawning, "spawn", fork)
    shape = SHAPES[name]
    shape.write(tmp_path)
    programs = Programs(shape, *shape.places(tmp_path), environment={})
    (tmp_path / "plain").mkdir()
    (tmp_path / "ours").mkdir()
    plain = programs.plain(tmp_path / "plain", 3)
    ours = programs.ours(tmp_path / "ours", 3, tmp_path / "cache")
    assert len(plain.losses) == len(ours.losses) == 3
    assert max(abs(a - b) for a, b in zip(plain.losses, ours.losses, strict=True)) <= cpu.TOLERANCE


def test_a_shape_makes_what_does_not_ship(tmp_path):
    for name, made in (("starter", set()), ("short", {"pictures"}), ("toy", {"base", "pictures"})):
        shape = dataclasses.replace(SHAPES[name], side=16)
        shape.write(tmp_path / name)
        places = {path for path in shape.places(tmp_path / name) if path.is_relative_to(tmp_path)}
        assert {path.name for path in places} == made
        assert all(path.is_dir() for path in shape.places(tmp_path / name))


def test_what_a_program_takes_is_what_its_process_took(tmp_path):
    """Measured from a small process, as `python -m pipeline bench` is one."""
    program = f"""
import pathlib, sys
from pipeline.bench import spawning
print(*spawning.spawn([sys.executable, "-c", "b'x' * 300_000_000"], pathlib.Path({str(tmp_path)!r})))
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    seconds, peak = map(float, said.split())
    assert seconds > 0
    assert 300e6 < peak < 600e6


def test_the_bench_stays_small_itself():
    """The memory of who starts a process counts as that process's own, so it may not import what those do."""
    program = "import sys, pipeline.bench.cpu, pipeline.bench.scaling, pipeline.bench.measuring; "
    program += "print(sorted({'torch', 'diffusers', 'numpy', 'PIL'} & {*sys.modules}))"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said == "[]\n"


def rounds_of(losses: tuple[float, ...]) -> list[Round]:
    """Two rounds in which a step of the plain loop takes 2 s and then 3 s, and one of ours 1 s."""
    short, long = SHAPES["starter"].lengths
    return [
        Round(
            Ran(10 + step * short, 0), Ran(20 + short, 0), Ran(5 + short, 0),
            Ran(10 + step * long, 800_000_000, (0.5, 0.25)), Ran(20 + long, 400_000_000, losses),
        )
        for step in (2.0, 3.0)
    ]  # fmt: skip


def test_the_steps_are_told_apart_from_what_is_beside_them():
    rows = {row.about["what"]: row.found for row in cpu.rows_of(SHAPES["starter"], rounds_of((0.5, 0.25 + 1e-7)))}
    assert rows[cpu.STEP] == {"plain": (2.0, 3.0), "ours": (1.0, 1.0), "ours_to_plain": (0.5, 1 / 3)}
    assert rows[cpu.EMPTY] == {"plain": (10.0, 10.0), "ours": (20.0, 20.0), "ours_to_plain": (2.0, 2.0)}
    assert rows[cpu.WARM] == {"plain": (10.0, 10.0), "ours": (5.0, 5.0), "ours_to_plain": (0.5, 0.5)}
    assert rows[cpu.PEAK]["ours_to_plain"] == (0.5, 0.5)
    assert rows[cpu.APART]["ours"][0] == pytest.approx(1e-7)


def test_what_is_beside_the_steps_is_not_told_from_runs_too_short_for_it():
    first, second = rounds_of((0.5, 0.25))
    scattered = dataclasses.replace(second, plain_short=Ran(second.plain_short.seconds - 15, 0))
    rows = {row.about["what"]: row for row in cpu.rows_of(SHAPES["starter"], [first, scattered])}
    assert (
        (rows[cpu.EMPTY].found, rows[cpu.EMPTY].note)
        == (rows[cpu.WARM].found, rows[cpu.WARM].note)
        == ({}, cpu.TOO_SHORT)
    )
    assert rows[cpu.STEP].found["plain"][0] == 2.0


def test_programs_that_do_other_work_are_not_compared():
    with pytest.raises(RuntimeError, match="do not do the same work"):
        cpu.rows_of(SHAPES["starter"], rounds_of((0.5, 0.26)))


def test_a_script_of_its_own_draws_is_compared_without_losses(tmp_path):
    """What it is told is in diffusers' words, and lacks nothing that the script itself asks for."""
    shape = SHAPES["toy"]
    script = tmp_path / "script.py"
    script.write_text("import sys\nassert '--train_data_dir' in sys.argv and '--max_train_steps' in sys.argv\n")
    programs = Programs(shape, *shape.places(tmp_path), environment={}, script=script)
    assert programs.plain(tmp_path, 3).losses == ()


def test_a_program_that_fails_is_not_measured(tmp_path):
    with pytest.raises(RuntimeError, match="failed"):
        spawning.spawn([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cpu", "--rounds", "0"], "--rounds 0 must be at least 1"),
        (["cpu", "--script", "nowhere.py"], "--script nowhere.py is no file"),
        (["gpu", "--model", "sd99"], "--model sd99 is none of sd15, sdxl"),
        (["gpu", "--lane", "warp"], "--lane 'warp' is none of 'eager'"),
        (["gpu", "--steps", "0"], "--steps 0 must be at least 1"),
        (["profile", "--model", "nothing"], "neither a model folder nor one of sd15"),
        (["scaling", "--processes", "0"], "--processes needs at least 1"),
    ],
)
def test_what_cannot_be_measured_is_said(words, said, capsys):
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


def test_no_rounds_are_refused():
    with pytest.raises(ConfigError, match="--rounds"):
        cpu.compare(("starter",), 0, "", lambda found: None)


def test_pictures_are_always_the_same(tmp_path):
    shape = SHAPES["toy"]
    for name in ("one", "two"):
        shape.write(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*") if path.is_file())
    assert len(files) > 8
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in files)
