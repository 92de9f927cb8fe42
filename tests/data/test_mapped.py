"""Examples in a mapped file are those that were written, whole, in parts, by columns and in other processes."""

import dataclasses
import os
import pickle

import numpy as np
import pytest

from pipeline.data import mapped
from pipeline.data.manifest import Example, Manifest, at, column, letters
from pipeline.data.mapped import Mapped, MappedTable
from pipeline.data.options import DataOptions
from pipeline.data.rows import FileSource, TableSource
from pipeline.errors import DataError
from pipeline.geometry import Size

pytestmark = pytest.mark.unit
OPTIONS = DataOptions(masked_loss=True)


def example_of(number: int) -> Example:
    """Every field differs from its default in some of them."""
    copy = number % 2
    return Example(
        f"{number // 2:032x}" + ("-2" if copy else ""),
        f"image {number // 2}",
        f"ü {number}.png",
        FileSource(f"/data/{number}.png"),
        tuple(f"caption {place}" for place in range(1 + number % 3)),
        Size(64 + number % 2, 64),
        OPTIONS,
        copy=copy,
        sketch="abc",
        mask=FileSource(f"/data/{number}.mask.png") if number % 5 == 0 else None,
        weights=(0.1, 0.7, 1.0)[: 1 + number % 3] if number % 4 == 0 else (),
        mask_id=f"mask {number}" if number % 5 == 0 else "",
        group=f"group {number}" if number % 7 == 0 else None,
        loss_weight=0.5 if number % 3 == 0 else 1.0,
        weighed_as=f"value {number}" if number % 3 == 0 else None,
    )


EXAMPLES = tuple(map(example_of, range(100)))


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "ROWS", 16)  # several record batches
    mapped.write(tmp_path / "examples.arrow", EXAMPLES, {"signature": "s"})
    return Mapped(MappedTable.opened(tmp_path / "examples.arrow"), OPTIONS)


def test_texts_of_one_length_come_as_letters(kept):
    places = np.array([3, 99, 17, 18])
    for examples in (kept, kept.at(places), EXAMPLES, at(EXAMPLES, places)):
        found = letters(examples, "sketch")
        assert found.tobytes() == b"abc" * len(examples)
        assert found.shape == (len(examples), 3)
        assert letters(examples, "name") is None
    assert letters(kept.at(places[2:]), "name").tobytes().decode() == "ü 17.pngü 18.png"
    assert [letters(examples, "group") for examples in (kept, EXAMPLES)] == [None, None]
    assert [letters(examples, "name") for examples in (kept.at(places[:0]), ())] == [None, None]


def test_every_way_to_an_example_leads_to_the_one_that_was_written(kept):
    assert kept == EXAMPLES
    assert kept != EXAMPLES[:-1]
    assert [kept[place] for place in range(-100, 100)] == [*EXAMPLES, *EXAMPLES]
    assert kept[17:80:3] == EXAMPLES[17:80:3]
    assert kept.file.header == {"signature": "s"}
    with pytest.raises(IndexError):
        kept[100]


def test_a_name_that_is_no_text_is_kept_and_what_arrow_cannot_hold_leaves_nothing_behind(tmp_path):
    odd = os.fsdecode(b"/data/caf\xe9.png")
    example = dataclasses.replace(EXAMPLES[0], source=FileSource(odd), mask=FileSource(odd))
    mapped.write(tmp_path / "examples.arrow", [example], {})
    found = Mapped(MappedTable.opened(tmp_path / "examples.arrow"), OPTIONS)
    assert found == [example]
    assert found[0] == example
    with pytest.raises(ValueError, match="surrogates"):
        mapped.write(tmp_path / "other.arrow", [dataclasses.replace(example, group="\ud800")], {})
    assert [path.name for path in tmp_path.iterdir()] == ["examples.arrow"]


def test_columns_may_be_larger_than_2_gib(kept):
    import pyarrow.types as kinds

    for field in kept.file.table.schema:
        kind = field.type.value_type if kinds.is_large_list(field.type) else field.type
        assert not any(is_small(kind) for is_small in (kinds.is_string, kinds.is_binary, kinds.is_list)), field


@pytest.mark.parametrize("where", [0.1, 0.4, 0.6, 0.9, 0.9999])
@pytest.mark.parametrize("damage", [bytes(16), b"\xff" * 16, None])
def test_a_file_that_is_not_as_it_was_written_is_refused(kept, where, damage):
    path = kept.file.path
    content = path.read_bytes()
    place = int(where * len(content))
    other = content[:place] if damage is None else content[:place] + damage + content[place + len(damage) :]
    path.write_bytes(other[: len(content)] if other != content else content[:place] + b"x" * 16 + content[place + 16 :])
    with pytest.raises(ValueError, match=r"not as it was written|cut short"):
        MappedTable.opened(path)


def test_a_part_of_a_part_and_its_columns(kept):
    chance = np.random.default_rng(0)
    places = chance.permutation(100)[:60]
    part, plain = at(kept, places), at(EXAMPLES, places)
    assert part == plain
    assert [part[place] for place in range(60)] == list(plain)
    again = chance.permutation(60)[:20]
    for few, same in ((kept, EXAMPLES), (part, plain), (at(part, again), at(plain, again)), (part[:0], ())):
        for field in dataclasses.fields(Example):
            assert column(few, field.name) == [getattr(example, field.name) for example in same], field.name


def test_a_manifest_of_them_is_the_same_manifest(kept):
    one, other = Manifest("data", kept), Manifest("data", EXAMPLES)
    assert one == other
    assert one.fingerprint == other.fingerprint
    assert one.distinct() == other.distinct()
    assert len(one.distinct().examples) == 50
    assert one.data_fingerprint == other.data_fingerprint != one.fingerprint
    for limit in (None, 0, 7, 60, 1000):
        assert one.limited(limit) == other.limited(limit)
    assert {example.copy for example in one.limited(50).examples} == {0}


def test_another_process_opens_the_file_itself(kept):
    part = kept[5:50]
    packed = pickle.dumps(part)
    assert len(packed) < 10_000  # no picture's row in it
    assert pickle.loads(packed) == EXAMPLES[5:50]


def test_a_file_that_was_replaced_goes_along_whole_and_is_never_taken_for_the_first(kept):
    before = pickle.dumps(kept)
    mapped.write(kept.file.path, EXAMPLES[:3], {"signature": "another"})
    assert pickle.loads(pickle.dumps(kept)) == EXAMPLES
    with pytest.raises(DataError, match="changed while"):
        pickle.loads(before)


def test_nothing_half_written_and_no_other_source_is_kept(tmp_path):
    def broken():
        yield EXAMPLES[0]
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        mapped.write(tmp_path / "examples.arrow", broken(), {})
    assert not list(tmp_path.iterdir())
    assert mapped.is_kept(EXAMPLES)
    row = TableSource([{"image": b""}], "image", 0)
    assert not mapped.is_kept((EXAMPLES[1], dataclasses.replace(EXAMPLES[0], source=row)))
    assert not mapped.is_kept((EXAMPLES[1], dataclasses.replace(EXAMPLES[0], mask=row)))
