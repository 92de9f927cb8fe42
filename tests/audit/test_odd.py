"""What people have that a tidy dataset has not: odd cells, drawings on nothing, edited cards, names with signs."""

import json
import sys

import numpy as np
import pyarrow
import pytest
from PIL import Image, ImageDraw
from pyarrow import parquet

from pipeline.__main__ import main
from pipeline.audit import languages
from pipeline.commands.data_card import END
from pipeline.data.buckets import Shapes, make_buckets
from pipeline.data.captions import weighed
from pipeline.geometry import Size
from tests.audit import flaws
from tests.audit.test_check import found_by
from tests.conftest import small_flags

pytestmark = pytest.mark.unit


@pytest.fixture
def flags(miniature, tmp_path):
    return [
        "--pretrained_model_name_or_path",
        str(miniature),
        "--cache_dir",
        str(tmp_path / "cache"),
        "--resolution",
        "64",
    ]


def kinds_of(found):
    return {one["kind"]: [case["text"] for case in one["cases"]] for one in found["findings"]}


def test_cells_that_are_no_categories(flags, tmp_path, capsys):
    data = flaws.clean(tmp_path / "data", 24)
    values = ["a|b\nc", "<i>x</i>", None, "d"]
    rows = flaws.rows_of(data)
    table = {
        "image": [(data / row["file_name"]).read_bytes() for row in rows],
        "text": [row["text"] for row in rows],
        "kind": [values[number % 4] for number in range(24)],
        "half": [number / 2 for number in range(24)],
        "many": [["x"]] * 24,
        "even": [number % 2 == 0 for number in range(24)],
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "train.parquet")
    card = tmp_path / "card.md"
    code, found = found_by(capsys, "--dataset_name", tmp_path / "train.parquet", *flags, "--card", card)
    assert code == 0
    assert found["columns"]["kind"]["counts"] == {"a|b c": 6, "<i>x</i>": 6, "d": 6}
    assert set(found["columns"]) == {"kind", "even"}
    assert "| kind (evenness 1.00) | a\\|b c 6, &lt;i&gt;x&lt;/i&gt; 6, d 6 |" in card.read_text(encoding="utf-8")


def test_words_that_are_equally_frequent_stand_in_the_order_of_the_captions(flags, tmp_path, capsys):
    """Not in that of a set, which is another one in each process."""
    words = ["heron", "ibis", "egret", "stork", "crane", "bittern", "spoonbill", "avocet"]
    data = flaws.clean(tmp_path / "data", 12)
    flaws.write_rows(data, [{**row, "text": " ".join(words)} for row in flaws.rows_of(data)])
    _, found = found_by(capsys, data, *flags)
    told = [text for texts in kinds_of(found).values() for text in texts if "in 100% of the captions" in text]
    assert [text.split("'")[1] for text in told] == words


def test_drawings_on_nothing_are_looked_at_as_they_are_shown(flags, tmp_path, capsys):
    data = flaws.clean(tmp_path / "data", 8)
    rows = flaws.rows_of(data)
    for number in range(2):  # black ink, told apart by their transparency alone
        ink = Image.new("RGBA", (96, 96))
        ImageDraw.Draw(ink).ellipse((5, 5 + 40 * number, 80, 50 + 40 * number), fill=(0, 0, 0, 255))
        ink.save(data / f"ink-{number}.png")
        rows.append({**rows[number], "file_name": f"ink-{number}.png", "text": flaws.caption(70 + number)})
    Image.fromarray(np.linspace(0, 1, 96 * 96, dtype=np.float32).reshape(96, 96)).save(data / "float.tiff")
    rows.append({**rows[2], "file_name": "float.tiff", "text": flaws.caption(72)})
    flaws.write_rows(data, rows)
    _, found = found_by(capsys, data, *flags)
    assert kinds_of(found).keys() == {"transparent", "mode"}


def test_without_imagehash_it_says_that_near_copies_were_not_looked_for(flags, tmp_path, capsys, monkeypatch):
    data = flaws.clean(tmp_path / "data", 6)
    flaws.noisy(flaws.picture(0)).save(data / "001.png")
    monkeypatch.setitem(sys.modules, "imagehash", None)
    code, found = found_by(capsys, data, *flags)
    assert (code, list(kinds_of(found))) == (0, ["remarks"])
    assert "near copies were not looked for" in kinds_of(found)["remarks"][0]
    monkeypatch.delitem(sys.modules, "imagehash")
    assert "near" in kinds_of(found_by(capsys, data, *flags)[1])


def test_without_py3langid_it_says_that_languages_were_not_looked_at(flags, tmp_path, capsys, monkeypatch):
    data = flaws.clean(tmp_path / "data", 6)
    monkeypatch.setitem(sys.modules, "py3langid", None)
    monkeypatch.setattr(languages, "identifier", languages.identifier.__wrapped__)  # nothing was read before
    code, found = found_by(capsys, data, *flags)
    assert (code, list(kinds_of(found))) == (0, ["remarks"])
    assert "languages were not looked at" in kinds_of(found)["remarks"][0]


def test_what_is_transparent_all_over_is_an_error_with_masked_loss_alone(flags, tmp_path, capsys):
    data = flaws.clean(tmp_path / "data", 6)
    Image.new("RGBA", (96, 96)).save(data / "000.png")
    assert "hidden" not in kinds_of(found_by(capsys, data, *flags)[1])
    code, found = found_by(capsys, data, *flags, "--masked_loss")
    assert (code, kinds_of(found)["hidden"]) == (2, ["000.png"])
    words = ["check", str(data), *flags, "--masked_loss", "--preview_dataset", str(tmp_path / "preview")]
    assert main(words) == 2
    assert "000.png: nothing of it would be learnt" in capsys.readouterr().err
    assert not (tmp_path / "preview").exists()


def test_pictures_without_a_caption_that_are_skipped_are_not_counted(flags, tmp_path, capsys):
    data = flaws.clean(tmp_path / "data", 10)
    rows = flaws.rows_of(data)
    rows[3]["text"] = ""
    flaws.write_rows(data, rows)
    code, found = found_by(capsys, data, *flags, "--missing_caption", "skip")
    assert (code, found["numbers"]["examples"], kinds_of(found)["no-caption"]) == (0, 9, ["003.png"])
    flaws.write_rows(data, [{**row, "text": ""} for row in rows])
    code, found = found_by(capsys, data, *flags)
    assert (code, list(kinds_of(found))) == (2, ["no-caption"])


def test_what_training_refuses_check_refuses(miniature_of, flags, tmp_path, capsys):
    data = flaws.clean(tmp_path / "data", 4)
    code, found = found_by(capsys, data, *flags, "--validation_split", "0.5")
    assert code == 2
    assert "leaves none to train on" in kinds_of(found)["layout"][0]
    sd3 = ["--pretrained_model_name_or_path", str(miniature_of("sd3")), "--resolution"]
    for side, said in (("72", "multiple of 16"), ("1024", "takes sides of up to"), ("64000", "is more than 32768")):
        assert main(["check", str(data), *sd3, side]) == 2
        assert said in capsys.readouterr().err
    assert main(["check", str(data), *flags, "--page", str(tmp_path)]) == 2
    assert "is a folder; give the name of a file" in capsys.readouterr().err


def test_a_card_that_lost_a_line_is_not_cut(flags, tmp_path, capsys):
    data, card = flaws.clean(tmp_path / "data", 6), tmp_path / "card.md"
    words = ["check", str(data), *flags, "--card", str(card)]
    assert main(words) == 0
    text = card.read_text(encoding="utf-8").replace(END, "") + "\n## My own words\n"
    card.write_text(text, encoding="utf-8")
    capsys.readouterr()
    assert main(words) == 2
    assert "lacks the line" in capsys.readouterr().err
    assert card.read_text(encoding="utf-8") == text
    card.write_bytes("é".encode("latin-1"))
    assert main(words) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_a_broken_dataset_leaves_the_fingerprint_open(flags, tmp_path):
    data, card = flaws.clean(tmp_path / "data", 6), tmp_path / "card.md"
    (data / "000.png").write_bytes(b"x")
    assert main(["check", str(data), *flags, "--card", str(card)]) == 2
    assert "\nfingerprint: null\n" in card.read_text(encoding="utf-8")
    flaws.picture(0).save(data / "000.png")
    assert main(["check", str(data), *flags, "--card", str(card)]) == 0
    assert "fingerprint: null" not in card.read_text(encoding="utf-8")


def test_names_with_signs_and_long_captions(flags, tmp_path, capsys):
    data = flaws.clean(tmp_path / "data", 8)
    rows = flaws.rows_of(data)
    for name, number in (("a = b.png", 0), ("bad: x.png", 1)):
        (data / name).write_bytes((data / "000.png").read_bytes() if number == 0 else b"x")
        rows.append({**rows[0], "file_name": name})
    rows[4]["text"] = rows[5]["text"] = rows[6]["text"] = rows[7]["text"] = "слово " * 700
    flaws.write_rows(data, rows)
    _, found = found_by(capsys, data, *flags)
    cases = {one["kind"]: one["cases"] for one in found["findings"]}
    assert cases["same"][0]["examples"] == ["000.png", "a = b.png"]
    assert "unread" not in cases
    assert len(cases["unreadable"]) == 1
    assert max(len(case["text"]) for some in cases.values() for case in some) < 120
    assert json.dumps(found)


def test_a_picture_is_once_in_a_bucket_though_two_resolutions_meet_there():
    shapes = [Shapes(side, 32, 2.5, enlarges=False) for side in (512, 640)]
    found = make_buckets([(Size(1500, 1500), shapes)] * 3, 4)
    for bucket in found:
        assert len({entry.index for entry in bucket.entries}) == len(bucket.entries)


def test_a_caption_that_is_never_shown_is_none():
    assert weighed(["never", "always"], [0.0, 1.0]) == (("always",), (1.0,))


def test_blank_lines_are_no_captions(miniature, tmp_path, trainer):
    data = tmp_path / "data"
    data.mkdir()
    for number in range(4):
        flaws.picture(number).save(data / f"{number}.png")
        (data / f"{number}.txt").write_text(f"one {number}\n\nother {number}\n", encoding="utf-8")
    words = small_flags(miniature, data, tmp_path / "cache")
    given = ["--caption_lines", "separate", "--caption_weights", "3,1", "--dry_run", "--output_dir", tmp_path / "out"]
    assert trainer(*words, *given).code == 0
