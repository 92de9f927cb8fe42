"""Draws docs/forgetting.svg from docs/evidence.jsonl: what each setting learns, and what it does to everything else.

Run it after python -m pipeline.evidence.
"""

import html
from pathlib import Path

import torch

from pipeline.evaluation.statistics import Interval, mean_of
from pipeline.evidence import claims, rows, verdicts
from pipeline.evidence.claims import ARM, CONTROL, SIDES
from pipeline.evidence.measured import MEASURES

DOCS = Path(__file__).parent
ARMS = (  # as the figure calls them: claim and side
    ("rank 4", "rank-forgets", ARM),
    ("rank 16", "preservation", CONTROL),
    ("rank 64", "rank-forgets", CONTROL),
    ("rank 16, --preservation_weight 1", "preservation", ARM),
    ("rank 16, --with_prior_preservation", "prior", ARM),
)
COLUMNS = ("moved", "kept", "kid", "late")
SAYS = {
    "moved": ("moved without the word", "lower keeps more"),
    "kept": ("subject still recognised", "change; higher keeps more"),
    "kid": ("distance to the new look (KID)", "lower learns more"),
    "late": ("held-out loss, of the base's", "lower learns more"),
}
LEFT, TOP, WIDTH, ROW = 232, 46, 176, 38


def main() -> None:
    """Write the figure."""
    plan, found = claims.read(), rows.read(DOCS / "evidence.jsonl")
    claim_of = {claim.name: claim for claim in plan.claims}
    values = {
        (label, measure): over_seeds(
            [pair[SIDES.index(side)].measured[measure] for pair in verdicts.pairs_of(claim_of[name], plan, found)]
        )
        for label, name, side in ARMS
        for measure in COLUMNS
    }
    (DOCS / "forgetting.svg").write_text(drawn(values, len(plan.seeds)), encoding="utf-8")


def over_seeds(values: list[float]) -> Interval:
    """The mean with its interval."""
    return mean_of(torch.tensor(values, dtype=torch.float64))


def drawn(values: dict[tuple[str, str], Interval], num_seeds: int) -> str:
    """A row for each setting, a column for each measure."""
    width, height = LEFT + len(COLUMNS) * WIDTH, TOP + len(ARMS) * ROW + 26
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for column, measure in enumerate(COLUMNS):
        x, (title, better) = LEFT + column * WIDTH, SAYS[measure]
        parts.append(f'<text x="{x + 4}" y="18" font-weight="bold" font-size="10">{title}</text>')
        parts.append(f'<text x="{x + 4}" y="32" fill="#555">{better}</text>')
        shown = [values[label, measure] for label, _, _ in ARMS]
        low, high = min(0.0, *(one.low for one in shown)), max(0.0, *(one.high for one in shown))
        for place, one in enumerate(shown):
            parts.append(bar(one, (x + 4, TOP + place * ROW), (low, high), MEASURES[measure].form))
    for place, (label, _, _) in enumerate(ARMS):
        parts.append(f'<text x="8" y="{TOP + place * ROW + 20}">{html.escape(label)}</text>')
    says = f"Means of {num_seeds} seeds; lines are 95 % intervals over seeds."
    parts.append(f'<text x="8" y="{height - 8}" fill="#555">{says}</text></svg>')
    return "\n".join(parts) + "\n"


def bar(one: Interval, corner: tuple[float, float], ends: tuple[float, float], form: str) -> str:
    """A bar from 0 with its interval and its number."""
    (left, top), (low, high) = corner, ends
    room = WIDTH - 58

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * room

    start, end, middle = *sorted((at(0), at(one.value))), top + 16
    label = max(at(one.high), at(0)) + 4
    return (
        f'<rect x="{start:.1f}" y="{top + 8}" width="{end - start:.1f}" height="16" fill="#0f8fa8" opacity="0.35"/>'
        f'<line x1="{at(one.low):.1f}" x2="{at(one.high):.1f}" y1="{middle}" y2="{middle}" stroke="#c2307f" '
        f'stroke-width="2"/><line x1="{at(0):.1f}" x2="{at(0):.1f}" y1="{top}" y2="{top + ROW - 6}" stroke="#999"/>'
        f'<text x="{label:.1f}" y="{top + 20}">{form.format(one.value)}</text>'
    )


if __name__ == "__main__":
    main()
