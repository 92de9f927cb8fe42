"""Records in files: they come back as they were, and whatever else a file holds is refused by name."""

import json
from dataclasses import dataclass

import pytest

from pipeline import records
from pipeline.errors import CheckpointError
from tests.rows import step_row, validation_row

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Inner:
    share: float


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    values: tuple[float, ...]
    inner: Inner
    by_name: dict[str, Inner]
    note: str | None
    others: tuple[Inner, ...] = ()


RECORD = Outer("a", 3, (1.0, float("inf"), -float("inf")), Inner(0.5), {"b": Inner(1.5)}, None)
FOUND = json.loads(json.dumps(records.to_json(RECORD), allow_nan=False))


def test_a_record_comes_back_as_it_was():
    assert records.from_json(Outer, FOUND, "x.json") == RECORD
    assert "note" in FOUND  # it has no default, so that it is none is told
    assert "others" not in FOUND
    for row in (step_row(3), step_row(4, validation_row(-0.25, 0.125))):
        assert records.parse(type(row), json.dumps(records.to_json(row)), "metrics.jsonl") == row


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"strange": 1}, "x.json holds strange, unknown to this version; put back what the run wrote"),
        ({"count": "3"}, "x.json: count is '3', which does not belong there"),
        ({"count": True}, "x.json: count is True"),
        ({"count": 1.5}, "x.json: count is 1.5"),
        ({"name": None}, "x.json: name is None"),
        ({"values": [1, "two"]}, "x.json: values is 'two'"),
        ({"values": 1}, "x.json: values is 1"),
        ({"inner": {}}, "x.json: inner lacks share"),
        ({"inner": []}, "x.json: inner holds no JSON object"),
        ({"by_name": {"b": {"share": "half"}}}, "x.json: by_name: b: share is 'half'"),
    ],
)
def test_what_does_not_belong_there_is_named(changed, said):
    with pytest.raises(CheckpointError) as caught:
        records.from_json(Outer, {**FOUND, **changed}, "x.json")
    assert said in str(caught.value)


def test_every_field_that_is_missing_is_named():
    with pytest.raises(CheckpointError, match=r"^x\.json lacks by_name, count, inner, name, note, values; put back"):
        records.from_json(Outer, {}, "x.json")


def test_what_is_no_json_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"name": "a"', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"x\.json is damaged"):
        records.read(Outer, tmp_path / "x.json")
