"""fairness: what is drawn of each group, from which seeds, what is said of it and where, and what is refused."""

import json
import shutil

import pytest

from pipeline.__main__ import main
from pipeline.commands.evaluation.drawing import DRAWN
from pipeline.commands.fairness import groups
from pipeline.evaluation.adapter_hash import hash_of
from pipeline.evaluation.fairness import record
from pipeline.evaluation.sample import Sampler
from pipeline.sharing import documents
from tests.audit.flaws import picture, write_rows
from tests.running import Running
from tests.shared import Shared

pytestmark = pytest.mark.invariant
SLOTS = [
    "--template",
    "a {size} {thing}",
    "--values",
    "size=small,large",
    "--values",
    "thing=fox,apple",
    "--by",
    "size",
]
STARTER = ["--extractor", "starter"]


def written(folder, counts, first):
    """Pictures with so many of each size; a file name, a caption and a column."""
    folder.mkdir(parents=True)
    sizes = [size for size, number in counts.items() for _ in range(number)]
    rows = []
    for number, size in enumerate(sizes, start=first):
        picture(number).save(folder / f"{number:02d}.png")
        rows.append({"file_name": f"{number:02d}.png", "text": f"a {size} thing, number {number}", "size": size})
    write_rows(folder, rows)
    return folder


@pytest.fixture(scope="module")
def trained(shared: Shared, miniature):
    """A run on nine large pictures and one small one, with a test set of 13, 12 and 2 sizes; not to be changed."""

    def make(folder):
        data = written(folder / "data", {"large": 9, "small": 1}, first=0)
        test = written(folder / "test", {"large": 13, "small": 12, "huge": 2}, first=20)
        words = ["--pretrained_model_name_or_path", str(miniature), "--train_data_dir", str(data), "--resolution", "64"]
        words += ["--max_train_steps", "2", "--rank", "4", "--cache_dir", str(folder / "cache")]
        words += ["--num_inference_steps", "1", "--num_validation_images", "0", "--checkpointing_steps", "1"]
        words += ["--lora_layers", "attn2.to_v"]
        ended = Running([*words, "--learning_rate", "1e-2", "--output_dir", str(folder / "out")], folder / "log").wait()
        assert ended.code == 0, ended.output
        settings = folder / "out" / "run.toml"  # as if it had had a test set, which it would have drawn
        text = settings.read_text(encoding="utf-8").replace("num_validation_images = 0", "num_validation_images = 1")
        settings.write_text(f'{text}evaluation_data_dir = "{test}"\n', encoding="utf-8")

    return shared("run-fairness", make)


@pytest.fixture
def out(trained, tmp_path):
    return shutil.copytree(trained / "out", tmp_path / "out")


def test_groups_of_a_column_are_drawn_equally_often_and_told_of(out, capsys, monkeypatch):
    words = ["fairness", str(out), "--column", "size", "--neutral_prompt", "a thing", "--num_neutral", "8"]
    assert main([*words, *STARTER]) == 0
    said = capsys.readouterr()
    folder, found = out / "fairness", record.read(out / "fairness")
    assert found.adapter == hash_of(out)
    captions = {name: group.num_captions for name, group in found.groups.items()}
    assert captions == {"large": 12, "small": 12, "huge": 0}
    assert {name: group.num_given for name, group in found.groups.items()} == {"large": 13, "small": 12, "huge": 2}
    assert found.trained == {"large": 0.9, "small": 0.1, "huge": 0}
    assert "huge: left out, fewer than 12 captions." in said.err
    assert found.headline() in said.out
    measures = [one.metric for one in found.parities]
    assert measures == ["group_read", "kid", "clip_score", "clip_margin", "r_precision", "rouge_l"]
    assert found.parities[1].reference is None  # it is the reference
    assert found.parities[0].adapted.groups["small"].n == 12
    for which in ("base", "adapted"):
        rows = json.loads((folder / which / "index.json").read_text(encoding="utf-8"))
        assert sorted(row["seed"] for row in rows) == list(range(100_000, 100_024))
        assert sum(" small " in row["prompt"] for row in rows) == 12
        assert len(json.loads((folder / f"neutral-{which}" / "index.json").read_text(encoding="utf-8"))) == 8
    drawn = found.representation
    assert (drawn.n, drawn.prompts, set(drawn.target)) == (8, ("a thing",), {"large", "small", "huge"})
    assert sum(drawn.adapted.counts.values()) + drawn.adapted.num_unread == 8
    assert drawn.target["small"] == pytest.approx(1 / 3)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 8
    assert "9 (90%)" in page
    assert "size makes every group count alike" not in page  # no group is worse off

    monkeypatch.setattr(Sampler, "draw", None)  # what was drawn is not drawn again
    assert main([*words, *STARTER, "--target", "data", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["representation"]["target"] == {"large": 0.9, "small": 0.1, "huge": 0.0}
    text = documents.write_card(out).read_text(encoding="utf-8")
    assert "**Whom does it treat worse?**" in text
    assert "| small | 1 (10%) |" in text
    kept = (folder / "fairness.json").read_text(encoding="utf-8")
    (folder / "fairness.json").write_text(kept.replace('"small"', '"jane@home.org"'), encoding="utf-8")
    text = documents.write_card(out).read_text(encoding="utf-8")
    assert "| [address] | 1 (10%) |" in text.replace("\\", "")  # what is private in a group's name stays here
    assert "jane" not in text
    (folder / "fairness.json").write_text(kept.replace(found.adapter, "of another run"), encoding="utf-8")
    assert "treat worse" not in documents.write_card(out).read_text(encoding="utf-8")


def test_groups_of_a_slot_differ_in_nothing_else(out):
    words = ["fairness", str(out / "checkpoint-1"), *SLOTS, "--num_images", "6"]
    assert main([*words, *STARTER]) == 0
    folder = out / "fairness-checkpoint-1"
    found = record.read(folder)
    assert found.adapter == hash_of(out / "checkpoint-1") != hash_of(out)
    assert {name: group.num_trained for name, group in found.groups.items()} == {"small": 1, "large": 9}
    assert [one.metric for one in found.parities] == [
        "group_read", "clip_score", "clip_margin", "r_precision", "rouge_l",
    ]  # fmt: skip
    rows = json.loads((folder / "adapted" / "index.json").read_text(encoding="utf-8"))
    seeds = {size: [row["seed"] for row in rows if size in row["prompt"]] for size in ("small", "large")}
    assert seeds["small"] == seeds["large"] == list(range(12))
    assert found.parities[0].adapted.groups["small"].n == 2  # captions: six pictures of one are not independent
    assert "training" in (folder / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_measured_is_said_before_anything_is_drawn(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Sampler, "draw", None)
    many = ",".join(f"size{number}" for number in range(51))
    of_size = ["--column", "size", *STARTER]
    for words, said in (
        ([], ["by --column or by --template, one of the two"]),
        ([*SLOTS, "--column", "size"], ["by --column or by --template, one of the two"]),
        (["--column", "sizes"], ["--column sizes is no column of the run's test set", "did you mean size?"]),
        (["--column", "size", "--limit", "5"], ["--limit 5 must be at least 12"]),
        (["--column", "text"], ["are the least to compare", "  - 1 a large thing, number 20", "and 7 more"]),
        (["--column", "size", "--by", "size"], ["--by goes with --template only"]),
        (["--template", "a fox"], ["has no slot"]),
        (
            SLOTS[:4],
            ["has the slot 'thing'; say what it may be with --values thing=", "name the one that the groups are"],
        ),
        ([*SLOTS, "--values", "colour=red", "--values", "x"], ["--values colour=...", "--values x: write it as"]),
        ([*SLOTS, "--values", "size=red"], ["--values size=... is given 2 times"]),
        (["--template", "a {size}", "--values", "size=a,a"], ["--values size has a twice"]),
        ([*SLOTS[:-1], "sizes"], ["--by sizes is no slot"]),
        (SLOTS, ["each drawn 2 x 1 times; give more values or --num_images"]),
        (["--template", "a {size}", "--values", f"size={many}", "--num_images", "12"], ["has 51 groups. Past 50"]),
        ([*of_size, "--neutral_prompt", "a small or huge thing"], ["names small, huge; it must name no group"]),
        (["--column", "size", "--neutral_prompt", "a thing", "--extractor", "photographs"], ["with --captioner"]),
        ([*SLOTS, "--num_images", "6", "--extractor", "photographs"], ["how pictures follow their captions"]),
        (["--column", "size", "--num_neutral", "0", "--num_images", "0"], ["--num_neutral 0", "--num_images 0"]),
    ):
        place = tmp_path / "to"
        assert main(["fairness", str(trained / "out"), *words, "--to", str(place)]) == 2, words
        found = capsys.readouterr().err
        assert all(part in found for part in said), (words, found)
        assert not place.exists()


def test_a_row_without_a_group_is_named(trained, tmp_path, capsys):
    folder = written(tmp_path / "true", {"large": 12, "small": 12}, first=50)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    write_rows(folder, [{**rows[0], "size": " "}, *rows[1:]])
    words = ["fairness", str(trained / "out"), "--column", "size", "--reference", str(folder), *STARTER]
    assert main([*words, "--to", str(tmp_path / "to")]) == 2
    said = capsys.readouterr().err
    assert "is empty or no single value for 1 pictures" in said
    assert "50.png" in said


def test_groups_are_known_without_the_training_data(out, monkeypatch, capsys):
    """Of a template only: its captions need none."""
    monkeypatch.setattr(groups, "reopen", lambda folder: (_ for _ in ()).throw(groups.ConfigError("no longer there")))
    words = ["fairness", str(out), "--template", "{size} fox", "--values", "size=small,large", "--num_images", "12"]
    assert main([*words, *STARTER]) == 0
    found = record.read(out / "fairness")
    assert found.trained is None
    assert found.parities[0].adapted.groups["small"].n == 12  # of one caption each its pictures are what differs
    assert "the training data hold is not known: no longer there" in capsys.readouterr().err
    assert json.loads((out / "fairness" / DRAWN).read_text(encoding="utf-8"))["by"] == "size"
    assert main([*words, *STARTER, "--target", "data"]) == 2
    assert "--target data: which groups the training data hold is not known" in capsys.readouterr().err
