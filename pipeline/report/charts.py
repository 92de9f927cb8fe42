"""Curves as inline SVG: no script, no font, no file beside the page."""

import math
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, BOTTOM = 760, 260, 56, 34  # pixels


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
    average = smoothed(ys, max(3, len(ys) // 15))

    def place(step: int, value: float) -> str:
        x = LEFT + (step - xs[0]) / max(1, xs[-1] - xs[0]) * (WIDTH - LEFT - 12)
        y = HEIGHT - BOTTOM - min(value, top) / top * (HEIGHT - BOTTOM - 12)
        return f"{x:.1f},{y:.1f}"

    def line(series: Sequence[float], style: str) -> str:
        joined = " ".join(place(step, value) for step, value in zip(xs, series, strict=True))
        return f'<polyline points="{joined}" fill="none" {style}/>'

    rows = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - 12)
        rows.append(f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        rows.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share * top:.2g}</text>')
    for share in (0.0, 0.5, 1.0):
        step = xs[0] + share * (xs[-1] - xs[0])
        x = LEFT + share * (WIDTH - LEFT - 12)
        anchor = ("start", "middle", "end")[round(share * 2)]
        rows.append(f'<text x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">step {step:.0f}</text>')
    rows.append(line(ys, 'class="faint"'))
    rows.append(line(average, 'class="bold"'))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(rows)}</svg>'
