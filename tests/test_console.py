"""What is said at the terminal."""

import pytest

from pipeline.console import columns

pytestmark = pytest.mark.unit


def test_the_cells_of_rows_stand_below_one_another():
    rows = [("name", "rank", ""), ("a", "16", "the last cell ends the line"), ("longer", "", "x")]
    assert columns(rows) == [
        "  name    rank",
        "  a       16    the last cell ends the line",
        "  longer        x",
    ]
    assert columns([("a", "b")], indent="") == ["a  b"]
    assert columns([]) == []
