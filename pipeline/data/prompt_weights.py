"""Weights of words, as A1111 and ComfyUI read them in prompts: (red hat:1.2). No trainer's text encoder reads them."""

import re

_PLAIN = r"[^()\\]|\\."  # an escaped bracket is a bracket of the text
_WORDS = rf"(?:{_PLAIN}|\((?:{_PLAIN})*\))+?"
# After a digit only a number with a point is a weight: (16:9) and (at 10:30) are text.
_WEIGHT = r"(?:(?<!\d)\s*:\s*[-+]?\d+|\s*:\s*[-+]?\d*\.\d+)\s*"
WEIGHTED = re.compile(rf"(?<!\\)\((?P<words>{_WORDS}){_WEIGHT}\)")


def has_weights(caption: str) -> bool:
    """Whether a caption holds a group with a weight. Brackets without a number are text, as in 'holding_(object)'."""
    return WEIGHTED.search(caption) is not None


def without_weights(caption: str) -> str:
    """The words of a caption without their weights, from the innermost group on."""
    while (plain := WEIGHTED.sub(lambda found: found["words"], caption)) != caption:
        caption = plain
    return caption
