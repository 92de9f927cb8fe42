"""Captions that are surely not English, the language that text encoders have read most of."""

import functools
from collections.abc import Callable, Iterable

from pipeline.audit.findings import Cases
from pipeline.audit.texts import case_of, in_other_letters, scripts_of, texts_of, told, words_of
from pipeline.data.manifest import Example

NOT_LOOKED_AT = 'languages were not looked at: that needs py3langid (pip install "t2i-lora[check]")'
ENGLISH = "en"
Otherwise = Callable[[str], float]  # how likely a caption is in its likeliest language rather than in English
# What captions are written in. Of all 97 that it knows, the identifier takes names and tags for the rare ones.
CANDIDATES = """ar bg cs da de el en es fa fi fr he hi hu id it ja ko nl no pl pt ro ru sv th tr uk vi
zh""".split()  # noqa: SIM905  # easier to read
SURE = 0.99  # of another language against English: measured, see docs/decisions.md
LEAST_WORDS = 3


@functools.cache
def identifier() -> Otherwise | None:
    """What tells languages apart; None where py3langid is not installed."""
    try:
        from py3langid import langid
    except ImportError:
        return None
    known = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    known.set_languages(CANDIDATES)

    @functools.cache
    def otherwise(text: str) -> float:
        shares = dict(known.rank(text))
        likeliest = max(shares, key=shares.__getitem__)
        return 0.0 if likeliest == ENGLISH else float(shares[likeliest] / (shares[likeliest] + shares[ENGLISH]))

    return otherwise


def of_language(examples: Iterable[Example], otherwise: Otherwise | None) -> Cases:
    """The captions in other languages; those in other letters than most have a finding of their own."""
    if otherwise is None:
        return {}
    texts = texts_of(examples)
    odd = in_other_letters(text for _, text in texts)
    foreign = {text for _, text in texts if text not in odd and _says_enough(text) and otherwise(text) >= SURE}
    return {"language": [case_of(example, told(text)) for example, text in texts if text in foreign]}


def _says_enough(text: str) -> bool:
    """Whether it is more than a name or a tag. Scripts without spaces have no words to count."""
    return len(words_of(text)) >= LEAST_WORDS or scripts_of(text) != {"LATIN"}
