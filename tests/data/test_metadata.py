"""Metadata files as spreadsheets, other programs and other systems write them."""

import json
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.errors import DataError
from pipeline.notes import grouped

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path):
    """Three images in a sub-folder."""
    (tmp_path / "data" / "sub").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8), (number * 60, 0, 0)).save(tmp_path / "data" / "sub" / f"{number}.png")
    return tmp_path / "data"


def captions(folder, **options):
    return {example.name: example.caption for example in read_manifest(folder, DataOptions(**options)).examples}


def refusal(folder, **options):
    with pytest.raises(DataError) as error:
        read_manifest(folder, DataOptions(**options))
    return str(error.value)


EXPECTED = {f"sub/{number}.png": f"caption {number}" for number in range(3)}


def write(folder, form):
    rows = [{"file_name": form.format(number), "text": f"caption {number}"} for number in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.mark.parametrize("form", ["./sub/{}.png", "sub\\{}.png", ".\\sub\\{}.png", "sub//x/../{}.png", " sub/{}.png"])
def test_a_path_may_be_written_in_several_ways(folder, form):
    write(folder, form)
    assert captions(folder) == EXPECTED


def test_paths_that_lead_into_the_folder_are_fine(folder, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for form in (f"{folder}/sub/{{}}.png", f"{tmp_path}/link/sub/{{}}.png", "../data/sub/{}.png", "data/sub/{}.png"):
        write(folder, form)
        assert captions(folder) == EXPECTED


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("/photos/{}.png", "lies outside"),
        ("../{}.png", "lies outside"),
        ("C:\\photos\\{}.png", "lies outside"),
        ("https://example.org/{}.png", "is an address"),
        ("{}.png", "1.png has a row but there is no such file"),
        ("sub/{}", "sub/1 has a row but there is no such file; write sub/1.png"),
        ("sub/{}.PNG", "sub/1.PNG has a row but there is no such file; write sub/1.png"),
    ],
)
def test_a_path_that_leads_elsewhere_is_named(folder, form, said):
    write(folder, form)
    assert said in refusal(folder)


def test_a_row_given_twice_under_two_spellings_is_named(folder):
    (folder / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": name, "text": "x"}) for name in ("sub/0.png", "./sub/0.png")), "utf-8"
    )
    assert "sub/0.png already has a row" in refusal(folder)


def test_composed_and_decomposed_letters_are_the_same_name(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / unicodedata.normalize("NFD", "café.png"))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "café.png", "text": "x"}', encoding="utf-8")
    assert list(captions(tmp_path).values()) == ["x"]


def test_a_metadata_file_describes_its_own_folder(folder):
    rows = [{"file_name": f"{number}.png", "text": f"caption {number}"} for number in range(3)]
    (folder / "sub" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    Image.new("RGB", (8, 8), "teal").save(folder / "top.png")
    (folder / "top.txt").write_text("the top", encoding="utf-8")
    assert captions(folder) == {**EXPECTED, "top.png": "the top"}
    (folder / "metadata.csv").write_text(
        "file_name,text\ntop.png,from the top\n" + "".join(f"sub/{n}.png,caption {n}\n" for n in range(3)), "utf-8"
    )
    assert captions(folder) == {**EXPECTED, "top.png": "from the top"}
    found = grouped(read_manifest(folder, DataOptions()).notes)
    assert "left out: metadata.csv at the top lists the images: sub/metadata.jsonl" in found
    assert any("top.txt" in line for line in found)


ROWS = ["sub/0.png,caption 0", "sub/1.png,caption 1", "sub/2.png,caption 2"]


@pytest.mark.parametrize(
    "text",
    [
        "file_name, text\n" + "\n".join(ROWS).replace(",", " , "),
        'file_name, text\nsub/0.png, "caption 0"\n' + "\n".join(ROWS[1:]),
        "\n,\nfile_name,text\n" + "\n".join(ROWS) + "\n,\n , \n\n",
        "file_name,text,,\n" + ",,\n".join(ROWS) + ",,\n",
        "\n".join(["file_name,text", *ROWS]).replace(",", ";"),
        "\n".join(["file_name,text", *ROWS]).replace(",", "\t"),
        "sep=;\n" + "\n".join(["file_name,text", *ROWS]).replace(",", ";"),
        "\ufefffile_name,text\r\n" + "\r\n".join(ROWS),
        '"file_name";"text"\n' + "\n".join(ROWS).replace(",", ";"),
    ],
    ids=["spaces", "quotes after a space", "empty rows", "empty columns", "semicolons", "tabs", "sep", "bom", "quoted"],
)
def test_a_table_as_spreadsheets_write_it(folder, text):
    (folder / "metadata.csv").write_text(text, encoding="utf-8")
    assert captions(folder) == EXPECTED


def test_a_separator_inside_a_text_wants_quotes(folder):
    (folder / "metadata.csv").write_text("file_name,text\n" + "\n".join(f"{row}, solo" for row in ROWS), "utf-8")
    said = refusal(folder)
    assert "metadata.csv, line 3: not as many cells as the first line (file_name, text)" in said
    assert "put a text that holds ',' in quotes" in said
    assert "3 problem(s)" in said
    (folder / "metadata.csv").write_text("file_name,text\n" + ROWS[0] + '\nsub/1.png,"never closed\n', "utf-8")
    assert "not CSV" in refusal(folder)


def test_a_table_without_names_of_columns_is_one_problem(folder):
    (folder / "metadata.csv").write_text("\n".join(ROWS), encoding="utf-8")
    said = refusal(folder)
    assert "line 1: no 'file_name' among the names of the columns (there is sub/0.png, caption 0)" in said
    assert "1 problem(s)" in said


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf_16_is_named(folder, encoding):
    (folder / "metadata.csv").write_text("file_name,text\n" + "\n".join(ROWS), encoding=encoding)
    assert "looks like UTF-16" in refusal(folder)


def test_a_row_without_a_name_is_named(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": null, "text": "x"}', encoding="utf-8")
    assert "line 1: 'file_name' is empty" in refusal(folder)


def test_folders_named_for_repeats_beside_a_metadata_file_are_noted(tmp_path):
    (tmp_path / "10_cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "10_cat" / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\n10_cat/a.png,a cat", encoding="utf-8")
    found = read_manifest(tmp_path, DataOptions())
    assert len(found.examples) == 1
    assert grouped(found.notes) == ("no repeats are read from names like N_words beside a metadata file: 10_cat/",)


def test_one_json_list_is_named_once(folder):
    (folder / "metadata.jsonl").write_text(json.dumps([{"file_name": "sub/0.png"}], indent=2), encoding="utf-8")
    assert "metadata.jsonl is one list; write one object a line" in refusal(folder)
    assert "1 problem(s)" in refusal(folder)


def test_half_a_character_in_a_caption_is_named(folder):
    write(folder, "sub/{}.png")
    text = (folder / "metadata.jsonl").read_text(encoding="utf-8").replace("caption 1", "smile \\ud83d")
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    assert "line 2, sub/1.png: the caption holds half a character" in refusal(folder)


def test_a_table_in_parquet_is_read_like_the_others(folder):
    rows = [{"file_name": f"sub/{number}.png", "text": f"caption {number}"} for number in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    assert captions(folder) == EXPECTED
    rows[1] |= {"file_name": "sub/9.png"}
    several = [{**row, "text": [f"{row['text']}", "another"]} for row in rows]
    pq.write_table(pa.Table.from_pylist(several), folder / "metadata.parquet")
    said = refusal(folder)
    assert "metadata.parquet: sub/9.png has a row but there is no such file" in said
    assert "sub/1.png: has no row in metadata.parquet" in said
    (folder / "sub" / "1.png").rename(folder / "sub" / "9.png")
    assert {example.captions for example in read_manifest(folder, DataOptions()).examples} == {
        (f"caption {number}", "another") for number in range(3)
    }


def test_a_table_in_parquet_that_is_none_or_lacks_a_column(folder):
    path = folder / "metadata.parquet"
    path.write_bytes(b"PAR1 and no more")
    assert "metadata.parquet cannot be read as parquet" in refusal(folder)
    pq.write_table(pa.table({"image": [b"bytes"], "text": ["a"]}), path)
    assert "metadata.parquet: no column 'file_name' (there is image, text); see --image_column" in refusal(folder)
    pq.write_table(pa.table({"file_name": ["sub/0.png", None, "sub/2.png"], "text": ["a", "b", "c"]}), path)
    assert "metadata.parquet, row 2: 'file_name' is empty" in refusal(folder)
    write(folder, "sub/{}.png")
    assert "there are metadata.jsonl and metadata.parquet; keep one" in refusal(folder)


def test_a_comma_after_an_object_is_named(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"},\n', encoding="utf-8")
    assert "line 1: not JSON (Extra data); one object a line, with no comma" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,text,text\na.png,good,bad\n"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "good", "text": "bad"}\n'),
    ],
)
def test_two_columns_of_one_name_are_not_taken_for_one(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=f"{name}, line 1: text stands there twice"):
        read_manifest(folder, DataOptions())
