"""A front as a curve: adherence at a diversity, the area under it, and two runs compared where both have been."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.evaluation.frontier.points import Point, front
from pipeline.evaluation.statistics import Interval

NUM_RESAMPLES, SEED = 1000, 0


class Curve:
    """The front of some points, straight between neighbours."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        ends = [points[place] for place in reversed(front(points))]  # diversity rising
        self.diversity = torch.tensor([diversity for _, diversity in ends], dtype=torch.float64)
        self.adherence = torch.tensor([adherence for adherence, _ in ends], dtype=torch.float64)

    @property
    def range(self) -> tuple[float, float]:
        """From the least to the most diverse of its points."""
        return self.diversity[0].item(), self.diversity[-1].item()

    def at(self, diversity: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Adherence at these diversities. Beyond its ends: that of the nearest; what is less diverse can be had."""
        if len(self.diversity) == 1:
            return self.adherence.expand(len(diversity))
        place = torch.searchsorted(self.diversity, diversity.double()).clamp(1, len(self.diversity) - 1)
        low, high = self.diversity[place - 1], self.diversity[place]
        share = ((diversity.double() - low) / (high - low)).clamp(0, 1)
        return self.adherence[place - 1] + share * (self.adherence[place] - self.adherence[place - 1])

    def mean(self, low: float, high: float) -> float:
        """Mean adherence between two diversities: the area under the curve over its width."""
        inner = [value for value in self.diversity.tolist() if low < value < high]
        places = torch.tensor([low, *inner, high], dtype=torch.float64)
        values = self.at(places)
        if high <= low:
            return values[0].item()
        return (torch.trapezoid(values, places) / (high - low)).item()


def area(points: Sequence[Point], low: float, high: float) -> Interval:
    """Mean adherence along the front between two diversities, with the bootstrap's 95 % interval over captions."""
    return _bootstrapped([points], lambda curves: curves[0].mean(low, high))


def at_matched_diversity(first: Sequence[Point], second: Sequence[Point]) -> tuple[Interval, tuple[float, float]]:
    """How much better the first front follows captions than the second, at equal diversity, and over which.

    The mean over the diversities that both fronts reach, with the bootstrap's 95 % interval over captions, which are
    the same for both. Raises ValueError where they reach none in common.
    """
    curves = [Curve([point.means for point in points]) for points in (first, second)]
    low = max(curve.range[0] for curve in curves)
    high = min(curve.range[1] for curve in curves)
    if low > high:
        raise ValueError("the two fronts have no diversity in common")
    found = _bootstrapped([first, second], lambda curves: curves[0].mean(low, high) - curves[1].mean(low, high))
    return found, (low, high)


def _bootstrapped(sets: Sequence[Sequence[Point]], value: Callable[[list[Curve]], float]) -> Interval:
    """A value of the fronts of some sets of points, with its percentiles over resampled captions (Efron 1979)."""
    num_captions = len(sets[0][0].adherence)
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randint(num_captions, (NUM_RESAMPLES, num_captions), generator=generator)
    weights = torch.zeros(NUM_RESAMPLES, num_captions, dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.full_like(weights, 1 / num_captions))
    means = [_means(points, weights).tolist() for points in sets]
    values = [value([Curve([(a, d) for a, d in of_set[time]]) for of_set in means]) for time in range(NUM_RESAMPLES)]
    ordered = sorted(values)
    low, high = (ordered[round(share * (NUM_RESAMPLES - 1))] for share in (0.025, 0.975))
    whole = value([Curve([point.means for point in points]) for points in sets])
    return Interval(whole, min(low, whole), max(high, whole), num_captions)


def _means(points: Sequence[Point], weights: Float[Tensor, "t p"]) -> Float[Tensor, "t k 2"]:
    """Adherence and diversity of each point, for each weighting of the captions."""
    both = [torch.stack([getattr(point, name).double() for point in points]) for name in ("adherence", "diversity")]
    return torch.stack([weights @ values.T for values in both], dim=2)
