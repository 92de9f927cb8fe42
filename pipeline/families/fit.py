"""Whether the parts of a model fit each other, from their configurations and tokenizers, before any weight is read."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import CheckpointError, listed
from pipeline.families import weights
from pipeline.families.base import Family

UNLIMITED = 10**9  # where a tokenizer says nothing, transformers puts a larger number
PROBES = ("a red cat", "two blue dogs on a hill")  # that any tokenizer tells apart
VOCABULARY = ("tokenizer.json", "vocab.json", "*.model")  # of which a tokenizer's folder holds one


def require_fitting(
    family: Family, captions: Sequence[str], *, with_weights: bool = True, cache: Path | None = None
) -> None:
    """Raise CheckpointError that names every part that does not fit another; `captions` are those of the dataset.

    Without weights: they are not here yet. In the cache is kept which weights were found to be as they should.
    """
    source = family.source
    absent = [name for name in family.encoders if not source.has(name)]
    if absent:
        raise CheckpointError(
            f"{source.folder}: a {source.pipeline_class} needs {', '.join(absent)}, and model_index.json does not name "
            "that; is its _class_name right?"
        )
    names = [name for name in family.encoders if name.startswith("tokenizer")]
    missing = [f"{name}: {text}" for name in names if (text := _missing_files(family.source.folder / name))]
    problems = _of_other_widths(family) + missing
    if with_weights and source.file is None:
        problems += weights.problems_of(source, (family.denoiser, "vae", *source.text_encoders), cache)
    if not missing:
        problems += [problem for name in names for problem in _of_tokenizer(family, name, captions)]
    if problems:
        raise CheckpointError(f"The parts of {source.folder} do not fit each other:\n{listed(problems)}")


def _of_other_widths(family: Family) -> list[str]:
    """Text encoders that are not as wide as the denoiser takes them."""
    problems = []
    for key, encoders in family.text_widths.items():
        taken = family.part_config(family.denoiser).get(key)
        widths = [_width(family, encoder) for encoder in encoders]
        if isinstance(taken, int) and None not in widths and sum(filter(None, widths)) != taken:
            given = " + ".join(f"{encoder} {width}" for encoder, width in zip(encoders, widths, strict=True))
            problems.append(f"{family.denoiser}: its {key} is {taken}, and the text encoders give {given}")
    return problems


def _width(family: Family, place: str) -> int | None:
    """The width of 'text_encoder', or another value of its configuration, as in 'text_encoder.projection_dim'."""
    part, _, key = place.partition(".")
    if not family.source.has(part):
        return None
    config = family.part_config(part)
    found: int | None = config.get(key) if key else config.get("hidden_size", config.get("d_model"))
    return found


def _of_tokenizer(family: Family, name: str, captions: Sequence[str]) -> list[str]:
    tokenizer = getattr(family.tokenizers, name)
    encoder = name.replace("tokenizer", "text_encoder")
    config = family.part_config(encoder) if family.source.has(encoder) else {}
    room, positions = config.get("vocab_size"), config.get("max_position_embeddings", 0)
    if config.get("model_type") == "clip_text_model" and tokenizer.model_max_length > positions:
        limit = tokenizer.model_max_length if tokenizer.model_max_length < UNLIMITED else "not given"
        return [
            f"{name}: model_max_length in tokenizer_config.json is {limit}, and {encoder} reads {positions} tokens; "
            f"write {positions}"
        ]
    if room is not None and len(tokenizer) > room:
        return [f"{name}: it has {len(tokenizer)} tokens, and {encoder} has embeddings for {room}"]
    distinct = list(dict.fromkeys(text for text in captions if text))[:100]
    if distinct and all(_is_unknown(tokenizer, text) for text in distinct):
        return [f"{name}: it knows no word of any caption, such as {distinct[0]!r}; is the model for this language?"]
    for texts in (PROBES, distinct):
        if len(texts) > 1 and len({tuple(_ids(tokenizer, text)) for text in texts}) == 1:
            return [f"{name}: it makes the same tokens of {texts[0]!r} and {texts[1]!r}; its vocabulary is not there"]
    return []


def _missing_files(folder: Path) -> str:
    """Which file of a tokenizer is missing; transformers makes do with what is there, and knows no words then."""
    if not folder.is_dir():
        return ""  # which its loader says
    if not any(any(folder.glob(name)) for name in VOCABULARY):
        return f"{folder} holds neither tokenizer.json nor vocab.json nor a .model file, so it knows no words"
    if (
        not any(any(folder.glob(name)) for name in ("tokenizer.json", "*.model"))
        and not (folder / "merges.txt").is_file()
    ):
        return f"{folder} holds vocab.json and not its merges.txt, so it would spell every word"
    return ""


def _ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return found


def _is_unknown(tokenizer: Any, text: str) -> bool:
    """Whether a text has no token but the unknown one; where that is the end's too, as CLIP has it, nothing is said."""
    unknown = tokenizer.unk_token_id
    ids = [number for number in _ids(tokenizer, text) if number == unknown or tokenizer.decode([number]).strip()]
    return not ids or (unknown is not None and unknown != tokenizer.eos_token_id and set(ids) == {unknown})


def require_there(models: Mapping[str, nn.Module], folder: Path) -> None:
    """Raise CheckpointError that names the weights which the files of a base lack, and diffusers left empty."""
    _require_none(models, folder, "weights that its files do not hold", lambda value: value.is_meta)


def require_finite(models: Mapping[str, nn.Module], folder: Path) -> None:
    """Raise CheckpointError that names the weights of a base which are NaN or infinite: no training mends those.

    Every weight is read, so it is for where the models compute: a GPU does it many times as fast.
    """
    problem = "weights that are not finite (NaN or infinity)"
    _require_none(models, folder, problem, lambda value: not torch.isfinite(value).all())


def _require_none(
    models: Mapping[str, nn.Module], folder: Path, problem: str, is_bad: Callable[[Tensor], bool]
) -> None:
    bad = [f"{part}.{name}" for part, model in models.items() for name, w in model.named_parameters() if is_bad(w)]
    if bad:
        raise CheckpointError(f"{folder}: {problem}:\n{listed(bad)}")
