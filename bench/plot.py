"""A small line plot as SVG, written by hand: no library for four points."""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 60


def line_plot(points: Sequence[tuple[float, float]], *, x: str, y: str) -> str:
    """One line through the points; x is logarithmic (0 stands one decade before the first), y begins at 0."""
    decades = [math.log10(v) for v, _ in points if v > 0] or [1.0]
    first, last = min(decades) - 1, max(decades)
    top = _round_up(max(v for _, v in points) or 1.0)

    def place(value: float, height: float) -> tuple[float, float]:
        at = (math.log10(value) if value > 0 else first) - first
        return (
            LEFT + at / ((last - first) or 1) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - height / top * (HEIGHT - TOP - BOTTOM),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for step in range(5):
        value = top * step / 4
        at = place(0, value)[1]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ccc"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    corners = [place(*point) for point in points]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
    parts.append(f'<polyline points="{path}" fill="none" stroke="#1f77b4" stroke-width="2"/>')
    for (value, height), (a, b) in zip(points, corners, strict=True):
        parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="#1f77b4"/>')
        parts.append(f'<text x="{a:.1f}" y="{b - 10:.1f}" text-anchor="middle">{height:.3g}</text>')
        parts.append(f'<text x="{a:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:,.0f}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{x}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{y}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 or 8 times a power of ten."""
    power = 10 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 4, 5, 8, 10) if n * power >= value)
