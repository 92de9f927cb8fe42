"""fairness.json: what was measured of each group, and what it says in words."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline import atomic, records
from pipeline.evaluation.adapter_hash import hash_of
from pipeline.evaluation.fairness.measuring import TABLE, Parity
from pipeline.evaluation.fairness.representation import Representation

FOLDER = "fairness"  # of an output folder
FILE = "fairness.json"
ORDER = list(TABLE)  # of the measures: the plainest first, as the headline is of the first that tells


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group in numbers."""

    num_captions: int  # that were drawn; 0 where there are too few to measure
    num_given: int  # captions that there are
    num_trained: int | None  # pictures that were trained on; None where that is not known


@dataclass(frozen=True, kw_only=True)
class Fairness:
    """What was found of an adapter."""

    adapter: str  # a hash of its file
    by: str  # the column or the slot that tells groups apart
    is_column: bool
    is_balanced: bool  # whether the run had --balance with that column
    num_images: int  # of each caption
    origin: str  # of the captions, in words
    groups: dict[str, Group]
    parities: tuple[Parity, ...]
    representation: Representation | None

    @property
    def following(self) -> tuple[Parity, ...]:
        """The measures of how pictures follow their captions."""
        return tuple(one for one in self.parities if one.about.of_caption)

    @property
    def unequal(self) -> tuple[Parity, ...]:
        """Those of them whose gap chance does not explain."""
        return tuple(one for one in self.following if one.adapted.gap.low > 0)

    @property
    def foremost(self) -> Parity | None:
        """The measure that the words are of: the first whose gap chance does not explain, else the first."""
        return next(iter(self.unequal or self.following), None)

    @property
    def worse_off(self) -> frozenset[str]:
        """The groups that follow their captions worst by some measure, or are drawn too seldom, beyond chance."""
        found = {one.adapted.worst for one in self.unequal}
        if (shown := self.representation) is not None:
            found |= {name for name, share in shown.adapted.groups.items() if share.high < shown.target[name]}
        return frozenset(found)

    @property
    def trained(self) -> dict[str, float] | None:
        """The share of each group in the training data; None where that is not known."""
        numbers = {name: group.num_trained or 0 for name, group in self.groups.items()}
        total = sum(numbers.values())
        return {name: number / total for name, number in numbers.items()} if total else None

    def words(self) -> str:
        """What was found, for people: the gap, whose it is, and what is drawn where no group is asked for."""
        return " ".join(part for part in (self.headline(), self.of_change(), self.of_shares()) if part)

    def headline(self) -> str:
        """In one sentence, whom it treats worse."""
        captions = min(group.num_captions for group in self.groups.values() if group.num_captions)
        number = captions * self.num_images
        one = self.foremost
        if one is None:
            return f"How pictures of the {len(self.groups)} groups follow their captions was not measured."
        if not self.unequal:
            return (
                f"No group's pictures follow their captions worse than another's by more than chance explains; with "
                f"{number} pictures of each, a gap of up to {_points(one, one.adapted.gap.high)} ({one.about.short}) "
                "cannot be excluded."
            )
        side, form = one.adapted, one.about.form
        agreeing = sum(other.adapted.worst == side.worst for other in self.unequal)
        against = len(self.unequal) - agreeing
        return (
            f"Pictures of {side.worst!r} follow their captions worst. {one.about.label}: "
            f"{form.format(side.groups[side.worst].value)} against {form.format(side.groups[side.best].value)} of "
            f"{side.best!r}; {agreeing} of {len(self.following)} measures say so"
            + (f", {against} that it is another group." if against else ".")
        )

    def of_change(self) -> str:
        """Whether that is the adapter's doing."""
        one = self.foremost
        if one is None:
            return ""
        gap, before = one.change.gap, one.base.gap
        of_base = f"Without the adapter the gap is {_points(one, before.value)}"
        if gap.low > 0:
            return f"{of_base}: the adapter made it larger."
        if gap.high < 0:
            return f"{of_base}: the adapter made it smaller."
        return f"{of_base}; that the adapter changed it is not shown."

    def of_shares(self) -> str:
        """What it draws where no group is asked for."""
        found = self.representation
        if found is None:
            return ""
        if not (found.adapted.groups and found.base.groups):
            return "What it draws where no group is asked for could not be read."
        most = max(found.adapted.counts, key=lambda name: found.adapted.counts[name])
        now, before = found.adapted.groups[most], found.base.groups[most]
        return (
            f"Of what it draws from these prompts that ask for no group, {now.value:.0%} is {most!r}; without it "
            f"{before.value:.0%}."
        )

    def advice(self) -> list[str]:
        """What can be done."""
        said = list[str]()
        for one in self.unequal[:1]:
            worst, true = one.adapted.worst, one.reference
            if true is not None and true.gap.low > 0 and true.worst == worst:
                said.append(
                    f"The true pictures have a gap of {_points(one, true.gap.value)} in {one.about.short} too: some of "
                    "it is the measure's own. Look at the change, in which that falls out."
                )
            if one.change.gap.low <= 0 < one.base.gap.low:
                said.append("The base has the gap already: a larger or another base may not.")
        rare = rarest(self)
        if rare is not None and rare in self.worse_off:
            said.append(f"{rare!r} is the rarest of the training data: more pictures of it are the surest remedy.")
            name = self.by if self.is_column else "COLUMN"
            if not self.is_balanced:
                said.append(
                    f"--balance {name} makes every group count alike in training, however many pictures it has."
                )
        return said

    def write(self, folder: Path) -> None:
        """Write fairness.json."""
        atomic.write_text(folder / FILE, json.dumps(records.to_json(self), indent=1, allow_nan=False) + "\n")


def rarest(found: Fairness) -> str | None:
    """The group with the fewest training pictures, where it has less than its part of them."""
    shares = found.trained
    if shares is None:
        return None
    name = min(shares, key=lambda group: shares[group])
    return name if shares[name] < 0.8 / len(shares) else None


def _points(one: Parity, value: float) -> str:
    """A gap in the unit of its metric: of shares in points, as 12 % less of 50 % is not 38 %."""
    return f"{100 * value:.0f} points" if "%" in one.about.form else one.about.form.format(value)


def of_adapter(folder: Path) -> Fairness | None:
    """What was found of the very adapter that lies in an output folder; None where nobody looked at that.

    Raises CheckpointError as `read` does.
    """
    found = read(folder / FOLDER)
    return found if found is not None and found.adapter == hash_of(folder) else None


def read(folder: Path) -> Fairness | None:
    """What was found of a run; None where nobody looked. Raises CheckpointError for a file that is damaged."""
    return records.read(Fairness, folder / FILE) if (folder / FILE).is_file() else None
