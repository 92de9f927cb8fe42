"""What every caption of a dataset has to be."""

from pipeline.data import captions, prompt_weights, tags
from pipeline.data.options import DataOptions


def problems(where: str, found: tuple[str, ...], options: DataOptions) -> list[str]:
    """What is wrong with the captions of one row, a sentence for each."""
    return [*_without_trigger(where, found, options), *_weighted(where, found, options)]


def _without_trigger(name: str, found: tuple[str, ...], options: DataOptions) -> list[str]:
    trigger, problems = options.trigger_word, list[str]()
    for caption in found if trigger is not None else ():
        assert trigger is not None
        if not captions.has_word(caption, trigger):
            problems.append(f"{name}: {caption!r} lacks the trigger word {trigger!r}")
        elif not captions.has_word(tags.certain(caption, options), trigger):
            way = "raise --keep_tokens, or put it into --caption_prefix"
            problems.append(f"{name}: --tag_dropout may leave out the trigger word of {caption!r}; {way}")
    return problems


def _weighted(name: str, found: tuple[str, ...], options: DataOptions) -> list[str]:
    if options.prompt_weights == "keep":
        return []
    lets = "--prompt_weights strip leaves the words, keep trains on it as text"
    if options.prompt_weights == "strip":  # what was written has none any more
        lets = "it is in --caption_prefix, --caption_suffix or another option: take it out there, or give keep"
    return [
        f"{name}: {caption!r} weighs words, which no text encoder reads ({lets})"
        for caption in found
        if prompt_weights.has_weights(caption)
    ]
