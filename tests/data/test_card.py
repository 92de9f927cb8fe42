"""The card of a dataset: what it must say, and what is said where it does not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from pipeline.data import card
from pipeline.data.card import Card, People
from pipeline.errors import DataError

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parent.parent.parent
FULL = {
    "license": "cc-by-4.0",
    "source": "photos by the author",
    "rights_basis": "own work",
    "people": "{identifiable: false}",
    "sensitive_content": "none",
    "intended_use": "a style for posters",
}


def written(path: Path, **fields: str | None) -> Path:
    """A card with these fields, as they are to stand in YAML; None leaves one out."""
    lines = [f"{name}: {value}" for name, value in {**FULL, **fields}.items() if value is not None]
    path.write_text("\n".join(["---", *lines, "---", "", "# Posters", ""]), encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        card.read(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_a_full_card_is_read(tmp_path):
    found = card.read(written(tmp_path / "posters.md"))
    people = People(identifiable=False)
    assert found == Card("cc-by-4.0", "photos by the author", "own work", people, "none", "a style for posters")


def test_everything_optional_is_read(tmp_path):
    path = written(
        tmp_path / "posters.md",
        license="other", license_name="my-license-1.0", license_link="https://example.org/license",
        people='{identifiable: true, consent: " signed releases "}', pretty_name='"Posters: at dusk"',
        dataset_id="jane/posters", fingerprint='"0123456789abcdef0123456789abcdef"',
        tags="[posters]", size_categories="[n<1K]",
    )  # fmt: skip
    found = card.read(path)
    assert found.people == People(identifiable=True, consent="signed releases")
    assert (found.license_name, found.license_link) == ("my-license-1.0", "https://example.org/license")
    assert (found.pretty_name, found.dataset_id) == ("Posters: at dusk", "jane/posters")
    assert found.fingerprint == "0123456789abcdef0123456789abcdef"
    assert DatasetCard.load(path).data.license == "other"


def test_everything_wrong_is_named_at_once(tmp_path):
    path = written(
        tmp_path / "posters.md",
        license="TODO", source=None, rights_basis="''", people="{identifiable: maybe}", sensitive_content="false",
        intended_use="...", dataset_id="posters", fingerprint="12345", pretty_name="<name of the dataset>",
    )  # fmt: skip
    said = refusal(path)
    assert said.splitlines() == [
        f"{path}: 9 problem(s) in the card of the dataset.",
        "  - license is still 'TODO'; say it, as in 'license: cc-by-4.0'",
        "  - source is missing; say it, as in 'source: photos by the author, taken in 2026'",
        "  - rights_basis is empty; say it, as in 'rights_basis: own work'",
        "  - sensitive_content is False, which YAML reads as bool; it is text: put it in quotes",
        "  - intended_use is still '...'; say it, as in 'intended_use: a style for illustrations'",
        "  - pretty_name is still '<name of the dataset>'; say it or leave it out",
        "  - fingerprint is 12345, which YAML reads as int; it is text: put it in quotes",
        "  - people.identifiable is 'maybe'; it is true where somebody can be recognised, else false",
        "  - dataset_id is 'posters'; give the dataset's id on the Hub, user/name, or leave it out",
    ]


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("value", [None, "", "''", "TODO", "'TODO: later'", "...", "…", "'???'", "'<say it>'", "~"])
def test_no_required_field_can_be_left_to_do(tmp_path, name, value):
    said = refusal(written(tmp_path / "posters.md", **{name: value}))
    assert said.startswith(f"{tmp_path / 'posters.md'}: 1 problem(s)")
    assert f"  - {name} is " in said


@pytest.mark.parametrize(
    "value", ["Todo el contenido es propio", "photos <https://example.org>", "1 < 2", "what I saw...", "XXL prints"]
)
def test_what_only_looks_like_a_placeholder_passes(tmp_path, value):
    assert card.read(written(tmp_path / "posters.md", source=value)).source == value


@pytest.mark.parametrize(
    ("people", "said"),
    [
        ("false", "people is False; it holds identifiable"),
        ("nobody", "people is 'nobody'; it holds identifiable"),
        ("{}", "people.identifiable is missing"),
        ("{identifiable: 'no'}", "people.identifiable is 'no'"),
        ("{identifiable: 1}", "people.identifiable is 1"),
        ("{identifiable: true}", "people.consent is missing, and somebody can be recognised"),
        ("{identifiable: true, consent: true}", "people.consent is True, which YAML reads as bool"),
        ("{identifiable: true, consent: ''}", "people.consent is empty; say it, as in"),
        ("{identifiable: true, consent: TODO}", "people.consent is still 'TODO'"),
    ],
)
def test_people(tmp_path, people, said):
    assert said in refusal(written(tmp_path / "posters.md", people=people))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"license": "cc-by-4"},
            "license is 'cc-by-4', which the Hub does not know; give its identifier, as cc-by-4.0",
        ),
        ({"license": "see the file"}, "or other with license_name and license_link"),
        ({"license": "[mit]"}, "license is ['mit'], which YAML reads as list"),
        ({"license": "other", "license_name": "mine"}, "license_link is missing; a license that is other needs it"),
        ({"license": "other", "license_link": "x"}, "license_name is missing; a license that is other needs it"),
        ({"license": None, "licence": "mit"}, "license is missing; there is 'licence', which is no field"),
        ({"dataset_id": "/home/jane/posters"}, "dataset_id is '/home/jane/posters'"),
    ],
)
def test_licenses_and_identifiers(tmp_path, fields, said):
    assert said in refusal(written(tmp_path / "posters.md", **fields))


def test_a_license_may_be_written_as_spdx_does(tmp_path):
    assert card.read(written(tmp_path / "posters.md", license="OFL-1.1")).license == "OFL-1.1"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"# Posters\n", "has no front matter"),
        (b"---\nlicense: mit\n", "has no front matter"),
        (b"---\n---\n", "holds no fields"),
        (b"---\n- mit\n---\n", "holds no fields"),
        (b"---\nlicense: mit\nsource: a: b\n---\n", "posters.md, line 3: the front matter is no YAML (mapping values"),
        (b"---\nsource: !!python/object/apply:os.system [true]\n---\n", "line 2: the front matter is no YAML"),
        (b"---\nsource: \x01\n---\n", "the front matter is no YAML"),
        (b"---\nsource: \xff\n---\n", "is not UTF-8 (byte 12)"),
    ],
)
def test_a_file_that_is_no_card(tmp_path, content, said):
    (tmp_path / "posters.md").write_bytes(content)
    assert said in refusal(tmp_path / "posters.md")


def test_a_card_that_is_not_there(tmp_path):
    assert "does not exist" in refusal(tmp_path / "posters.md")


def test_a_card_written_on_another_system_is_read(tmp_path):
    path = written(tmp_path / "posters.md")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert card.read(path).license == "cc-by-4.0"


def test_a_template_names_all_there_is_to_do_and_can_be_filled_in(tmp_path):
    path = tmp_path / "posters.md"
    path.write_text(card.template('posters: "dusk"\n', "0123"), encoding="utf-8")
    said = refusal(path)
    assert re.findall(r"- ([\w.]+) is", said) == [
        "license", "source", "rights_basis", "sensitive_content", "intended_use", "people.identifiable",
    ]  # fmt: skip
    text = re.sub(r'^(\w+): "TODO.*"$', lambda found: f"{found[1]}: {FULL[found[1]]}", path.read_text(), flags=re.M)
    path.write_text(text.replace("identifiable: TODO", "identifiable: false"), encoding="utf-8")
    found = card.read(path)
    assert (found.pretty_name, found.fingerprint) == ('posters: "dusk"', "0123")
    assert DatasetCard.load(path).data.to_dict()["task_categories"] == ["text-to-image"]


def test_a_card_is_for_the_data_it_was_written_for(tmp_path):
    path = written(tmp_path / "posters.md", fingerprint="'0abc'")
    card.require_same_data(card.read(path), path, "0abc")
    card.require_same_data(card.read(written(tmp_path / "any.md")), tmp_path / "any.md", "0abc")
    with pytest.raises(DataError, match=r"posters.md was written for other data \(fingerprint 0abc, now 0abd\)"):
        card.require_same_data(card.read(path), path, "0abd")


def test_where_a_card_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos" / "posters"
    folder.mkdir(parents=True)
    assert card.find("posters", folder) is None
    (folder / "README.md").write_text("# Only notes\n\n---\nlicense: mit\n---\n", encoding="utf-8")
    assert card.find("posters", folder) is None
    written(folder / "README.md")
    assert card.find("posters", folder) == folder / "README.md"
    Path("data_cards").mkdir()
    own = written(Path("data_cards/posters.md"))
    for name in ("posters", "jane/posters", "photos/posters/", "../photos/posters"):
        assert card.find(name, folder) == card.find(name, None) == own
    assert card.find("other", None) is None
    assert card.find("", folder) == card.find("..", folder) == folder / "README.md"


def test_the_card_of_the_starter_dataset_is_readable_once_it_says_all(tmp_path):
    """What it may lack is added here; anything that it says must be right."""
    text = (ROOT / "data_cards" / "starter.md").read_text(encoding="utf-8").replace("\npeople: false\n", "\n")
    lacking = [f"{name}: {value}\n" for name, value in FULL.items() if f"\n{name}:" not in text]
    (tmp_path / "starter.md").write_text(text.replace("---\n", f"---\n{''.join(lacking)}", 1), encoding="utf-8")
    found = card.read(tmp_path / "starter.md")
    assert (found.license, found.people.identifiable) == ("OFL-1.1", False)


def test_reading_a_card_loads_nothing_heavy():
    loaded = (
        "import sys, pipeline.data.card; print([n for n in ('torch', 'PIL', 'numpy', 'datasets') if n in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
