"""Whether the parts of a model fit each other, from their configurations and tokenizers, before any weight is read."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.errors import CheckpointError, listed
from pipeline.families.base import Family

PROBES = ("a red cat", "two blue dogs on a hill")  # that any tokenizer tells apart
VOCABULARY = ("tokenizer.json", "vocab.json", "*.model")  # of which a tokenizer's folder holds one
VARIANT = re.compile(r"\.([a-z0-9_]+)(?:-\d+-of-\d+)?\.safetensors$")  # as in model.fp16-00001-of-00002.safetensors


def require_fitting(family: Family, captions: Sequence[str]) -> None:
    """Raise CheckpointError that names every part that does not fit another; `captions` are those of the dataset."""
    names = [name for name in family.encoders if name.startswith("tokenizer") and family.source.has(name)]
    missing = [f"{name}: {text}" for name in names if (text := _missing_files(family.source.folder / name))]
    problems = _without_weights(family) + _of_other_widths(family) + missing
    if not missing:
        problems += [problem for name in names for problem in _of_tokenizer(family, name, captions)]
    if problems:
        raise CheckpointError(f"The parts of {family.source.folder} do not fit each other:\n{listed(problems)}")


def _without_weights(family: Family) -> list[str]:
    """Parts whose weights are damaged, or there in another variant than the one asked for."""
    source, problems = family.source, list[str]()
    for part in (family.denoiser, "vae", *source.text_encoders):
        folder = source.vae if part == "vae" and source.vae is not None else source.folder / part
        paths = sorted(folder.glob("*.safetensors"))
        names = [path.name for path in paths]
        problems += [f"{part}: {path} {damage}; download it again" for path in paths if (damage := _damage(path))]
        if source.file is not None or source.variant is not None:
            continue
        variants = {found[1] for name in names if (found := VARIANT.search(name))}
        if names and len([name for name in names if VARIANT.search(name)]) == len(names):
            problems.append(
                f"{part}: its weights are there as {', '.join(sorted(variants))} only; give --variant {min(variants)}"
            )
    return problems


def _damage(path: Path) -> str:
    """Why a file of weights cannot be read, from its header and its size alone."""
    try:
        with safe_open(path, framework="np"):
            return ""
    except (SafetensorError, OSError) as error:
        return f"is not whole, or no safetensors file ({error})"


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
    room = family.part_config(encoder).get("vocab_size") if family.source.has(encoder) else None
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
