"""Captions that are not English: found in many languages, and none of names, tags and loan words."""

import json

import pytest

from pipeline import shipped
from pipeline.__main__ import main
from pipeline.audit.languages import SURE, identifier
from tests.audit import flaws

pytestmark = pytest.mark.unit
FOREIGN = """ein Foto von einem Hund am Strand
Porträt einer Frau mit Hut, Ölgemälde
une photo d'un chien sur une plage
deux petits renards côte à côte sur un fond orange
un barco viejo en el puerto de noche
ritratto di una donna con cappello
montanhas sob um céu nublado
een kat slaapt op de bank
zdjęcie psa na plaży
en kat sover på sofaen
plajda bir köpeğin fotoğrafı
kedi kanepede uyuyor ve rüya görüyor
ảnh chụp một con chó trên bãi biển
фотография собаки на пляже
浜辺の犬の写真
海滩上一只狗的照片""".splitlines()
ENGLISH = """a photo of a dog on a beach
a red square
1girl, solo
1girl, solo, long hair, blue eyes, smile
zxq crab
score_9, score_8_up, 1girl
bokeh, 85mm, f1.8
nikon d850
kimono, sakura, torii
pikachu
a woman in a kimono in Kyoto at night
café terrace in Paris in the style of Monet
an espresso macchiato on marble
art nouveau illustration, Alphonse Mucha
a Dia de los Muertos altar with marigolds
a dachshund named Schnitzel wearing lederhosen
a samurai with a katana, ukiyo-e print
taj mahal at dawn
sushi, sashimi and ramen
la jolla beach, california""".splitlines()


@pytest.fixture
def flags(miniature, tmp_path):
    return ["--pretrained_model_name_or_path", str(miniature), "--cache_dir", str(tmp_path / "cache")]


def captioned(folder, texts):
    """A dataset with these captions."""
    data = flaws.clean(folder, len(texts))
    flaws.write_rows(data, [{**row, "text": text} for row, text in zip(flaws.rows_of(data), texts, strict=True)])
    return data


def found_in(capsys, data, flags):
    capsys.readouterr()
    assert main(["check", str(data), *flags, "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    named = {one["kind"]: [name for case in one["cases"] for name in case["examples"]] for one in findings}
    return {kind: names for kind, names in named.items() if names}


def test_other_languages_are_found_and_english_is_not(flags, tmp_path, capsys):
    latin = FOREIGN[:13]
    found = found_in(capsys, captioned(tmp_path / "mixed", [*ENGLISH, *latin]), flags)
    assert found["language"] == [f"{number:03d}.png" for number in range(len(ENGLISH), len(ENGLISH) + len(latin))]
    assert "language" not in found_in(capsys, captioned(tmp_path / "english", ENGLISH), flags)


def test_what_is_all_in_other_letters_is_found_and_what_is_odd_there_is_named_once(flags, tmp_path, capsys):
    texts = ["старая лодка в гавани ночью", "кошка спит на диване", "фотография собаки на пляже", "a dog on a beach"]
    found = found_in(capsys, captioned(tmp_path / "russian", texts), flags)
    assert found["language"] == ["000.png", "001.png", "002.png"]
    assert found["script"] == ["003.png"]
    found = found_in(capsys, captioned(tmp_path / "one", [*ENGLISH[:3], texts[0]]), flags)
    assert found["script"] == ["003.png"]
    assert "language" not in found


def test_the_captions_of_the_starter_are_english_and_the_others_are_not():
    otherwise = identifier()
    rows = [json.loads(line) for line in (shipped.TRAIN / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows if otherwise(row["text"]) >= SURE] == []
    assert [text for text in FOREIGN if otherwise(text) < SURE] == []
