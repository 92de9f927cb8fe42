"""A base, a dataset and a finished run that cards are written of."""

import json
from pathlib import Path

from huggingface_hub import ModelCard

from pipeline.data.card import Card, People
from pipeline.sharing import card

ODD = 'a "blue": square\n---\n🦊 | `x` [y](z) <b> $$ *#1* \\'
PRIVATE = "a red square from /home/jane/pictures"
BASE = card.BaseModel(
    hub_id="user/miniature",
    name="miniature",
    pipeline_class="StableDiffusionPipeline",
    license="creativeml-openrail-m",
    license_name=None,
    license_link=None,
    template_tag="template:sd-lora",
    guidance_scale=7.5,
)
DATA = Card(
    license="cc-by-4.0",
    source="photos by the author",
    rights_basis="own work",
    people=People(identifiable=True, consent="signed releases"),
    sensitive_content="none",
    intended_use="a style for posters",
    pretty_name="Squares",
    dataset_id="user/squares",
)


def text_of(
    out: Path, base: card.BaseModel = BASE, data: Card | None = DATA, reason: str | None = None, **given
) -> str:
    assert card.write(out, base, data, reason, **given) == out / "README.md"
    return (out / "README.md").read_text(encoding="utf-8")


def front_of(out: Path) -> dict:
    return ModelCard.load(out / "README.md").data.to_dict()


def changed(path: Path, **values: object) -> None:
    """Change some entries of a JSON file; None takes one out."""
    found = {**(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}), **values}
    kept = {name: value for name, value in found.items() if name not in values or value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def replaced(base: card.BaseModel, **values: object) -> card.BaseModel:
    return card.BaseModel(**{**vars(base), **values})
