"""docs/benchmarks.md says what lies in docs/benchmarks, and what was never measured."""

import runpy
from pathlib import Path

import pytest

from pipeline.bench import page, results
from pipeline.bench.page import SECTIONS
from pipeline.bench.results import Found, Row
from pipeline.errors import CheckpointError

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
ABOUT = {"model": "SD 1.5 @512", "lane": "eager", "batch": "1", "rank": "16", "changed": ""}


def found_on(machine: str, *rows: Row) -> Found:
    return Found(
        "gpu", "2026-01-02", "python -m pipeline bench gpu", machine, "x", {"torch": "2"}, {"steps": "3"}, rows
    )


def test_the_pages_are_made_of_the_files():
    made = runpy.run_path(str(ROOT / "docs" / "make_benchmarks.py"))["pages"]()
    assert [path.name for path in made] == ["benchmarks.md", "benchmarks-data.md"]
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: make docs"


def test_each_row_names_its_machine_and_what_nobody_measured_says_so():
    one = found_on("card A", Row(ABOUT, {"samples_per_s": (4.0, 6.0, 5.0), "mfu": (0.0004,)}))
    other = found_on(
        "card B", Row(ABOUT, {"samples_per_s": (50.0,)}), Row({**ABOUT, "lane": "nf4"}, {}, "out of memory")
    )
    lines = page.section_text(SECTIONS[1], [one, other]).splitlines()
    first, second, third = (
        line for line in lines if line.startswith("| SD 1.5") and line.endswith(("card A |", "card B |"))
    )
    assert "| 5.00 [4.00, 6.00] | 4.0e-04 | - |" in first
    assert "| 50.00 | - |" in second
    assert "| nf4 | 1 | 16 |  | not measured |" in third
    assert "- SD 1.5 @512, nf4, 1, 16: out of memory" in lines
    assert "| SD 1.5 @512 | graphs | 1 | 16 |  | not measured |" in page.section_text(SECTIONS[1], [one, other])
    assert page.section_text(SECTIONS[1], []).count("| eager | 1 | 16 |  | not measured |") == 6


def test_the_same_machine_replaces_what_it_found_before(tmp_path):
    row = Row(ABOUT, {"samples_per_s": (1.5,)}, note="warm")
    paths = {results.write(found_on("NVIDIA H100 80GB", other), tmp_path) for other in (Row(ABOUT, {}), row)}
    assert [path.name for path in paths] == ["gpu-nvidia-h100-80gb.json"]
    assert results.read_all(tmp_path) == [found_on("NVIDIA H100 80GB", row)]
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"other\.json lacks"):
        results.read_all(tmp_path)
