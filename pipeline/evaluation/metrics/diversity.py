"""How much pictures differ from one another, from what an extractor sees in them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def vendi(features: Float[Tensor, "n d"]) -> float:
    """The Vendi score (Friedman and Dieng 2023, definition 3.1) with the cosine as kernel.

    exp of the entropy of the eigenvalues of K / n: the number of pictures that are unlike each other. It grows with n.
    """
    rows = torch.nn.functional.normalize(features.double(), dim=-1)
    values = torch.linalg.svdvals(rows).square() / len(rows)
    values = values[values > 0]
    return float(torch.exp(-(values * values.log()).sum()))


def within_group(features: Float[Tensor, "n d"], groups: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """For each picture the mean of 1 - cosine to the others of its caption; NaN for one that is alone."""
    rows = torch.nn.functional.normalize(features.double(), dim=-1)
    others = (groups[:, None] == groups[None]).double() - torch.eye(len(rows), dtype=torch.float64)
    found: Tensor = ((1 - rows @ rows.T) * others).sum(1) / others.sum(1)
    return found


def inception(logits: Float[Tensor, "n k"]) -> float:
    """The Inception Score (Salimans et al. 2016): exp of the mean KL of p(class | picture) from p(class), one split."""
    logs = logits.double().log_softmax(1)
    mean = logs.exp().mean(0, keepdim=True)
    return float(((logs.exp() * (logs - mean.log())).sum(1)).mean().exp())
