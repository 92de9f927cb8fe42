"""Curves as inline SVG: no script, no font, no file beside the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 260, 66, 12, 12, 34  # pixels
GRID_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class _Frame:
    """Where values lie in the picture."""

    first_step: int | float
    last_step: int | float
    low: float
    high: float
    x_form: str = "step {:.0f}"

    def x(self, step: int | float) -> float:
        return LEFT + (step - self.first_step) / ((self.last_step - self.first_step) or 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return HEIGHT - BOTTOM - (inside - self.low) / (self.high - self.low) * (HEIGHT - BOTTOM - TOP)

    def line(self, steps: Sequence[int | float], values: Sequence[float], style: str) -> str:
        points = " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in zip(steps, values, strict=True))
        return f'<polyline points="{points}" fill="none" class="{style}"/>'

    def grid(self, form: str) -> list[str]:
        rows = []
        for share in GRID_SHARES:
            value = self.low + share * (self.high - self.low)
            y = self.y(value)
            rows.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            rows.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{form.format(value)}</text>')
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
            step = self.first_step + share * (self.last_step - self.first_step)
            label = self.x_form.format(step)
            rows.append(f'<text x="{self.x(step):.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{label}</text>')
        return rows


def smoothed(values: Sequence[float], span: int) -> list[float]:
    """A centred moving average over `span` values, shorter at the ends."""
    half = span // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def curve(steps: Sequence[int], values: Sequence[float], label: str) -> str:
    """One quantity over steps: every value faintly, its moving average boldly. Empty without finite values."""
    points = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    if len(points) < 2:
        return ""
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    top = sorted(ys)[max(0, math.ceil(0.99 * len(ys)) - 1)] * 1.1 or 1.0
    frame = _Frame(xs[0], xs[-1], 0.0, top)
    average = smoothed(ys, max(3, len(ys) // 15))
    return _svg(label, [*frame.grid("{:.2g}"), frame.line(xs, ys, "faint"), frame.line(xs, average, "bold")])


def changes(series: Mapping[str, Sequence[float]], steps: Sequence[int], marked_step: int, label: str) -> str:
    """Relative changes from the base over steps, one line per name, the first one bold, from zero at step 0."""
    xs = [0, *steps]
    lines = {name: [0.0, *values] for name, values in series.items()}
    values = [value for line in lines.values() for value in line]
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.01
    frame = _Frame(0, xs[-1], low - margin, high + margin)
    rows = [*frame.grid("{:+.1%}")]
    x = frame.x(marked_step)
    rows.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="mark"/>')
    for number, line in enumerate(lines.values()):
        style = "bold" if number == 0 else "second"
        rows.append(frame.line(xs, line, style))
        rows += [
            f'<circle cx="{frame.x(step):.1f}" cy="{frame.y(value):.1f}" r="3.5" class="dot-{style}"/>'
            for step, value in zip(xs, line, strict=True)
        ]
    return _svg(label, rows)


def by_noise(series: Mapping[str, Sequence[tuple[float, float, float]]], t: Sequence[float], label: str) -> str:
    """Relative changes from the base over noise levels t in [0, 1], (value, low, high) each, with their intervals."""
    ends = [0.0, *(end for line in series.values() for point in line for end in point if math.isfinite(end))]
    margin = 0.08 * (max(ends) - min(ends)) or 0.01
    frame = _Frame(0.0, 1.0, min(ends) - margin, max(ends) + margin, "noise {:.0%}")
    rows = [*frame.grid("{:+.1%}")]
    zero = frame.y(0.0)
    rows.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{zero:.1f}" y2="{zero:.1f}" class="mark"/>')
    for number, line in enumerate(series.values()):
        style, aside = ("bold", -0.004) if number == 0 else ("second", 0.004)
        xs = [value + aside for value in t]
        rows.append(frame.line(xs, [point[0] for point in line], style))
        for x, (value, low, high) in zip([frame.x(value) for value in xs], line, strict=True):
            upper, lower = frame.y(high), frame.y(low)
            rows.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{upper:.1f}" y2="{lower:.1f}" class="bar-{style}"/>')
            rows.append(f'<circle cx="{x:.1f}" cy="{frame.y(value):.1f}" r="3.5" class="dot-{style}"/>')
    return _svg(label, rows)


def _svg(label: str, rows: list[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(rows)}</svg>'
