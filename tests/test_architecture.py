"""The style that can be counted: small files, small functions, no family by name, nothing printed."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parent.parent
SOURCES = [ROOT / "train_lora.py", *sorted((ROOT / "pipeline").rglob("*.py"))]
LONG = {"train": 90}  # the loop alone may be longer


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_and_its_functions_can_be_read(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LONG.get(node.name, 60), f"{node.name}: {lines} lines"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print"


def test_a_family_is_small_and_nobody_asks_for_its_name():
    for path in (ROOT / "pipeline" / "families").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 150
    for path in SOURCES:
        assert not re.search(r"family\.name\s*[!=]=", path.read_text(encoding="utf-8")), path


def test_no_pickle_is_read_anywhere():
    for path in SOURCES:
        assert not re.search(r"torch\.load|import pickle|np\.load", path.read_text(encoding="utf-8")), path
