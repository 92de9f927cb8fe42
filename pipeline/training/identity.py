"""Whether a checkpoint belongs to a run, also where an earlier or a later version of this program made it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pipeline


@dataclass(frozen=True)
class Identity:
    """All that must be equal for a resume to be exact, by name.

    `came_later` are the facts that earlier versions did not record, each with what its absence meant;
    `undecided` those of this run that cannot be said yet and differ from nothing.
    """

    facts: dict[str, Any]
    came_later: Mapping[str, Any]
    undecided: frozenset[str] = frozenset()

    def is_of(self, recorded: dict[str, Any]) -> bool:
        """Whether a checkpoint with these recorded facts belongs to the same run."""
        return not self.unknown_in(recorded) and not self.changes_from(recorded)

    def unknown_in(self, recorded: dict[str, Any]) -> list[str]:
        """What is recorded and unknown to this version, a line each: another version may mean something by it."""
        unknown = sorted(recorded.keys() - self.facts.keys())
        known = f"is unknown to this version ({pipeline.__version__})"
        return [f"{name}: {recorded[name]!r} then, which {known}" for name in unknown]

    def changes_from(self, recorded: dict[str, Any]) -> list[str]:
        """What was otherwise when these facts were recorded, a line each."""
        now, found = json.loads(json.dumps(self.facts)), []
        for name in sorted(now.keys() - self.undecided):
            before = recorded.get(name, self.came_later.get(name))
            if before != now[name]:
                is_new = name in self.came_later and name not in recorded
                by = " by a version without this option" if is_new else ""
                found.append(f"{name}: {before!r} then{by}, {now[name]!r} now")
        return found
