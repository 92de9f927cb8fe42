"""How near pictures are to their captions: in the space of an image-text model, and in the words of one that reads."""

import importlib.util
import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.hashing import digest

NUM_CANDIDATES = 100  # captions of R-precision, its own among them
BLEU = ("bleu", "bleu_shuffled")  # metrics that need sacrebleu
QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”')  # what a caption wants written in the picture


def clip_score(images: Float[Tensor, "n d"], captions: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """100 max(cosine, 0) of each picture and its caption (Hessel et al. 2021, in the scale of torchmetrics)."""
    return 100 * torch.cosine_similarity(images.double(), captions.double(), dim=-1).clamp(min=0)


def margins(images: Float[Tensor, "n d"], captions: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """How much nearer each picture is to its own caption than to the others': cosine minus the mean of the others.

    A bare CLIP score rises with whatever all captions share; the margin does not. Pictures with equal captions are no
    'others' to each other; a picture without any other has margin 0.
    """
    cosine, other = _cosines(images, captions)
    mean = (cosine * other).sum(1) / other.sum(1).clamp(min=1)
    return torch.where(other.sum(1) > 0, cosine.diagonal() - mean, 0.0).float()


def r_precision(images: Float[Tensor, "n d"], captions: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """1 for a picture that is nearer to its own caption than to 99 others (Xu et al. 2018, section 4), else 0.

    The others are all, or of many those that follow it in an order by content: which they are does not depend on the
    order of the set, in which captions of a kind may stand together.
    """
    cosine, other = _cosines(images, captions)
    n = len(cosine)
    order = torch.tensor(sorted(range(n), key=lambda row: digest(captions[row].numpy().tobytes())))
    found = torch.empty(n, dtype=torch.float64)
    for place, row in enumerate(order.tolist()):
        following = order.roll(-place)[1:]
        rivals = following[other[row, following] > 0][: NUM_CANDIDATES - 1]
        found[row] = float((cosine[row, rivals] < cosine[row, row]).all())
    return found


def _cosines(images: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
    """[pictures, captions], and 1 where a caption is another one than the picture's."""
    images, captions = (torch.nn.functional.normalize(value.double(), dim=-1) for value in (images, captions))
    return images @ captions.T, (captions @ captions.T < 1 - 1e-6).double()


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, without marks."""
    return re.findall(r"\w+", text.lower())


def rouge_l(said: str, wanted: str) -> float:
    """ROUGE-L (Lin 2004, section 3.1): the F1 of the longest common subsequence of words; 0 where one has none."""
    first, second = words_of(said), words_of(wanted)
    lengths = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for place, other in enumerate(second):
            above = lengths[place + 1]
            lengths[place + 1] = before + 1 if word == other else max(above, lengths[place])
            before = above
    return 2 * lengths[-1] / (len(first) + len(second)) if first and second else 0.0


def has_bleu() -> bool:
    """Whether sacrebleu is there."""
    return importlib.util.find_spec("sacrebleu") is not None


def bleu(said: Sequence[str], wanted: Sequence[str]) -> float:
    """Corpus BLEU (Papineni et al. 2002) in per cent, by sacrebleu, in small letters. Raises ImportError without it."""
    import sacrebleu

    return float(sacrebleu.corpus_bleu(list(said), [list(wanted)], lowercase=True).score)


def quoted(caption: str) -> str | None:
    """What a caption wants written in the picture: its words in double quotes; None where there are none."""
    found = [first or second for first, second in QUOTED.findall(caption)]
    return " ".join(found) or None


def written(said: str, wanted: str) -> float:
    """1 - the edit distance of letters (Levenshtein 1966) as a share of the longer text, without regard to case."""
    first, second = (" ".join(words_of(text)) for text in (said, wanted))
    row = list(range(len(second) + 1))
    for place, letter in enumerate(first, start=1):
        before, row[0] = row[0], place
        for other in range(1, len(second) + 1):
            before, row[other] = (
                row[other],
                min(row[other] + 1, row[other - 1] + 1, before + (letter != second[other - 1])),
            )
    return 1 - row[-1] / max(len(first), len(second), 1)
