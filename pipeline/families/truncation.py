"""Captions that are longer than the text encoder reads, and how large their embeddings are."""

import itertools
from collections.abc import Iterable, Sequence

from pipeline.families.base import Family
from pipeline.notes import Note

SHOWN = 40  # letters of a caption
AT_ONCE = 2**10  # captions that a tokenizer is given


def cut(family: Family, captions: Iterable[str]) -> tuple[Note, ...]:
    """A note for every caption or prompt whose end the text encoder never reads, with that end."""
    kind, lost = "captions cut by the text encoder", truncated(family, dict.fromkeys(captions))
    return tuple(Note(kind, f"{caption[:SHOWN]!r}... loses {end!r}") for caption, end in lost.items())


def truncated(family: Family, captions: Iterable[str]) -> dict[str, str]:
    """The captions that have more tokens than the text encoder reads, each with the end that is lost.

    None are lost where they are read in as many chunks as they need.
    """
    if family.options.long_prompts == "chunks" and family.options.prompt_chunks is None:
        return {}
    pipe = family.tokenizers
    tokenizer = getattr(pipe, family.tokenizer_limit[0])
    limit = _limit(family) * family.num_chunks
    lost, waiting = {}, iter(captions)
    while some := list(itertools.islice(waiting, AT_ONCE)):
        texts = {caption: family.prompt_template(pipe, caption) for caption in some}
        # A token holds at least one byte, but for the space that T5 puts first, so most captions need no look. No
        # letter: of Chinese and of emoji CLIP makes up to a token of each byte.
        long = {caption: text for caption, text in texts.items() if len(text.encode()) >= limit}
        found = tokenizer([*long.values()], add_special_tokens=False).input_ids if long else []
        for caption, tokens in zip(long, found, strict=True):
            if len(tokens) > limit:
                lost[caption] = tokenizer.decode(tokens[limit:])
    return lost


def chunks_needed(family: Family, captions: Sequence[str]) -> int:
    """How many chunks the longest of some captions takes; an empty one takes one."""
    return max(1, -(-max(token_counts(family, captions)[0], default=0) // _limit(family)))


def token_counts(family: Family, captions: Sequence[str]) -> tuple[list[int], int]:
    """How many tokens each caption has for the encoder that reads furthest, and how many it reads."""
    pipe = family.tokenizers
    texts = [family.prompt_template(pipe, caption) for caption in captions]
    tokenizer = getattr(pipe, family.tokenizer_limit[0])
    found = tokenizer(texts, add_special_tokens=False).input_ids if texts else []
    return [len(tokens) for tokens in found], _limit(family) * family.num_chunks


def _limit(family: Family) -> int:
    """How many tokens of a caption are read at once."""
    name, most = family.tokenizer_limit
    tokenizer = getattr(family.tokenizers, name)
    return (most or tokenizer.model_max_length) - int(tokenizer.num_special_tokens_to_add())


def num_embedding_values(family: Family) -> int:
    """About how many numbers the embeddings of one caption have: tokens times width, of every encoder."""
    total = 0
    for part in set(family.encoders) & set(family.source.text_encoders):
        config = family.part_config(part)
        is_clip = config["model_type"].startswith("clip")
        tokens = config["max_position_embeddings"] * family.num_chunks if is_clip else family.max_sequence_length
        total += tokens * (config["hidden_size"] if "hidden_size" in config else config["d_model"])
    return total
