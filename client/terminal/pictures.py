"""Pictures: numbers drawn as SVG files, for light and dark pages."""

import math
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from registry.errors import StorageFailed
from registry.files.durable import new_files

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 60, 50  # around the area of points
TICKS = 5  # numbers at the axis of scores
APART = 40  # least pixels between two numbers at the axis of alpha

STYLE = """
svg { background: var(--page); color: var(--ink); font: 12px system-ui, sans-serif; --page: #fff; --ink: #1f2328; }
@media (prefers-color-scheme: dark) { svg { --page: #0d1117; --ink: #e6edf3; } }
text { fill: var(--ink); }
.title { font-size: 15px; font-weight: 600; }
.name { text-anchor: end; }
.line { stroke: var(--ink); stroke-opacity: 0.2; }
"""
POINTS = """
svg { --point: #86b6f0; --best: #0b5cad; }
@media (prefers-color-scheme: dark) { svg { --point: #2f5f9a; --best: #79b8ff; } }
circle { fill: var(--point); }
.best { fill: var(--best); }
.below { text-anchor: middle; }
"""


def check_place(file: Path) -> None:
    """Check that a picture can be written here, before anything is done that would be in vain.

    Raises:
        StorageFailed: It cannot.
    """
    why = f"the folder {file.parent} does not exist"
    if file.parent.is_dir():
        why = "it is a folder" if file.is_dir() else ""
        if not os.access(file.parent, os.W_OK | os.X_OK):
            why = f"the folder {file.parent} cannot be written to"
    if why:
        raise StorageFailed(f"No picture can be written to {file}: {why}. Name another file.")


def write_picture(file: Path, drawn: str) -> None:
    """Write a picture; a file of this name is replaced."""
    with new_files([file]) as (opened,):
        opened.write(drawn.encode())


def draw_scores(title: str, points: Sequence[tuple[str, float, str]], best: int) -> str:
    """Return scores by alpha as SVG, over a logarithmic axis.

    Args:
        title: What is shown.
        points: At least one: (alpha, score, what is said of it), alpha as a decimal of any sign but 0, whose size
            decides its place.
        best: Which of them is marked.
    """
    scores = [score for _, score, _ in points]
    low, high = min(scores), max(scores)
    ticks = sorted({low + (high - low) * step / (TICKS - 1) for step in range(TICKS)})
    xs = _places([math.log(abs(float(alpha))) for alpha, *_ in points], LEFT, WIDTH - RIGHT)
    ys = _places([*scores, *ticks], HEIGHT - BOTTOM, TOP)
    parts = []
    for score, y in zip(ticks, ys[len(points) :], strict=True):
        parts.append(f'<line class="line" x1="{LEFT - 10}" x2="{WIDTH - RIGHT + 10}" y1="{y:.4g}" y2="{y:.4g}"/>')
        parts.append(text(f"{score:.4g}", LEFT - 16, y + 4, "name"))
    named: list[float] = []
    for number in sorted(range(len(points)), key=lambda number: number != best):  # the best has its alpha in any case
        if all(abs(xs[number] - x) >= APART for x in named):
            named.append(xs[number])
            parts.append(text(points[number][0], xs[number], HEIGHT - BOTTOM + 24, "below"))
    parts.append(text("alpha", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "below"))
    for number in sorted(range(len(points)), key=lambda number: number == best):  # the best lies on top
        look = 'r="6" class="best"' if number == best else 'r="4"'
        said = f"<title>{escape(points[number][2])}</title>"
        parts.append(f'<circle cx="{xs[number]:.4g}" cy="{ys[number]:.4g}" {look}>{said}</circle>')
    return picture(title, HEIGHT, POINTS, parts)


def _places(values: Sequence[float], start: float, stop: float) -> list[float]:
    """Return where values are, the smallest at `start` and the largest at `stop`; the middle if all are the same."""
    low, high = min(values), max(values)
    if low == high:
        return [(start + stop) / 2] * len(values)
    return [start + (stop - start) * (value - low) / (high - low) for value in values]


def picture(title: str, height: float, style: str, parts: Sequence[str]) -> str:
    """Return a picture with a title, WIDTH wide, as SVG."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title" '
            f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}">',
            f'<title id="title">{escape(title)}</title>',
            f"<style>{STYLE}{style}</style>",
            text(title, 16, 28, "title"),
            *parts,
            "</svg>",
            "",
        ]
    )


def text(words: str, x: float, y: float, classes: str) -> str:
    """Return text that begins, ends or has its middle at a place, by its classes."""
    return f'<text class="{classes}" x="{x:.4g}" y="{y:.5g}">{escape(words)}</text>'
