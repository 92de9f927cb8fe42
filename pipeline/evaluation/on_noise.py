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
from pipeline.conditioning import stack
from pipeline.evaluation.validation import LossEvaluator, Predict, ValidationExample

HIGH, LOW = 0.98, 0.04  # of t
NUM_NOISES = 2
SEED = 0  # of the noise, whatever the run's seed is


def lengths_and_angles(
    evaluator: LossEvaluator, predict: Predict, examples: list[ValidationExample]
) -> Float[Tensor, "n 2"]:
    """Of each caption the length of the guidance at HIGH and its cosine with the score at LOW, means over noises."""
    unconditional: dict[str, tuple[Tensor, Tensor]] = {}
    found = []
    for example in examples:
        kind = str((tuple(example.mean.shape), [(name, value.tolist()) for name, value in example.size.items()]))
        if kind not in unconditional:
            unconditional[kind] = _parts(evaluator, predict, example, None)
        (plain, noise), (data, _) = unconditional[kind], _parts(evaluator, predict, example, example.caption)
        guidance = (data - plain).double()
        lengths = guidance[:NUM_NOISES].flatten(1).norm(dim=1)
        cosines = torch.nn.functional.cosine_similarity(-noise[NUM_NOISES:].double(), guidance[NUM_NOISES:], dim=1)
        found.append(torch.stack([lengths.mean(), cosines.mean()]).cpu())
    return torch.stack(found)


def known(now: Float[Tensor, "n 2"], before: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """The changes of length and angle, each over its spread, added: larger for captions whose picture was learnt."""
    changes = (now - before).double()
    spread = changes.std(0)
    return torch.where(spread > 0, changes / spread, 0.0).sum(1)


def _parts(
    evaluator: LossEvaluator, predict: Predict, example: ValidationExample, caption: str | None
) -> tuple[Tensor, Tensor]:
    """The data and the noise that a model finds in pure noise, first at HIGH and then at LOW, [2 noises c h w]."""
    shape, path = tuple(example.mean.shape), evaluator.path
    noises = torch.stack([rng.normal(SEED, number, "", "pure noise", shape) for number in range(NUM_NOISES)])
    levels = torch.tensor([HIGH, LOW], dtype=torch.float64).repeat_interleave(NUM_NOISES)
    x, t = noises.repeat(2, 1, 1, 1).to(evaluator.device), path.validation_time(levels).to(evaluator.device)
    row = {**evaluator.prompts(caption), **example.size}
    predictions = []
    for first in range(0, len(x), evaluator.batch_size):
        some = slice(first, first + evaluator.batch_size)
        conditioning = stack([row] * len(t[some]), evaluator.ragged).to(evaluator.device, evaluator.dtype)
        predictions.append(predict(x[some], t[some], conditioning))
    return path.split(torch.cat(predictions).float(), x, t)
