"""Curves as inline SVG: no script, no font, no file beside the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 260, 66, 12, 12, 34  # pixels
MAX_TICKS = 6


@dataclass(frozen=True)
class _Frame:
    """Where values lie in the picture."""

    first_step: int | float
    last_step: int | float
    ticks: tuple[float, ...]  # of values, the first and the last at the edges
    x_form: str = "step {:.0f}"

    @property
    def low(self) -> float:
        return self.ticks[0]

    @property
    def high(self) -> float:
        return self.ticks[-1]

    def x(self, step: int | float) -> float:
        return LEFT + (step - self.first_step) / ((self.last_step - self.first_step) or 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return HEIGHT - BOTTOM - (inside - self.low) / (self.high - self.low) * (HEIGHT - BOTTOM - TOP)

    def line(self, steps: Sequence[int | float], values: Sequence[float], style: str) -> str:
        points = " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in zip(steps, values, strict=True))
        return f'<polyline points="{points}" fill="none" class="{style}"/>'

    def grid(self, *, as_change: bool = False) -> list[str]:
        """Lines at the ticks, with their values, in per cent with a sign if they are changes; round steps below."""
        rows = []
        for value in self.ticks:
            y, text = self.y(value), f"{100 * value:+.10g}%" if as_change and value else f"{value:.10g}"
            rows.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            rows.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        inside = [x for x in round_ticks(self.first_step, self.last_step) if self.first_step <= x <= self.last_step]
        for x in inside:
            anchor = "start" if x == self.first_step else "end" if x == self.last_step else "middle"
            label = self.x_form.format(x)
            rows.append(f'<text x="{self.x(x):.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{label}</text>')
        return rows


def round_ticks(low: float | int, high: float | int) -> tuple[float, ...]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, from at or below `low` to at or above `high`; at most 7."""
    least = ((high - low) or abs(high) or 1.0) / (MAX_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(float(f"{number * step:.10g}") for number in range(first, max(last, first + 1) + 1))


def _ticks_of_changes(values: Sequence[float]) -> tuple[float, ...]:
    """Round ticks around relative changes and zero; none is below -100 %, where nothing is left to lose."""
    found = round_ticks(max(-1.0, min(0.0, *values)), max(0.0, *values))
    return tuple(dict.fromkeys(max(-1.0, value) for value in found))


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
    frame = _Frame(xs[0], xs[-1], round_ticks(0.0, top))
    average = smoothed(ys, max(3, len(ys) // 15))
    return _svg(label, [*frame.grid(), frame.line(xs, ys, "faint"), frame.line(xs, average, "bold")])


def changes(series: Mapping[str, Sequence[float]], steps: Sequence[int], marked_step: int, label: str) -> str:
    """Relative changes from the base over steps, one line per name, the first one bold, from zero at step 0."""
    xs = [0, *steps]
    lines = {name: [0.0, *values] for name, values in series.items()}
    values = [value for line in lines.values() for value in line]
    frame = _Frame(0, xs[-1], _ticks_of_changes(values))
    rows = frame.grid(as_change=True)
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
    frame = _Frame(0.0, 1.0, _ticks_of_changes(ends), "noise {:.0%}")
    rows = frame.grid(as_change=True)
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
