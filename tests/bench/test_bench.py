"""Both programs of the benchmark do the same work, and the page says what was measured."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.bench import cpu, table
from pipeline.bench.cpu import Measured, Result
from tests.running import Running

pytestmark = pytest.mark.unit


def test_both_programs_have_the_same_losses(tmp_path, monkeypatch):
    """In warmed processes: what a cold start costs is what is measured elsewhere, not what is computed."""

    def fork(words: list[str], folder: Path) -> tuple[float, int]:
        ended = Running([], folder / "log", program=tuple(words[1:])).wait()
        assert ended.code == 0, ended.output
        return 0.0, 0

    monkeypatch.setattr(cpu, "_spawn", fork)
    (tmp_path / "plain").mkdir()
    (tmp_path / "ours").mkdir()
    plain, ours = cpu.run_plain(tmp_path / "plain", 3), cpu.run_ours(tmp_path / "ours", 3)
    assert len(plain.losses) == len(ours.losses) == 3
    assert max(abs(a - b) for a, b in zip(plain.losses, ours.losses, strict=True)) <= cpu.TOLERANCE


def test_what_a_program_takes_is_what_its_process_took(tmp_path):
    """Measured from a small process, as `python -m pipeline bench` is one."""
    program = f"""
import pathlib, sys
from pipeline.bench import cpu
print(*cpu._spawn([sys.executable, "-c", "b'x' * 300_000_000"], pathlib.Path({str(tmp_path)!r})))
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    seconds, peak = map(float, said.split())
    assert seconds > 0
    assert 300e6 < peak < 600e6


def test_the_page_says_where_ours_is_ahead():
    plain = Measured((1.0, 0.9, 1.1), (5.0, 5.0, 5.0), (65.0, 64.0, 66.0), 1e9)
    ours = Measured((0.5, 0.4, 0.6), (15.0, 15.0, 15.0), (45.0, 44.0, 46.0), 0.5e9)
    text = table.page(Result(3, plain, ours, 2e-7, 3e-4))
    assert "| one step, in a long run, CPU s | 1.000 [0.900, 1.100] | 0.500 [0.400, 0.600] | 0.50 |" in text
    assert "from about 20 steps on" in text
    assert "2.0e-07" in text
    assert "3.0e-04" in text


def test_a_program_that_fails_is_not_measured(tmp_path):
    with pytest.raises(RuntimeError, match="failed"):
        cpu._spawn([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)
