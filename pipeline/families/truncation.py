"""Captions that are longer than the text encoder reads, and how large their embeddings are."""

from collections.abc import Iterable, Sequence

from pipeline.families.base import Family


def truncated(family: Family, captions: Iterable[str]) -> dict[str, str]:
    """The captions that have more tokens than the text encoder reads, each with the end that is lost."""
    name, most = family.tokenizer_limit
    pipe = family.tokenizers
    tokenizer = getattr(pipe, name)
    limit = (most or tokenizer.model_max_length) - tokenizer.num_special_tokens_to_add()
    lost = {}
    for caption in captions:
        text = family.prompt_template(pipe, caption)
        # A token holds at least one letter, but for the space that T5 puts first, so most captions need no look.
        tokens = tokenizer(text, add_special_tokens=False).input_ids if len(text) >= limit else []
        if len(tokens) > limit:
            lost[caption] = tokenizer.decode(tokens[limit:])
    return lost


def token_counts(family: Family, captions: Sequence[str]) -> tuple[list[int], int]:
    """How many tokens each caption has for the encoder that reads furthest, and how many it reads."""
    name, most = family.tokenizer_limit
    pipe = family.tokenizers
    tokenizer = getattr(pipe, name)
    limit = (most or tokenizer.model_max_length) - tokenizer.num_special_tokens_to_add()
    texts = [family.prompt_template(pipe, caption) for caption in captions]
    found = tokenizer(texts, add_special_tokens=False).input_ids if texts else []
    return [len(tokens) for tokens in found], limit


def num_embedding_values(family: Family) -> int:
    """About how many numbers the embeddings of one caption have: tokens times width, of every encoder."""
    total = 0
    for part in set(family.encoders) & set(family.source.text_encoders):
        config = family.part_config(part)
        is_clip = config["model_type"].startswith("clip")
        tokens = config["max_position_embeddings"] if is_clip else family.max_sequence_length
        total += tokens * (config["hidden_size"] if "hidden_size" in config else config["d_model"])
    return total
