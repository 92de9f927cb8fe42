"""Settings of sampling as points: adherence and diversity of each caption, which of them others beat, and the front."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from pipeline.evaluation.statistics import mean_of

CONFIDENCE = 0.95  # that no setting is dropped which is none the worse, over all of a round


@dataclass(frozen=True)
class Point:
    """What one setting does: for each of the same captions, with the same seeds."""

    adherence: Float[Tensor, " p"]  # the mean of its pictures
    diversity: Float[Tensor, " p"]  # how unlike they are to one another

    @property
    def means(self) -> tuple[float, float]:
        """Adherence and diversity over all captions."""
        return self.adherence.double().mean().item(), self.diversity.double().mean().item()

    def at(self, captions: Int[Tensor, " k"]) -> "Point":
        """The same of some captions, by their numbers."""
        return Point(self.adherence[captions], self.diversity[captions])


def surely_beaten(
    points: Sequence[Point], may_beat: Sequence[bool] | None = None, confidence: float = CONFIDENCE
) -> list[bool]:
    """Which points another one beats in both, beyond chance: those need not be looked at any further.

    Some may be no rivals: what falls apart is diverse, and beats nothing by that.

    By the paired differences over captions, Student's, each side of each pair at a level that holds for all pairs
    together (Bonferroni): a setting that is none the worse is dropped in 1 - confidence of all rounds at most.
    """
    num_pairs = len(points) * (len(points) - 1)
    level = 1 - 2 * (1 - confidence) / max(1, num_pairs)  # of a two-sided interval, of which one side is asked

    def beats(one: Point, other: Point) -> bool:
        gains = (one.adherence - other.adherence, one.diversity - other.diversity)
        return all(mean_of(gain.double(), level).low > 0 for gain in gains)

    rivals = [point for point, may in zip(points, may_beat or [True] * len(points), strict=True) if may]
    return [any(beats(rival, point) for rival in rivals if rival is not point) for point in points]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of those that no other point equals or beats in both, from the most diverse to the most faithful.

    Of equal points the first counts.
    """
    order = sorted(range(len(points)), key=lambda place: (-points[place][1], -points[place][0], place))
    found: list[int] = []
    for place in order:
        if not found or points[place][0] > points[found[-1]][0]:
            found.append(place)
    return found
