"""Three points of a front to take: the most faithful, the most diverse, and one between them."""

import math
from collections.abc import Sequence
from typing import Literal

from pipeline.evaluation.frontier.points import front

Wish = Literal["faithful", "balanced", "diverse"]


def chosen(points: Sequence[tuple[float, float]]) -> dict[Wish, int]:
    """The place of each, of points as (adherence, diversity).

    Balanced is what lies nearest to the best of both, the adherence of the one end with the diversity of the other,
    each axis scaled to what lies between the ends (a compromise solution, Zeleny 1973).
    """
    ends = front(points)
    diverse, faithful = ends[0], ends[-1]
    (most_faithful, least), (least_faithful, most) = points[faithful], points[diverse]

    def lacking(place: int) -> float:
        adherence, diversity = points[place]
        of_adherence = (most_faithful - adherence) / (most_faithful - least_faithful or 1.0)
        return math.hypot(of_adherence, (most - diversity) / (most - least or 1.0))

    return {"faithful": faithful, "balanced": min(ends, key=lacking), "diverse": diverse}
