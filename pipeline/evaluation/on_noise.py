"""Whether a model knows a picture for a caption, asked of pure noise: no picture is needed and none is drawn.

Asthana and Belagiannis 2026, "Detecting and Mitigating Memorization in Diffusion Models through Anisotropy of the
Log-Probability" (arXiv 2601.20642). Guidance is the difference of the scores with the caption and without it,
g = s(x, t, c) - s(x, t), where s = -noise / sigma_t. With x from a normal distribution, whatever t is, they ask

    how long g is at much noise, |g(x, HIGH)|, and
    how far g points where the unconditional score does at little noise, cos(s(x, LOW), g(x, LOW)),

and add both, weighted for each model (1 and 2 for Stable Diffusion 1.4, 1 and 0.1 for 2). A caption whose picture is
known pulls any noise to that picture; the unconditional score pulls it to the data; without a picture g only turns.

Read for it were the abstract and what the authors' code does (rohanasthana/memorization-anisotropy), not the paper's
text. From the code: the two levels, the first and the third last of 50 steps; the same noise for all captions; a
cosine over the channels of each place, and its mean over places. Ours: several noises; |g| in units of data, which
differs by a factor that is the same for all captions and has a value where nothing of the data is left; the change from
the base to the adapter, and each of both divided by its spread over the captions, so that no weight is chosen.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import rng
from pipeline.conditioning import Embeddings, stack
from pipeline.evaluation.validation import LossEvaluator, Predict, ValidationExample

HIGH, LOW = 0.98, 0.04  # of t
NUM_NOISES = 2
SEED = 0  # of the noise, whatever the run's seed is


def lengths_and_angles(
    evaluator: LossEvaluator, predict: Predict, examples: list[ValidationExample]
) -> Float[Tensor, "n 2"]:
    """Of each caption the length of the guidance at HIGH and its cosine with the score at LOW, means over noises."""
    kinds: dict[str, list[int]] = {}  # of one size, and told so
    for number, example in enumerate(examples):
        told = [(name, value.tolist()) for name, value in example.size.items()]
        kinds.setdefault(f"{tuple(example.mean.shape)} {told}", []).append(number)
    found = torch.empty(len(examples), 2, dtype=torch.float64)
    for numbers in kinds.values():
        shape, size = tuple(examples[numbers[0]].mean.shape), examples[numbers[0]].size
        captions = [None, *(examples[number].caption for number in numbers)]
        conditions = [{**evaluator.prompts(caption), **size} for caption in captions]
        data, noise = (part.double() for part in _parts(evaluator, predict, shape, conditions))
        guidance = data[1:] - data[:1]  # [captions, noises at both levels, c, h, w]
        lengths = guidance[:, :NUM_NOISES].flatten(2).norm(dim=2).mean(1)
        cosines = torch.cosine_similarity(-noise[:1, NUM_NOISES:], guidance[:, NUM_NOISES:], dim=2).mean((1, 2, 3))
        found[numbers] = torch.stack([lengths, cosines], 1).cpu()
    return found


def known(now: Float[Tensor, "n 2"], before: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """The changes of length and angle, each over its spread, added: larger for captions whose picture was learnt."""
    changes = (now - before).double()
    spread = changes.std(0)
    return torch.where(spread > 0, changes / spread, 0.0).sum(1)


def _parts(
    evaluator: LossEvaluator, predict: Predict, shape: tuple[int, ...], conditions: list[Embeddings]
) -> tuple[Tensor, Tensor]:
    """The data and the noise that a model finds in pure noise under each condition, [conditions, 2 noises, c, h, w].

    The noises are the same for all, first at HIGH and then at LOW.
    """
    noises = torch.stack([rng.normal(SEED, number, "", "pure noise", shape) for number in range(NUM_NOISES)])
    levels = torch.tensor([HIGH, LOW], dtype=torch.float64).repeat_interleave(NUM_NOISES)
    rows = [condition for condition in conditions for _ in range(len(levels))]
    x = noises.repeat(2 * len(conditions), 1, 1, 1).to(evaluator.device)
    t = evaluator.path.validation_time(levels).repeat(len(conditions)).to(evaluator.device)
    predictions = []
    for first in range(0, len(rows), evaluator.batch_size):
        some = slice(first, first + evaluator.batch_size)
        conditioning = stack(rows[some], evaluator.ragged).to(evaluator.device, evaluator.dtype)
        predictions.append(predict(x[some], t[some], conditioning))
    data, noise = evaluator.path.split(torch.cat(predictions).float(), x, t)
    return data.reshape(len(conditions), -1, *shape), noise.reshape(len(conditions), -1, *shape)
