"""What is wrong with captions: alike, cut, in other scripts, names of files, markup, one word."""

import collections
import html
import re
import statistics
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.audit.findings import Case, Cases
from pipeline.data import captions, prompt_weights
from pipeline.data.manifest import Example

COMMON = frozenset(
    """a an and are as at be by for from has have he her his in into is it its of on one or over she that the their
    there they this to two three under up was were which while who with""".split()  # noqa: SIM905  # easier to read
)
DOMINANT = 0.8  # of the captions hold a word that then says nothing
ALIKE = 0.05  # of the pictures share a caption, and at least so many:
FEW, MANY = 3, 10  # captions that are too few to speak of, and cases of a finding about shares
SHORT_WORDS, LONG_WORDS = 2, 150
LONGEST_SHOWN = 80  # letters
MARKUP = re.compile(r"<[a-z/!][^>]*>|&[a-z]+;|&#\d+;|https?://|[{}]|\\[nrt]", re.IGNORECASE)
OF_A_CAMERA = re.compile(r"(?:img|dsc|dscn|pxl|image|photo|screenshot|whatsapp image)?[\W_]*\d[\d\W_]*", re.IGNORECASE)

BARS = 10  # of a histogram
CountTokens = Callable[[Sequence[str]], tuple[list[int], int]]  # of captions, and how many the model reads
Lost = Callable[[Iterable[str]], dict[str, str]]  # captions that are cut by the text encoder, each with what is lost


@dataclass(frozen=True)
class Tokens:
    """How long captions are for a model."""

    counts: tuple[int, ...]  # of each caption, in order
    limit: int  # what the model reads

    @property
    def text(self) -> str:
        """In a few words."""
        return f"median {statistics.median(self.counts):g}, most {max(self.counts)}; the model reads {self.limit}"

    @property
    def bars(self) -> dict[str, int]:
        """A histogram of ten bars up to the limit, and one for what is longer."""
        width = -(-self.limit // BARS)
        most = min(max(self.counts), self.limit)
        found = {f"{first + 1} to {first + width}": 0 for first in range(0, most, width)}
        names = list(found)
        over = sum(count > self.limit for count in self.counts)
        for count in self.counts:
            if count <= self.limit:
                found[names[max(0, count - 1) // width]] += 1
        return found | ({f"more than {self.limit}": over} if over else {})


def tokens_of(examples: Iterable[Example], count: CountTokens | None) -> Tokens | None:
    """The tokens of all captions; None where there are none or nothing counts them."""
    captions = [text for example in examples for text in example.written if text]
    if count is None or not captions:
        return None
    counts, limit = count(captions)
    return Tokens(tuple(sorted(counts)), limit)


def of_each(examples: Iterable[Example], lost: Lost | None) -> Cases:
    """What is wrong with single captions."""
    texts = texts_of(examples)
    cut = lost(dict.fromkeys(text for _, text in texts)) if lost is not None else {}
    return {
        "cut": [case_of(example, f"loses {told(cut[text])}") for example, text in texts if text in cut],
        "file-name": [case_of(example, told(text)) for example, text in texts if _is_file_name(example, text)],
        "markup": [case_of(example, told(_marked(text))) for example, text in texts if MARKUP.search(text)],
        "weighted": [case_of(e, told(text)) for e, text in texts if prompt_weights.has_weights(text)],
        "long": [case_of(e, f"{n} words") for e, text in texts if (n := len(text.split())) > LONG_WORDS],
    }


def texts_of(examples: Iterable[Example]) -> list[tuple[Example, str]]:
    """Every caption with its example, by the examples' names."""
    pictures = sorted(examples, key=lambda example: example.name)
    return [(example, text) for example in pictures for text in example.written if text]


def of_all(examples: Sequence[Example]) -> Cases:
    """What only all captions together show."""
    if len(examples) < FEW:
        return {}
    texts = texts_of(examples)
    by_text: dict[str, list[str]] = collections.defaultdict(list)
    for example, text in texts:
        by_text[text.lower()].append(example.name)
    alike = sorted(by_text.items(), key=lambda pair: -len(pair[1]))
    enough = max(FEW, ALIKE * len(examples))
    short = [case_of(example, told(text)) for example, text in texts if len(text.split()) < SHORT_WORDS]
    odd = in_other_letters(text for _, text in texts)
    mirrored = [
        case_of(example, told(text))
        for example, text in texts
        if example.options.random_flip and any(captions.has_word(text, word) for word in ("left", "right"))
    ]
    return {
        "alike": [
            Case(f"{told(text)}: {len(names)} pictures", tuple(names)) for text, names in alike if len(names) > enough
        ],
        "dominant": _dominant(texts),
        "short": short if len(short) < len(texts) else [],
        "script": [case_of(example, told(text)) for example, text in texts if text in odd],
        "sides": mirrored,
    }


def _dominant(texts: list[tuple[Example, str]]) -> list[Case]:
    """Words in nearly all captions, but for those that every English sentence has and the trigger word."""
    trigger = {word for example, _ in texts for word in (example.options.trigger_word or "").lower().split()}
    counts = collections.Counter(
        word for _, text in texts for word in dict.fromkeys(words_of(text)) if word not in COMMON | trigger
    )
    return [
        Case(f"{word!r} in {number / len(texts):.0%} of the captions")
        for word, number in counts.most_common(MANY)
        if len(texts) >= MANY and number >= DOMINANT * len(texts)
    ]


def words_of(text: str) -> list[str]:
    """The words of a caption, in small letters."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())


def scripts_of(text: str) -> set[str]:
    """The scripts of a caption's letters by their Unicode names: LATIN, CYRILLIC, CJK, ..."""
    return {unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha()}


def in_other_letters(texts: Iterable[str]) -> set[str]:
    """Those with letters of another script than most."""
    scripts = {text: scripts_of(text) for text in texts}
    counts = collections.Counter(script for found in scripts.values() for script in found)
    usual = set(sorted(counts, key=lambda script: (-counts[script], script))[:1])
    return {text for text, found in scripts.items() if found - usual}


def _is_file_name(example: Example, text: str) -> bool:
    stem = example.name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    bare = {"".join(words_of(name)) for name in (stem, example.name.rsplit("/", 1)[-1])}
    is_name = bool(re.search(r"\d", text)) and "".join(words_of(text)) in bare
    return is_name or bool(OF_A_CAMERA.fullmatch(text)) or bool(re.fullmatch(r"\S+\.(?:png|jpe?g|webp)", text.lower()))


def told(text: str) -> str:
    """A caption in quotes, cut where it is long."""
    return repr(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ...")


def _marked(text: str) -> str:
    found = MARKUP.search(text)
    assert found is not None
    return html.unescape(text[max(0, found.start() - 12) : found.end() + 12]) if len(text) > LONGEST_SHOWN else text


def case_of(example: Example, text: str) -> Case:
    """What there is to say about one picture."""
    return Case(f"{example.name}: {text}", (example.name,))
