"""`check`, as typed: every planted flaw is found and named, none is invented, and the page shows the pictures."""

import json
import re

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers import CLIPTokenizer

from pipeline import remembered
from pipeline.__main__ import main
from pipeline.audit.findings import KINDS
from pipeline.audit.texts import Tokens
from pipeline.data.pixels import to_picture
from pipeline.families.sd import StableDiffusion
from pipeline.run.build import build_examples
from pipeline.run.encode import encode
from tests.audit import flaws
from tests.conftest import prepared

pytestmark = pytest.mark.unit
CARD = {
    "license": "cc-by-4.0",
    "source": "drawn by a test",
    "rights_basis": "own work",
    "sensitive_content": "none",
    "intended_use": "tests",
}


@pytest.fixture
def flags(miniature, tmp_path):
    """For pictures of 128 pixels, in steps of four."""
    return [
        "--pretrained_model_name_or_path", str(miniature), "--cache_dir", str(tmp_path / "cache"),
        "--resolution", "128", "--train_batch_size", "4", "--max_image_megapixels", "1",
    ]  # fmt: skip


def found_by(capsys, *words):
    capsys.readouterr()
    code = main(["check", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_it_refuses_what_training_refuses(flags, tmp_path, capsys):
    data = flaws.clean(tmp_path / "data")
    rows = flaws.rows_of(data)
    rows[0]["text"] += (
        " beside a mill, a barn, a well, a pond, a fence and a very long road to the town beyond the hills"
    )
    rows[1]["text"] += " (at night:1.3)"
    flaws.write_rows(data, rows)
    for more, wanted in (
        ([], {"cut": "warning", "weighted": "error"}),
        (["--prompt_weights", "keep"], {"cut": "warning", "weighted": "warning"}),
        (["--long_prompts", "error", "--prompt_weights", "strip"], {"cut": "error"}),
        (["--long_prompts", "chunks", "--prompt_weights", "strip"], {}),
    ):
        code, found = found_by(capsys, data, *flags, *more)
        weights = {one["kind"]: one["weight"] for one in found["findings"]}
        assert {kind: weights[kind] for kind in ("cut", "weighted") if kind in weights} == wanted
        assert (code == 2) == ("error" in wanted.values())


def test_a_clean_dataset_has_no_finding(flags, tmp_path, capsys):
    data = flaws.clean(tmp_path / "data")
    code, found = found_by(capsys, data, *flags)
    assert (code, found["findings"]) == (0, [])
    assert found["numbers"] == {
        "pictures": 40, "examples": 40, "to train on": 36, "held out": 4, "captions": 40, "different captions": 40,
        "words in the median caption": found["numbers"]["words in the median caption"],
    }  # fmt: skip
    assert found["sizes"] == {"128 x 128": 36}
    assert found["columns"]["season"] == {"counts": {"summer": 20, "winter": 20}, "evenness": 1.0}
    assert main(["check", str(data), *flags]) == 0
    assert "Nothing was found that should be looked at." in capsys.readouterr().out


def test_the_tokens_of_captions_are_those_of_the_models_tokenizer(flags, miniature, tmp_path, capsys):
    data, page = flaws.clean(tmp_path / "data"), tmp_path / "page.html"
    _, found = found_by(capsys, data, *flags, "--page", page)
    captions = [json.loads(line)["text"] for line in (data / "metadata.jsonl").read_text().splitlines()]
    tokenizer = CLIPTokenizer.from_pretrained(miniature / "tokenizer")
    wanted = sorted(len(tokenizer(caption).input_ids) - 2 for caption in captions)
    assert found["tokens"] == {"counts": wanted, "limit": tokenizer.model_max_length - 2}
    assert "How long captions are" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("counts", "limit", "bars"),
    [
        ((1, 8, 9, 75, 76, 300), 75, {"1 to 8": 2, "9 to 16": 1, "73 to 80": 1, "more than 75": 2}),
        ((3,), 512, {"1 to 52": 1}),
        ((0, 2, 9), 9, {"1 to 1": 1, "2 to 2": 1, "9 to 9": 1}),
    ],
)
def test_a_histogram_holds_every_caption_once(counts, limit, bars):
    found = Tokens(counts, limit).bars
    assert {name: number for name, number in found.items() if number} == bars
    assert sum(found.values()) == len(counts)


def test_the_page_shows_how_uneven_the_groups_of_balance_are(flags, tmp_path):
    data, page = flaws.clean(tmp_path / "data"), tmp_path / "page.html"
    lines = (data / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{**json.loads(line), "rare": f"group {max(0, number - 25)}"} for number, line in enumerate(lines)]
    flaws.write_rows(data, rows)
    words = ["check", str(data), *flags, "--validation_split", "0", "--page", str(page)]
    assert main([*words, "--balance", "season"]) == 0
    text = page.read_text(encoding="utf-8")
    assert "The loss would be weighed by season: its 2 groups are equally large" in text
    assert "20 (50%), each counts 1<" in text
    assert "fairness OUT --column season" in text
    assert main([*words, "--balance", "rare"]) == 0
    text = page.read_text(encoding="utf-8")
    assert "26 (65%), each counts 0.1" in text
    assert "<th>3 more</th><td>3 (8%)</td>" in text
    assert main(words) == 0
    assert "count alike" not in page.read_text(encoding="utf-8")


def test_every_planted_flaw_is_found_and_named_and_the_page_shows_it(flags, tmp_path, capsys):
    data, page = flaws.clean(tmp_path / "data"), tmp_path / "page.html"
    (tmp_path / "elsewhere").mkdir()
    planted = flaws.plant(data, tmp_path / "elsewhere")
    code, found = found_by(capsys, data, *flags, "--page", page)
    assert code == 2
    cases = {finding["kind"]: finding["cases"] for finding in found["findings"]}
    missed = [
        flaw for flaw, (kind, text) in planted.items() if not any(text in case["text"] for case in cases.get(kind, []))
    ]
    assert missed == []
    assert len(planted) >= 35
    assert [finding["weight"] for finding in found["findings"]] == sorted(
        (finding["weight"] for finding in found["findings"]), key=["error", "warning", "note"].index
    )
    clean = {f"{number:03d}.png" for number in range(4, 40)}  # nothing is said of what was not planted
    said = {name for kind, some in cases.items() for case in some for name in case["examples"] if kind not in ("leak",)}
    assert said & clean == set()
    text = page.read_text(encoding="utf-8")
    assert "Training refuses this dataset for" in text
    assert text.count("data:image/jpeg;base64,") > 30
    assert "http" not in text.replace("https://example.org/a.png", "")  # nothing is loaded from elsewhere
    assert all(f'id="{kind}"' in text for kind in cases)


def test_what_training_is_told_to_leave_out_is_no_error(flags, tmp_path, capsys):
    data = flaws.clean(tmp_path / "data")
    (data / "003.png").write_bytes(b"x")
    rows = flaws.rows_of(data)
    rows[5]["text"] = ""
    flaws.write_rows(data, rows)
    code, found = found_by(capsys, data, *flags)
    assert (code, [one["kind"] for one in found["findings"]]) == (2, ["no-caption", "unreadable"])
    flaws.picture(50).save(data / "new.png")
    assert "new.png: has no row in metadata.jsonl" in str(found_by(capsys, data, *flags)[1]["findings"])
    (data / "new.png").unlink()
    with (data / "metadata.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"file_name": "cut off\n')
    assert found_by(capsys, data, *flags)[1]["findings"][0]["cases"][0]["text"].startswith(
        "metadata.jsonl, line 41: not"
    )
    flaws.write_rows(data, rows)
    lenient = ["--on_bad_image", "skip", "--missing_caption", "empty"]
    code, found = found_by(capsys, data, *flags, *lenient)
    assert (code, {one["weight"] for one in found["findings"]}) == (0, {"warning"})


def test_near_copies_stay_together_mirrored_ones_leak_and_flips_make_left_wrong(flags, tmp_path, capsys):
    data = flaws.clean(tmp_path / "data")
    rows = flaws.rows_of(data)
    for number in range(10):  # some of them are held out, some of their copies are not
        for name, again in (
            ("again", flaws.picture(number)),
            ("mirrored", ImageOps.mirror(flaws.picture(10 + number))),
        ):
            flaws.noisy(again).save(data / f"{name}-{number}.png")
            text = flaws.caption(200 + len(rows))
            rows.append({**rows[number], "file_name": f"{name}-{number}.png", "text": text})
    rows[20]["text"] += " on the left"
    flaws.write_rows(data, rows)
    _, found = found_by(capsys, data, *flags, "--validation_split", "0.3", "--random_flip")
    cases = {one["kind"]: one["cases"] for one in found["findings"]}
    assert cases.keys() == {"near", "mirrored", "leak", "sides"}
    assert sorted(case["text"] for case in cases["near"]) == [f"00{n}.png ~ again-{n}.png" for n in range(10)]
    assert 1 <= len(cases["leak"]) < 10
    assert all("mirrored-" in case["text"] for case in cases["leak"])
    assert cases["sides"][0]["examples"] == ["020.png"]


def test_pictures_that_differ_in_their_colours_alone_are_not_near(flags, tmp_path, capsys):
    data = flaws.clean(tmp_path / "data", 12)
    rows = flaws.rows_of(data)
    grey = flaws.picture(50).convert("L")
    for number, colour in enumerate(["red", "green"]):
        name = f"tinted-{number}.png"
        ImageOps.colorize(grey, "black", colour).save(data / name)
        rows.append({**rows[number], "file_name": name, "text": flaws.caption(60 + number)})
    flaws.write_rows(data, rows)
    _, found = found_by(capsys, data, *flags)
    assert [one["kind"] for one in found["findings"] if one["kind"] == "near"] == []


def test_values_that_always_come_together(flags, tmp_path, capsys):
    data = flaws.clean(tmp_path / "data")
    rows = [{**row, "light": {"summer": "sun", "winter": "lamp"}[row["season"]]} for row in flaws.rows_of(data)]
    flaws.write_rows(data, rows)
    _, found = found_by(capsys, data, *flags)
    assert [one["kind"] for one in found["findings"]] == ["together"]
    texts = [case["text"] for case in found["findings"][0]["cases"]]
    assert "season 'summer' comes with light 'sun' in 20 of 20 rows" in texts
    assert len(texts) == 4


def test_a_second_look_opens_no_picture_again(flags, tmp_path, capsys, monkeypatch):
    from pipeline.audit import survey

    data = flaws.clean(tmp_path / "data", 12)
    monkeypatch.setattr(remembered, "FRESH_NS", 0)  # or a file may change unseen for two seconds
    first = found_by(capsys, data, *flags)
    monkeypatch.setattr(survey, "facts_of", pytest.fail)
    assert found_by(capsys, data, *flags) == first


def test_the_preview_is_what_the_encoder_is_given(flags, tmp_path, capsys, monkeypatch):
    data, preview = flaws.clean(tmp_path / "data", 10), tmp_path / "preview"
    flaws.picture(60, (200, 100)).save(data / "000.png")
    words = [*flags, "--random_flip", "--caption_dropout", "0.4"]
    assert main(["check", str(data), *words, "--preview_dataset", str(preview)]) == 0
    rows = flaws.rows_of(preview)
    context = prepared([*words, "--train_data_dir", str(data)], tmp_path / "out")
    given, encode_image = set(), StableDiffusion.encode_image

    def watched(self, pipe, rows):
        given.update(np.asarray(to_picture(row)).tobytes() for row in rows)
        return encode_image(self, pipe, rows)

    monkeypatch.setattr(StableDiffusion, "encode_image", watched)
    encode(context)
    sampler, examples = context.plan.sampler, context.data.manifest.examples
    made = build_examples(context)
    places = [place for step in range(sampler.num_steps(1)) for place in sampler.step(step)]
    assert len(rows) == len(places) >= 10
    for row, place in zip(rows, places, strict=True):
        assert row["of"] == examples[place.index].name
        assert row["text"] == (made[place]["caption"] or "")
        with Image.open(preview / row["file_name"]) as opened:
            assert str(place.size) == row["size"] == f"{opened.width} x {opened.height}"
            assert np.asarray(opened).tobytes() in given
    assert {row["of"] for row in rows} == {f"{number:03d}.png" for number in range(10)}
    assert {row["flipped"] for row in rows} == {True, False}
    assert "" in {row["text"] for row in rows}
    assert main(["check", str(data), *words, "--preview_dataset", str(preview)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_mistakes_and_nothing_at_all(flags, tmp_path, capsys):
    assert main(["check", str(tmp_path / "nowhere"), *flags]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["check", str(tmp_path), *flags, "--resolutoin", "64"]) == 2
    assert "Did you mean --resolution?" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    code, found = found_by(capsys, tmp_path / "empty", *flags)
    assert (code, found["numbers"]) == (2, {"pictures": 0})
    assert "holds no usable image" in found["findings"][0]["cases"][0]["text"]


def test_every_kind_says_what_to_do():
    assert len(KINDS) >= 30
    for kind in KINDS.values():
        assert kind.title[0].isupper()
        assert kind.advice.endswith((".", "?"))


@pytest.mark.parametrize("few", [1000, 100])
def test_hashes_that_differ_in_few_bits_are_found_and_no_others(few, monkeypatch):
    from pipeline.data import near
    from pipeline.data.near import MOST_BITS, matches

    monkeypatch.setattr(near, "FEW", few)  # 460 are few, or many
    chance = np.random.default_rng(0)
    hashes = [int(value) for value in chance.integers(0, 2**63, 400)]
    hashes += [value ^ sum(1 << int(bit) for bit in chance.choice(64, 4, replace=False)) for value in hashes[:50]]
    hashes += [value ^ sum(1 << int(bit) for bit in chance.choice(64, 5, replace=False)) for value in hashes[50:60]]
    given = np.array(hashes, dtype=np.uint64)

    def found_in(other):
        parts = matches(given, other, lambda first, second: first != second)
        pairs = [pair for part in parts for pair in zip(*(places.tolist() for places in part), strict=True)]
        return set(pairs), {tuple(sorted(pair)) for pair in pairs}

    every = {
        (first, second)
        for first in range(len(hashes))
        for second in range(first + 1, len(hashes))
        if (hashes[first] ^ hashes[second]).bit_count() <= MOST_BITS
    }
    (once, found), (both_ways, again) = found_in(given), found_in(given.copy())
    assert found == again == every
    assert len(once) == len(both_ways) / 2 == 50


def test_a_card_gets_what_was_counted_and_keeps_what_people_wrote(flags, tmp_path, capsys, trainer):
    data, card = flaws.clean(tmp_path / "data"), tmp_path / "photos.md"
    words = ["check", str(data), *flags, "--card", str(card)]
    assert main(words) == 0
    assert "license is still" in capsys.readouterr().err
    text = card.read_text(encoding="utf-8")
    assert "| pictures | 40 |" in text
    assert "| season (evenness 1.00) | summer 20, winter 20 |" in text
    required = [*flags, "--train_data_dir", data, "--require_data_card", "--data_card", card, "--dry_run"]
    assert trainer(*required).code == 2
    for name, value in CARD.items():
        text = re.sub(rf"^{name}:.*$", f"{name}: {value}", text, flags=re.M)
    text = text.replace("  identifiable: TODO", "  identifiable: false").replace("What the pictures show", "Old boats")
    card.write_text(text + "\nWritten by hand.\n", encoding="utf-8")
    assert main(words) == 0
    assert "photos.md is complete." in capsys.readouterr().err
    assert trainer(*required).code == 0
    (data / "000.png").write_bytes((data / "001.png").read_bytes())
    assert main(words) == 0
    assert "was written for other data" in capsys.readouterr().err
    again = card.read_text(encoding="utf-8")
    assert "| pictures | 39 |" in again
    assert "| warning: The same picture with several captions" in again
    assert again.count("| pictures |") == 1
    assert "Old boats" in again
    assert again.endswith("\nWritten by hand.\n")


def test_training_without_a_card_is_refused_where_one_is_required(flags, tmp_path, trainer):
    data = flaws.clean(tmp_path / "data", 8)
    ended = trainer(*flags, "--train_data_dir", data, "--require_data_card", "--output_dir", tmp_path / "out")
    assert ended.code == 2
    assert "--require_data_card needs a card of the dataset: write data_cards/data.md" in ended.output
    assert not (tmp_path / "out").exists()
