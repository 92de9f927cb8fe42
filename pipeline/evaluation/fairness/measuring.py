"""What is measured of groups: every metric of the table that says how a picture follows its caption, and KID."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.fairness import parity
from pipeline.evaluation.fairness.naming import named_in
from pipeline.evaluation.fairness.parity import Changes, Independent, Means, Side
from pipeline.evaluation.metrics import distances
from pipeline.evaluation.metrics.compared import Compared, Seen
from pipeline.evaluation.metrics.measure import can_be, change_of
from pipeline.evaluation.metrics.table import METRICS, Metric, features_of
from pipeline.evaluation.statistics import Interval

FEWEST = 12  # captions of a group, or without others pictures: fewer say nothing
GROUP_READ = Metric(
    label="Its group is what the reader sees",
    short="group read",
    form="{:.0%}",
    better="higher",
    needs=frozenset({"readings"}),
    is_share=True,
    of_caption=True,
    blind="All but the group; what the reader does not know to say.",
)
TABLE: dict[str, Metric] = {"group_read": GROUP_READ, **METRICS}


@dataclass(frozen=True, kw_only=True)
class Parity:
    """A metric, group by group, without and with the adapter."""

    metric: str
    extractor: str | None
    base: Side
    adapted: Side
    change: Side
    reference: Side | None  # of the true pictures: what the measure itself makes of the groups

    @property
    def about(self) -> Metric:
        """What is measured."""
        return TABLE[self.metric]


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Which captions are of which group."""

    names: tuple[str, ...]  # of the groups that are measured
    others: tuple[str, ...]  # of those that are too few
    of_caption: tuple[int, ...]  # the number of each caption's group
    places: tuple[int, ...] | None  # what each shares with a caption of every other group; None: groups are not paired

    def of(self, seen: Seen) -> Int[Tensor, " n"]:
        """The group of each picture."""
        return torch.tensor(self.of_caption)[seen.groups]

    def blocks(self, seen: Seen) -> Int[Tensor, " n"]:
        """What is independent: captions, or what a caption of each group shares; of one such caption its pictures."""
        if self.places is None:
            return seen.groups
        if len(set(self.places)) > 1:
            return torch.tensor(self.places)[seen.groups]
        counts: dict[int, int] = {}
        numbers = []
        for group in seen.groups.tolist():
            numbers.append(counts.get(group, 0))
            counts[group] = counts.get(group, 0) + 1
        return torch.tensor(numbers)

    @property
    def are_named(self) -> bool:
        """Whether a reader may find the group: it must be a word to be found at all."""
        return all(any(letter.isalnum() for letter in name) for name in (*self.names, *self.others))


def parities(base: Seen, adapted: Seen, true: Seen | None, extractor: Extractor, grouping: Grouping) -> list[Parity]:
    """Whatever this extractor can measure."""
    sides = {"base": base, "adapted": adapted} | ({"reference": true} if true is not None and true.names else {})
    found = list[Parity]()
    for name, metric in TABLE.items():
        if not metric.of_caption:
            continue
        values = {which: values_of(name, Compared(seen, None, extractor), grouping) for which, seen in sides.items()}
        means = {which: Means(some, **_how(metric, grouping)) for which, some in values.items() if some is not None}
        if {"base", "adapted"} <= means.keys():
            moved = parity.change(
                means["adapted"], means["base"], Changes(means["adapted"], means["base"]), grouping.names
            )
            own = {which: parity.side(one, grouping.names) for which, one in means.items()}
            found.append(_named(name, extractor, {**own, "change": moved}))
    if true is not None and true.names and extractor.takes_distances and extractor.features is not None:
        found.append(kid_of(base, adapted, true, extractor, grouping))
    return found


def _how(metric: Metric, grouping: Grouping) -> dict[str, bool]:
    return {"is_share": metric.is_share, "is_paired": grouping.places is not None}


def _named(name: str, extractor: Extractor, sides: Mapping[str, Side]) -> Parity:
    return Parity(metric=name, extractor=extractor.name, reference=sides.get("reference"), **_three(sides))


def _three(sides: Mapping[str, Side]) -> dict[str, Side]:
    return {which: sides[which] for which in ("base", "adapted", "change")}


def values_of(name: str, given: Compared, grouping: Grouping) -> list[Float[Tensor, "..."]] | None:
    """The values of each group; None where the metric cannot be measured, or says too little of one of them."""
    metric, seen = TABLE[name], given.pictures
    if metric is GROUP_READ:
        values = group_read(seen, grouping)
    else:
        assert metric.values is not None
        values = metric.values(given) if can_be(metric, given) else None
    if values is None:
        return None
    is_paired = grouping.places is not None
    found = parity.by_group(values, grouping.of(seen), grouping.blocks(seen), is_paired=is_paired)
    return found if min(map(len, found)) >= 2 and len(found) == len(grouping.names) else None


def group_read(seen: Seen, grouping: Grouping) -> Float[Tensor, " n"] | None:
    """1 for a picture of which the reader names its group and no other; None where not every caption names it."""
    if seen.readings is None or not grouping.are_named:
        return None
    everyone = (*grouping.names, *grouping.others)
    own = [grouping.names[number] for number in grouping.of(seen).tolist()]
    if any(named_in(prompt, everyone) != group for prompt, group in zip(seen.prompts, own, strict=True)):
        return None
    hits = [named_in(said, everyone) == group for said, group in zip(seen.readings, own, strict=True)]
    return torch.tensor(hits, dtype=torch.float64)


def kid_of(base: Seen, adapted: Seen, true: Seen, extractor: Extractor, grouping: Grouping) -> Parity:
    """KID of each group's pictures to as many true ones of that group, features scaled alike for all groups."""
    rows = {"base": base, "adapted": adapted}
    scaled = {which: features_of(Compared(seen, true, extractor)) for which, seen in rows.items()}
    of_scale = dataclasses.replace(extractor, is_scaled=True)

    def given(which: str, group: int) -> Compared:
        parts = [
            dataclasses.replace(seen, features=features).rows(_places(grouping.of(seen), group))
            for seen, features in ((rows[which], scaled[which][1]), (true, scaled[which][0]))
        ]
        return Compared(parts[0], parts[1], of_scale)

    def of(which: str) -> Independent:
        def interval(group: int, confidence: float) -> Interval:
            one = given(which, group)
            assert one.reference is not None
            groups = one.reference.groups, one.pictures.groups
            return distances.kid(*features_of(one), *groups, confidence=confidence)

        return Independent(interval)

    def changed(group: int, confidence: float) -> Interval:
        found = change_of(METRICS["kid"], given("adapted", group), given("base", group), confidence)
        assert found is not None
        return found

    measured = {which: of(which) for which in rows}
    sides = {which: parity.side(one, grouping.names, lower_is_better=True) for which, one in measured.items()}
    moved = parity.change(
        measured["adapted"], measured["base"], Independent(changed), grouping.names, lower_is_better=True
    )
    return _named("kid", extractor, {**sides, "change": moved})


def _places(groups: Int[Tensor, " n"], group: int) -> Sequence[int]:
    found: list[int] = (groups == group).nonzero().flatten().tolist()
    return found
