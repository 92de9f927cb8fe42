"""--balance, --weight_column and --weight_values: what examples count; capped, said, and part of what a run is."""

import collections
import dataclasses
import json

import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from pipeline.data import groups
from pipeline.data.groups import MOST, balance_of
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.sampler import Position
from pipeline.errors import DataError
from pipeline.run import build, preflight
from pipeline.run.encode import encode
from pipeline.run.identity import identity_of
from tests.audit.flaws import picture, write_rows
from tests.conftest import metrics, prepared, replaced

pytestmark = pytest.mark.unit


def write(folder, kinds):
    folder.mkdir()
    rows = []
    for number, kind in enumerate(kinds):
        picture(number).save(folder / f"{number:02d}.png")
        rows.append({"file_name": f"{number:02d}.png", "text": f"number {number}", "kind": kind})
    write_rows(folder, rows)
    return folder


@pytest.fixture
def uneven(tmp_path):
    return write(tmp_path / "uneven", ["cat"] * 9 + ["dog"] * 3)


def read(folder, **more):
    chosen = {"balance": "kind"} | more
    options = DataOptions(train_data_dir=str(folder), cache_dir=str(folder.parent / "cache"), **chosen)
    return read_manifest(folder, options)


def test_groups_weigh_the_same_in_all_and_the_mean_is_one(uneven):
    found = balance_of(read(uneven).examples, "kind")
    assert found.counts == {"cat": 9, "dog": 3}
    assert found.weights == {"cat": pytest.approx(12 / 18), "dog": pytest.approx(2.0)}
    assert found.effective == pytest.approx(12**2 / (9 * (12 / 18) ** 2 + 3 * 4))
    assert found.text() == "by kind: 9 cat x 0.667, 3 dog x 2; 12 examples say as much as 9.0 alike"


def test_an_even_dataset_is_left_as_it_is(tmp_path):
    found = balance_of(read(write(tmp_path / "even", ["cat", "dog"] * 3)).examples, "kind")
    assert set(found.weights.values()) == {1.0}
    assert found.effective == pytest.approx(6)
    assert found.text() == "by kind: its 2 groups are equally large, so all 6 examples count alike anyway"
    many = balance_of(read(write(tmp_path / "many", [*range(30), 0])).examples, "kind").text()
    assert "and 22 more; 31 examples" in many
    one = balance_of(read(write(tmp_path / "one", ["cat"] * 3)).examples, "kind").text()
    assert "it has one group, so all 3 examples count alike anyway" in one


def test_a_rare_group_counts_ten_times_at_most(tmp_path):
    found = balance_of(read(write(tmp_path / "rare", ["cat"] * 39 + [7])).examples, "kind")
    assert found.capped == ("7",)
    assert found.weights["7"] / found.weights["cat"] == pytest.approx(MOST / (40 / 78))
    assert sum(found.weights[group] * number for group, number in found.counts.items()) == pytest.approx(40)
    assert "7 too rare to count alike" in found.text()


def test_an_image_without_a_group_is_named(tmp_path):
    with pytest.raises(DataError) as error:
        read(write(tmp_path / "gaps", ["cat", "", None, "dog"]))
    assert str(error.value).count("its 'kind' is empty or no single value, and --balance needs it") == 2
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "loose").mkdir()
    picture(0).save(tmp_path / "loose" / "a.png")
    with pytest.raises(DataError, match=r"a\.png: no 'kind' \(there is no columns\), and --balance needs it"):
        read(tmp_path / "loose", instance_prompt="a thing")


def test_what_is_the_same_of_many_rows_is_said_once(tmp_path):
    rows = []
    for number in range(14):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number:02d}.png")
        rows.append(json.dumps({"file_name": f"{number:02d}.png", "text": "x", "w": "much" if number < 12 else "some"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"\.png and 13 more: no 'nope' \(there is text, w\)") as error:
        read_manifest(tmp_path, DataOptions(balance="nope"))
    assert "1 problem(s)" in str(error.value)
    with pytest.raises(DataError, match=r"\.png and 11 more: its 'w' is 'much'") as error:
        read_manifest(tmp_path, DataOptions(weight_column="w"))
    assert all(f"{number}.png: its 'w' is 'some'" in str(error.value) for number in (12, 13))


def test_numbers_are_groups_by_their_value_and_nothing_is_none(tmp_path):
    found = read(write(tmp_path / "numbers", [1, 1.0, "1", 2.5]))
    assert sorted(example.group for example in found.examples) == ["1", "1", "1", "2.5"]
    folder = write(tmp_path / "parquet", ["x", "y"])
    (folder / "metadata.jsonl").unlink()
    columns = {"file_name": ["00.png", "01.png"], "text": ["a", "b"], "kind": [1.0, float("nan")]}
    parquet.write_table(pyarrow.table(columns), folder / "metadata.parquet")
    with pytest.raises(DataError, match="its 'kind' is empty or no single value"):
        read(folder)


def test_one_image_in_two_groups_is_noted(tmp_path):
    folder = write(tmp_path / "torn", ["cat", "dog"])
    picture(0).save(folder / "01.png")
    write_rows(folder, [{"file_name": f"0{n}.png", "text": "a", "kind": kind} for n, kind in enumerate(["cat", "dog"])])
    assert "the same image and caption in several groups of --balance: 00.png = 01.png" in read(folder).notes


def test_a_run_weighs_its_examples_and_says_so(small, uneven, tmp_path, trainer):
    flags = [*replaced(small, train_data_dir=uneven, num_validation_images=0, max_train_steps=6), "--balance", "kind"]
    context = prepared(flags, tmp_path / "out")
    encode(context)
    examples = build.build_examples(context)
    seen = collections.Counter()
    for bucket in context.plan.buckets:
        for entry in bucket.entries:
            row = examples[Position(entry.index, 0, bucket.size)]
            seen[context.data.manifest.examples[entry.index].group, round(row["weight"], 6)] += 1
    assert seen == {("cat", round(12 / 18, 6)): 9, ("dog", 2.0): 3}
    assert examples.collate([row, row]).weights.tolist() == pytest.approx([row["weight"]] * 2)
    whole, plain = tmp_path / "whole", tmp_path / "plain"
    ended = trainer(*flags, "--checkpointing_steps", "2", "--output_dir", whole)
    assert ended.code == 0, ended.output
    assert "balance          by kind: 9 cat x 0.667, 3 dog x 2; 12 examples say as much as 9.0 alike" in ended.output
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert "The loss is weighed by kind: 9 cat x 0.667, 3 dog x 2" in page
    assert trainer(*flags[:-2], "--output_dir", plain).code == 0
    assert [row["loss"] for row in metrics(plain)] != [row["loss"] for row in metrics(whole)]
    refused = trainer(*flags[:-2], "--output_dir", tmp_path / "x", "--resume_from_checkpoint", whole / "checkpoint-2")
    assert refused.code == 2
    assert "balance" in refused.output


def weighed(folder, weights):
    write(folder, ["cat"] * len(weights))
    rows = [{"file_name": f"{n:02}.png", "text": f"picture {n}", "w": weight} for n, weight in enumerate(weights)]
    write_rows(folder, rows)
    return folder


def test_an_example_counts_what_its_column_says(small, tmp_path):
    folder = weighed(tmp_path / "weighed", [1, 0.5, "2", 4.5])
    flags = [*replaced(small, train_data_dir=folder), "--weight_column", "w"]
    context = prepared(flags, tmp_path / "out")
    rows = dict(context.plan.rows)
    assert rows["weights"] == "by w: 0.5 to 4.5, 2 on average; 4 examples say as much as 2.5 alike"
    encode(context)
    examples = build.build_examples(context)
    found = {}
    for bucket in context.plan.buckets:
        for entry in bucket.entries:
            row = examples[Position(entry.index, 0, bucket.size)]
            found[row["caption"] or entry.index] = row["weight"]
    assert sorted(found.values()) == [0.5, 1.0, 2.0, 4.5]
    batch = examples.collate([row, row])
    assert batch.weights.tolist() == [row["weight"]] * 2
    models = build.load_models(context)
    method = build.build_method(context, models)
    losses = [
        method(dataclasses.replace(batch, weights=weights), torch.device("cpu")) for weights in (batch.weights, None)
    ]
    torch.testing.assert_close(losses[0], losses[1] * row["weight"])
    folder = weighed(tmp_path / "other", [1, 0.5, "2", 3])
    other = prepared([*replaced(small, train_data_dir=folder), *flags[-2:]], tmp_path / "x")
    changes = identity_of(other).changes_from(json.loads(json.dumps(identity_of(context).facts)))
    assert [line.split(":")[0] for line in changes] == ["example_weights"]


def test_a_test_set_needs_neither_groups_nor_weights(tmp_path):
    write(tmp_path / "test", ["cat"])
    write_rows(tmp_path / "test", [{"file_name": "00.png", "text": "a picture"}])
    for asked in ({"balance": "kind"}, {"weight_column": "w"}, {"weight_column": "w", "weight_values": "ink=2"}):
        found = preflight.test_data(DataOptions(evaluation_data_dir=str(tmp_path / "test"), **asked))
        assert [(example.group, example.loss_weight, example.weighed_as) for example in found.examples] == [
            (None, 1.0, None)
        ]


def test_a_weight_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError) as error:
        read(weighed(tmp_path / "bad", [1, 0, "many", -2, None, True]), weight_column="w", balance=None)
    said = str(error.value)
    assert said.count("no number above 0, and --weight_column needs one") == 5
    assert "01.png: its 'w' is 0, no" in said


VALUES = ["--weight_column", "kind", "--weight_values"]


def test_a_condition_counts_what_its_value_does(small, tmp_path):
    folder = write(tmp_path / "mixed", ["ink", "ink", "photo", "pencil", " ink ", 7])
    flags = [*replaced(small, train_data_dir=folder), *VALUES]
    context = prepared([*flags, " ink = 2,7=0.5"], tmp_path / "out")
    said = dict(context.plan.rows)["weights"]
    assert said == "by kind: 1 7 x 0.5, 3 ink x 2, 1 pencil x 1, 1 photo x 1; 6 examples say as much as 5.1 alike"
    weights = {example.caption: example.loss_weight for example in context.data.manifest.examples}
    assert weights == {f"number {n}": weight for n, weight in enumerate([2.0, 2.0, 1.0, 1.0, 2.0, 0.5])}
    other = prepared([*flags, "ink=2,photo=3"], tmp_path / "x")
    changes = identity_of(other).changes_from(json.loads(json.dumps(identity_of(context).facts)))
    assert [line.split(":")[0] for line in changes] == ["example_weights"]


def test_values_that_no_example_has_and_examples_without_one_are_named(small, tmp_path):
    folder = write(tmp_path / "mixed", ["ink", "ink", "photo", "pencil"])
    flags = [*replaced(small, train_data_dir=folder), *VALUES]
    with pytest.raises(DataError) as error:
        prepared([*flags, "inkk=2,ink=2,oil=3"], tmp_path / "out")
    there = "there is ink (2 x), pencil (1 x), photo (1 x)."
    assert str(error.value) == f"--weight_values: no example has 'inkk' or 'oil' in the column 'kind'; {there}"
    gaps = write(tmp_path / "gaps", ["ink", "", None])
    with pytest.raises(DataError) as error:
        prepared([*replaced(flags, train_data_dir=gaps), "ink=2"], tmp_path / "out")
    assert str(error.value).count("its 'kind' is empty or no single value, and --weight_values needs it") == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ink=2,photo", "'photo' is no value=number, as in ink=2,photo=0.5 (no commas or = in a value)"),
        ("a=b=2", "'a=b=2' is no value=number"),
        ("=2", "'=2' is no value=number"),
        ("", "'' is no value=number"),
        ("ink=0", "what 'ink' counts must be a finite number above 0, and is '0'"),
        ("ink=inf", "what 'ink' counts must be a finite number above 0, and is 'inf'"),
        ("ink=nan,photo=many", "what 'photo' counts must be a finite number above 0, and is 'many'"),
        ("ink=1, ink =2", "'ink' is given twice"),
    ],
)
def test_weights_of_values_that_are_none_are_named(text, said):
    (problem,) = DataOptions(weight_column="kind", weight_values=text).problems()
    assert problem.startswith("--weight_values: ")
    assert said in problem


@pytest.mark.unit
def test_a_weight_beside_which_others_are_nothing_counts_as_one():
    assert groups.effective_size({1e300: 1, 1.0: 9}) == pytest.approx(1)
    assert groups.effective_size({1e-300: 4}) == pytest.approx(4)
