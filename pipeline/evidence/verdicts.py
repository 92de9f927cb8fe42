"""What a claim's rows say of it: paired differences over seeds, and a verdict by a rule that was there before them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.evaluation.statistics import Interval, paired_change, student_within
from pipeline.evidence.claims import SIDES, Claim, Plan
from pipeline.evidence.rows import Row, hash_of

LEVEL = 0.05  # of all claims together
HOLDS, CONTRADICTED, NO_DIFFERENCE, UNDECIDED, UNFINISHED = (
    "holds here",
    "contradicted here",
    "no difference here",
    "undecided",
    "unfinished",
)


@dataclass(frozen=True)
class Effect:
    """A measure in both arms, and how much the arm's differs."""

    control: float  # means over seeds
    arm: float
    change: Interval  # of the arm from the control, seed by seed
    chance: float  # that a difference so far from 0 is none


@dataclass(frozen=True)
class Judged:
    """A claim and what was found."""

    claim: Claim
    verdict: str
    num_pairs: int  # of seeds
    effects: Mapping[str, Effect]  # by measure; none before there are two seeds


def judge(plan: Plan, rows: Sequence[Row]) -> list[Judged]:
    """Every claim of the plan.

    It holds, or is contradicted, where the difference is on the expected side or on the other beyond chance, at 5 %
    for all claims together (Holm 1979). Else there is no difference where its 95 % interval lies within the margin
    on both sides; else it is undecided. A claim whose seeds were not all run is unfinished, and is one of them still.
    """
    effects = {claim.name: effects_of(claim, pairs_of(claim, plan, rows)) for claim in plan.claims}
    finished = [c for c in plan.claims if effects[c.name] and len(pairs_of(c, plan, rows)) == len(plan.seeds)]
    chances = {claim.name: effects[claim.name][claim.measure].chance for claim in finished}
    sure = beyond_chance(chances, len(plan.claims))
    return [
        Judged(
            claim,
            verdict(claim, effects[claim.name][claim.measure], sure=claim.name in sure)
            if claim.name in chances
            else UNFINISHED,
            len(pairs_of(claim, plan, rows)),
            effects[claim.name],
        )
        for claim in plan.claims
    ]


def pairs_of(claim: Claim, plan: Plan, rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Control and arm of each seed that there are both of."""
    common = hash_of(plan.common)
    found = (pair_of(claim, seed, common, rows) for seed in plan.seeds)
    return [pair for pair in found if pair is not None]


def pair_of(claim: Claim, seed: int, common: str, rows: Sequence[Row]) -> tuple[Row, Row] | None:
    """Control and arm of one seed, by the code that made both last; None where no code made both."""
    control, arm = (
        {
            row.code: row
            for row in rows
            if (row.claim, row.side, row.seed, row.common) == (claim.name, side, seed, common)
            and row.settings == claim.settings(side)
        }
        for side in SIDES
    )
    both = [code for code in arm if code in control]
    return (control[both[-1]], arm[both[-1]]) if both else None


def effects_of(claim: Claim, pairs: Sequence[tuple[Row, Row]]) -> dict[str, Effect]:
    """The effect on each of the claim's measures; none of fewer than two pairs."""
    if len(pairs) < 2:
        return {}
    return {
        name: effect(*([pair[side].measured[name] for pair in pairs] for side in (0, 1))) for name in claim.measures
    }


def effect(control: list[float], arm: list[float]) -> Effect:
    """The mean paired difference with Student's interval, and its two-sided p-value (Student's t, one sample)."""
    before, now = (torch.tensor(values, dtype=torch.float64) for values in (control, arm))
    change, error = paired_change(now, before), (now - before).std().item() / len(before) ** 0.5
    t = abs(change.value) / error if error else float("inf") if change.value else 0.0
    return Effect(before.mean().item(), now.mean().item(), change, 1 - student_within(t, len(before) - 1))


def beyond_chance(chances: Mapping[str, float], number: int) -> set[str]:
    """Those of `number` claims that are no chance at LEVEL for all together: Holm's step-down procedure (1979)."""
    found: set[str] = set()
    for place, (name, chance) in enumerate(sorted(chances.items(), key=lambda pair: pair[1])):
        if chance > LEVEL / (number - place):
            break
        found.add(name)
    return found


def verdict(claim: Claim, found: Effect, *, sure: bool) -> str:
    """The verdict by the rule of `judge`."""
    if sure:
        return HOLDS if (found.change.value > 0) == (claim.expects == "higher") else CONTRADICTED
    within = -claim.margin <= found.change.low and found.change.high <= claim.margin
    return NO_DIFFERENCE if within else UNDECIDED
