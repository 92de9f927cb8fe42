"""What is claimed, and which two kinds of runs tell: claims.toml, read strictly."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import records
from pipeline.errors import ConfigError
from pipeline.evidence.measured import MEASURES

FILE = Path(__file__).parent / "claims.toml"
CONTROL, ARM = SIDES = ("control", "arm")
EXPECTED = ("lower", "higher")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of the literature, and how it is tried."""

    name: str
    says: str
    source: str
    measure: str  # of MEASURES: what decides
    expects: str  # of EXPECTED: what the arm has, if the claim holds
    margin: float  # differences within are none
    also: tuple[str, ...] = ()  # further measures that the page shows
    control: dict[str, Any]  # options beside the common ones, by their flags' names
    arm: dict[str, Any]

    @property
    def measures(self) -> tuple[str, ...]:
        """All that is looked at."""
        return self.measure, *self.also

    def settings(self, side: str) -> dict[str, Any]:
        """The options of a side."""
        return self.control if side == CONTROL else self.arm


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All claims, and what their runs share."""

    seeds: tuple[int, ...]
    common: dict[str, Any]
    claims: tuple[Claim, ...]

    def trials(self) -> Iterator[tuple[Claim, str, int]]:
        """Claim, side and seed of every row: all claims with one seed, then with the next."""
        return ((claim, side, seed) for seed in self.seeds for claim in self.claims for side in SIDES)


def read(path: Path = FILE) -> Plan:
    """The claims of a file. Raises ConfigError with all that is wrong in it."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}.") from error
    tables = [{"control": {}, "arm": {}} | table for table in found.get("claim", ())]
    claims = tuple(
        records.from_json(Claim, table, f"{path}, claim {number}") for number, table in enumerate(tables, start=1)
    )
    names = [claim.name for claim in claims]
    problems = [f"{path}: {name} stands there twice." for name in sorted({n for n in names if names.count(n) > 1})]
    problems += [
        f"{path}: {claim.name} measures {measure}, and there is {', '.join(MEASURES)}."
        for claim in claims
        for measure in claim.measures
        if measure not in MEASURES
    ]
    problems += [
        f"{path}: {claim.name} expects {claim.expects}, and that is {' or '.join(EXPECTED)}."
        for claim in claims
        if claim.expects not in EXPECTED
    ]
    problems += [f"{path}: {claim.name} compares equal runs." for claim in claims if claim.control == claim.arm]
    if problems:
        raise ConfigError("\n".join(problems))
    return Plan(seeds=tuple(found["seeds"]), common=found["common"], claims=claims)
