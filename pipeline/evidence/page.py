"""docs/evidence.md: the claims, their verdicts and all the numbers, made from the rows."""

from collections.abc import Sequence

from pipeline.config import Run
from pipeline.evidence import verdicts
from pipeline.evidence.claims import Claim, Plan
from pipeline.evidence.measured import MEASURES, NUM_PICTURES, WORK
from pipeline.evidence.rows import Row
from pipeline.evidence.verdicts import Judged

INTRODUCTION = """# Evidence

What the literature claims of adapters, tried on the starter base with this trainer. `python -m pipeline.evidence`
makes this page from [evidence.jsonl](evidence.jsonl), a line for each claim, side and seed; stopped at any time, the
same command goes on. Settings, seeds, margins and the rule below stand in `pipeline/evidence/` and were committed
before the runs.

A verdict says what holds *here*: on a base of {side} x {side} pixels, in {steps} steps of {batch} pictures, at these
settings. It does not say that a claim fails at another size, rate or length.

**The rule.** Each claim compares two kinds of runs that differ in nothing else, with the same {seeds} seeds, and names
beforehand the one measure that decides and the side on which it is expected. It *holds here*, or is *contradicted
here*, where the paired difference is beyond chance at 5 % for all {claims} claims together (Student's t, Holm's
procedure). Else there is *no difference here* where the 95 % interval lies within the margin, else it is *undecided*.
Both sides of a pair were always run by the same code. All arms train at one rate, that of the last table: one that
wants another, as LoRA+, rsLoRA or PiSSA may, is tried at a rate that suits a plain adapter.
"""
SETS = (
    f"Pictures are {NUM_PICTURES} in the new look, of things that no training picture shows, and {NUM_PICTURES} of "
    "captions without its word."
)


def page(plan: Plan, rows: Sequence[Row]) -> str:
    """The page as Markdown."""
    judged = verdicts.judge(plan, rows)
    common = Run().replaced(**plan.common).flat()
    introduction = INTRODUCTION.format(
        side=common["resolution"], steps=common["max_train_steps"], batch=common["train_batch_size"],
        seeds=len(plan.seeds), claims=len(plan.claims),
    )  # fmt: skip
    return "\n".join(
        [
            introduction,
            *_table(judged, len(plan.seeds)),
            "",
            *_measures(),
            "",
            *_details(judged, plan),
            "",
            *_origin(rows),
        ]
    )


def _table(judged: Sequence[Judged], num_seeds: int) -> list[str]:
    lines = ["| claim | source | decided by | control | arm | difference | verdict |", "|---|---|---|---|---|---|---|"]
    for one in judged:
        found, measure = one.effects.get(one.claim.measure), MEASURES[one.claim.measure]
        numbers, unfinished = ("", "", ""), f"{one.verdict}: {one.num_pairs} of {num_seeds} seeds"
        if found is not None:
            numbers = (measure.form.format(found.control), measure.form.format(found.arm), _change(one.claim, found))
        verdict = f"**{one.verdict}**" if one.verdict != verdicts.UNFINISHED else unfinished
        decided = f"{one.claim.expects} {measure.title}"
        lines.append("| " + " | ".join((one.claim.says, one.claim.source, decided, *numbers, verdict)) + " |")
    return lines


def _change(claim: Claim, found: verdicts.Effect, name: str | None = None) -> str:
    form = MEASURES[name or claim.measure].form.replace("{:", "{:+")
    return found.change.text(form)


def _measures() -> list[str]:
    return [SETS, "", *(f"- **{measure.title}**: {measure.says}." for measure in MEASURES.values())]


def _details(judged: Sequence[Judged], plan: Plan) -> list[str]:
    options = ", ".join(f"`{name} = {_plain(value)}`" for name, value in plan.common.items())
    lines = ["## What was run", "", f"All runs: {options}. Seeds {', '.join(map(str, plan.seeds))}.", ""]
    lines += ["| claim | control | arm | margin | other measures: control, arm, difference |", "|---|---|---|---|---|"]
    for one in judged:
        others = [
            f"{MEASURES[name].title}: {MEASURES[name].form.format(found.control)}, "
            f"{MEASURES[name].form.format(found.arm)}, {_change(one.claim, found, name)}"
            for name, found in one.effects.items()
            if name != one.claim.measure
        ]
        sides = [
            ", ".join(f"`{k} = {_plain(v)}`" for k, v in side.items()) or "-"
            for side in (one.claim.control, one.claim.arm)
        ]
        margin = MEASURES[one.claim.measure].form.format(one.claim.margin)
        lines.append("| " + " | ".join((one.claim.name, *sides, margin, "<br>".join(others))) + " |")
    return lines


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(WORK, "outputs/evidence")


def _origin(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["No run yet."]
    codes = {code: sum(row.code == code for row in rows) for code in dict.fromkeys(row.code for row in rows)}
    versions = {", ".join(f"{name} {number}" for name, number in row.versions.items()): None for row in rows}
    seconds = sum(row.seconds for row in rows)
    made = "; ".join(f"{number} with code `{code[:12]}`" for code, number in codes.items())
    return [f"{len(rows)} rows: {made}; {'; '.join(versions)}. {seconds / 60:.0f} minutes of CPU in all."]
