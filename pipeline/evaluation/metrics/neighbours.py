"""Whether pictures lie where the reference lies, by nearest neighbours in the features of an extractor."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEIGHBOURS = 5  # k, as Naeem et al. 2020
ROUNDING = 1e-9  # of a distance: one that is just the radius is within it


def radii(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """The distance of each row to the k-th nearest of the others; to the farthest where there are fewer."""
    middle = rows.double().mean(0)
    apart = torch.cdist(rows.double() - middle, rows.double() - middle)
    return apart.kthvalue(min(NEIGHBOURS + 1, len(rows)), dim=1).values


def within(points: Float[Tensor, "n d"], centres: Float[Tensor, "m d"]) -> Bool[Tensor, "n m"]:
    """Whether each point lies in the ball of each centre, which reaches to the centre's k-th nearest centre."""
    middle = centres.double().mean(0)  # near which the products that distances are made of lose no digits
    apart = torch.cdist(points.double() - middle, centres.double() - middle)
    return apart <= radii(centres) * (1 + ROUNDING)


def precision(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """The share of pictures in the ball of a true one (Kynkäänniemi et al. 2019, eq. 1 and 2)."""
    return float(within(fake, real).any(1).double().mean())


def recall(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """The share of true pictures in the ball of a made one (the same)."""
    return float(within(real, fake).any(1).double().mean())


def density(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """In how many balls of true pictures a made one lies, divided by k (Naeem et al. 2020, eq. 3); may exceed 1."""
    return float(within(fake, real).double().sum(1).mean() / NEIGHBOURS)


def coverage(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """The share of true pictures whose balls hold a made one (Naeem et al. 2020, eq. 4)."""
    return float(within(fake, real).any(0).double().mean())


def own_is_nearest(
    real: Float[Tensor, "n d"],
    fake: Float[Tensor, "m d"],
    real_groups: Int[Tensor, " n"] | None = None,
    fake_groups: Int[Tensor, " m"] | None = None,
) -> Float[Tensor, " m"]:
    """1 for each row of `fake` to which, of all rows of `real`, one of its own group is nearest (Euclidean), else 0.

    Without groups they are pairs, row by row.
    """
    real_groups = torch.arange(len(real)) if real_groups is None else real_groups
    fake_groups = torch.arange(len(fake)) if fake_groups is None else fake_groups
    nearest = torch.cdist(fake.double(), real.double()).argmin(1).cpu()
    return (real_groups[nearest] == fake_groups).double()


def nearest_similarity(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """The cosine of each made picture with the true one it is most like."""
    x, y = (torch.nn.functional.normalize(value.double(), dim=-1) for value in (real, fake))
    return (y @ x.T).amax(1)
