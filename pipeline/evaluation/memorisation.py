"""Whether an adapter learnt its training pictures by heart: what it does with them, against what it does with others.

Every figure compares training pictures with as many that were held out of the same dataset, which the adapter cannot
know. 50 % is what it would be if it knew neither.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline import atomic, records
from pipeline.evaluation.adapter_hash import hash_of
from pipeline.evaluation.statistics import Interval, as_share, folds_of, jackknifed, normal

FOLDER = "memorisation"  # of an output folder
FILE = "memorisation.json"
ALARM = 0.9  # of any figure: so often a training picture is told from another one
RARE = 0.01  # of the others come as near to their own pictures as a copy does
TOLD_BY = {
    "by_loss": "by their losses",
    "by_drawing": "by what is drawn",
    "by_sameness": "by how alike drawings are",
    "by_noise": "by their captions on pure noise",
}
MOST_COPIES = 12  # that are shown; of cliques, too
LEAST_CLIQUE = 3  # drawings that are all alike


def auc(members: Float[Tensor, " n"], others: Float[Tensor, " m"]) -> Interval:
    """How often a member has a larger value than one of the others: the area under the ROC curve.

    With the interval of DeLong, DeLong and Clarke-Pearson 1988, eq. 5. Without an error its width would be 0: then with
    that of a share of as many pictures as the smaller side has.
    """
    x, y = members.double()[:, None], others.double()[None]
    wins = (x > y).double() + 0.5 * (x == y).double()
    value, smaller = float(wins.mean()), min(wins.shape)
    variance = sum(float(wins.mean(1 - side).var()) / wins.shape[side] for side in (0, 1))
    half = normal() * variance**0.5
    return as_share(Interval(value, value - half, value + half, len(members)), smaller)


def ratio(members: Float[Tensor, " n"], others: Float[Tensor, " m"]) -> Interval:
    """The mean of the members' values as a share of the others', with a jackknife over both."""
    numbers = torch.arange(len(members)), torch.arange(len(members), len(members) + len(others))
    values, all_numbers = torch.cat([members, others]).double(), torch.cat(numbers)

    def without(out: Int[Tensor, " k"]) -> float:
        kept = ~torch.isin(all_numbers, out)
        first = kept & (all_numbers < len(members))
        return float(values[first].mean() / values[kept & ~first].mean())

    nobody = torch.empty(0, dtype=torch.long)
    return jackknifed(without(nobody), len(members), [folds_of(part) for part in numbers], without)


@dataclass(frozen=True)
class Copy:
    """A drawn picture nearer to its training picture than 99 in 100 of the others come to theirs."""

    caption: str
    name: str  # of the training picture
    drawn: str  # the picture in the folder
    true: str  # the same of the training picture
    distance: float  # 1 - cosine
    usual: float  # the median of the others


@dataclass(frozen=True)
class Clique:
    """Drawings of one training caption that are all alike, as Carlini et al. 2023 (section 4.2) know a copy."""

    caption: str
    name: str  # of the training picture
    drawn: tuple[str, ...]  # the pictures in the folder
    true: str


@dataclass(frozen=True, kw_only=True)
class Cliques:
    """Captions whose drawings fall together, nearer than 99 in 100 pairs drawn from a held-out caption do."""

    least: int  # drawings of a clique
    of: int  # drawings of each caption
    members: int  # training captions that have one
    others: int  # held-out captions that have one
    shown: tuple[Clique, ...]  # the largest


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """What was found; of each figure 50 % is what an adapter that knows neither side would have."""

    adapter: str  # a hash of its file
    n: int  # pictures of each side
    extractor: str
    by_loss: Interval  # a training picture's loss fell by more than another's
    by_drawing: Interval  # what is drawn from its caption is nearer to it than another's is to that one
    by_sameness: Interval | None  # the pictures of its caption differ less; None where one was drawn of each
    distance: Interval  # to its own picture, as a share of the others'
    num_copies: int
    copies: tuple[Copy, ...]  # the nearest of them
    by_noise: Interval | None = None  # from pure noise, guidance leads to a picture more than another caption's does
    cliques: Cliques | None = None  # None where fewer than three were drawn of each
    left_out: tuple[str, ...] = ()  # figures that are None, with the reason

    @property
    def figures(self) -> dict[str, Interval]:
        """Those that say how often one is told from the other."""
        found = {name: getattr(self, name) for name in TOLD_BY}
        return {name: figure for name, figure in found.items() if figure is not None}

    @property
    def alarms(self) -> tuple[str, ...]:
        """The figures that are too high to share it without a thought."""
        return tuple(name for name, figure in self.figures.items() if figure.value >= ALARM and figure.low > 0.5)

    @property
    def traces(self) -> tuple[str, ...]:
        """The figures that chance does not explain."""
        return tuple(name for name, figure in self.figures.items() if figure.low > 0.5)

    @property
    def chance(self) -> float:
        """How many copies there would be if neither side were known: of the quantile between the nearest two."""
        return self.n * (1 + RARE * (self.n - 1)) / (self.n + 1)

    def words(self) -> str:
        """In one sentence or two."""
        if self.alarms:
            told = " and ".join(f"{TOLD_BY[name]} {self.figures[name].value:.0%} of the time" for name in self.alarms)
            return (
                f"It has learnt training pictures by heart: they are told from others {told}. Train for fewer steps, "
                "on more pictures, or at a lower rank."
            )
        if self.traces:
            return "Its training pictures leave a trace in it that chance does not explain, but no alarm."
        most = max(figure.high for figure in self.figures.values())
        return (
            f"Its training pictures cannot be told from others by what it does. With {self.n} of each, anything up to "
            f"{most:.0%} of the time cannot be excluded; 50% is chance."
        )

    def write(self, folder: Path) -> None:
        """Write memorisation.json."""
        atomic.write_text(folder / FILE, json.dumps(records.to_json(self), indent=1, allow_nan=False) + "\n")


def of_adapter(folder: Path) -> Memorisation | None:
    """What was found of the very adapter that lies in an output folder; None where nobody looked at that.

    Raises CheckpointError as `read` does.
    """
    found = read(folder / FOLDER)
    return found if found is not None and found.adapter == hash_of(folder) else None


def is_of_another(folder: Path) -> bool:
    """Whether something was found, but of another adapter than the one that lies there now. Raises as `read` does."""
    return read(folder / FOLDER) is not None and of_adapter(folder) is None


def read(folder: Path) -> Memorisation | None:
    """What was found of a run; None where nobody looked. Raises CheckpointError for a file that is damaged."""
    return records.read(Memorisation, folder / FILE) if (folder / FILE).is_file() else None


def nearest(
    drawn: Float[Tensor, "n d"], of_drawn: Int[Tensor, " n"], true: Float[Tensor, "m d"], of_true: Int[Tensor, " m"]
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """For each true picture the drawing from its caption that is most like it, and 1 - cosine of the two.

    `of_drawn` and `of_true` are the numbers of their captions; pictures with equal captions share all drawings.
    """
    rows, own = (torch.nn.functional.normalize(value.double(), dim=-1) for value in (drawn, true))
    apart = torch.where(of_true[:, None] == of_drawn[None], 1 - own @ rows.T, math.inf)
    found = apart.min(1)
    return found.indices, found.values


def sameness(drawn: Float[Tensor, "n d"], groups: Int[Tensor, " n"], count: int) -> Float[Tensor, " m"]:
    """The mean cosine between the pictures of each caption, of which each has several."""
    rows = torch.nn.functional.normalize(drawn.double(), dim=-1)
    alike = rows @ rows.T
    pairs = (groups[:, None] == groups[None]).double() - torch.eye(len(rows), dtype=torch.float64)
    sums = torch.zeros(2, count, dtype=torch.float64)
    return sums[0].index_add(0, groups, (alike * pairs).sum(1)) / sums[1].index_add(0, groups, pairs.sum(1))


def distances_within(drawn: Float[Tensor, "n d"], groups: Int[Tensor, " n"], count: int) -> Float[Tensor, "m k k"]:
    """1 - cosine between the drawings of each caption, of which there are equally many."""
    rows = torch.nn.functional.normalize(drawn.double(), dim=-1)
    some = torch.stack([rows[groups == number] for number in range(count)])
    return 1 - some @ some.mT


def largest_clique(near: Bool[Tensor, "k k"]) -> tuple[int, ...]:
    """The most drawings that are all near each other, by branch and bound: exact, and slow for hundreds of drawings."""
    friends = [set(row.nonzero().flatten().tolist()) - {place} for place, row in enumerate(near)]
    best: tuple[int, ...] = ()

    def grow(clique: tuple[int, ...], candidates: set[int]) -> None:
        nonlocal best
        best = max(best, clique, key=len)
        rest = set(candidates)
        for place in sorted(candidates):
            if len(clique) + len(rest) <= len(best):
                return
            rest.discard(place)
            grow((*clique, place), rest & friends[place])

    grow((), set(range(len(friends))))
    return best


def cliques(apart: Float[Tensor, "m k k"]) -> list[tuple[int, ...]]:
    """The largest clique of each caption; the first half are of training, the others say what is near."""
    number, of = len(apart) // 2, apart.shape[1]
    pairs = apart[number:][:, *torch.triu_indices(of, of, 1)]
    return [largest_clique(one) for one in apart < pairs.quantile(RARE)]
