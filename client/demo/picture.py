"""The picture of the demo: the numbers of its table as bars, as an SVG file for light and dark pages."""

import os
from html import escape
from pathlib import Path

from client.demo.report import MEAN, WAYS, DemoOutcome, moved
from registry.errors import StorageFailed

NAME = "crumb-demo"
WIDTH, LEFT, RIGHT = 760, 130, 50  # left and right of the bars are names and numbers
BAR, GAP, TOP = 9, 16, 116
MOST = 1000  # pictures in one folder

STYLE = """
svg { background: var(--page); color: var(--ink); font: 12px system-ui, sans-serif; --page: #fff; --ink: #1f2328;
  --base: #b8bec6; --fine_tuned: #6e7781; --average: #f0b37e; --plain_sum: #c8691c; --composed: #86b6f0;
  --composed_tuned: #0b5cad; }
@media (prefers-color-scheme: dark) { svg { --page: #0d1117; --ink: #e6edf3; --base: #484f58; --fine_tuned: #9aa4af;
  --average: #9a6233; --plain_sum: #f0a45d; --composed: #2f5f9a; --composed_tuned: #79b8ff; } }
text { fill: var(--ink); }
.title { font-size: 15px; font-weight: 600; }
.name { text-anchor: end; }
.mean { font-weight: 600; }
.number { font-size: 9px; }
.line { stroke: var(--ink); stroke-opacity: 0.2; }
"""


def check_writable(folder: Path) -> None:
    """Check that a folder takes a picture, before anything is done that would be in vain.

    Raises:
        StorageFailed: It does not.
    """
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _failed(folder, "it cannot be written to")


def write_picture(outcome: DemoOutcome, folder: Path) -> Path:
    """Write the picture into a folder as crumb-demo.svg, or with a number where there is such a file already.

    Returns:
        The file.

    Raises:
        StorageFailed: The folder cannot be written to.
    """
    text = draw(outcome)
    for number in range(1, MOST + 1):
        path = folder / (f"{NAME}.svg" if number == 1 else f"{NAME}-{number}.svg")
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            continue
        except OSError as why:
            raise _failed(folder, f"{why.strerror or why}") from why
        return path
    raise _failed(folder, f"it holds {MOST} of them")


def _failed(folder: Path, why: str) -> StorageFailed:
    return StorageFailed(
        f"The picture of the demo cannot be written to {folder}: {why}. Run it in another folder, or with --keep DIR."
    )


def draw(outcome: DemoOutcome) -> str:
    """Return the picture as SVG."""
    groups = [*outcome.tasks, MEAN, outcome.digit]
    each = len(WAYS) * BAR + GAP
    height = TOP + len(groups) * each + 30
    title = f"Right answers in %, about {outcome.images['test']} digits that nothing was trained or chosen on"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}">',
        f'<title id="title">{escape(title)}</title>',
        f"<style>{STYLE}</style>",
        _text(title, 16, 28, "title"),
        *_legend(outcome),
    ]
    for percent in (0, 25, 50, 75, 100):
        x, bottom = _across(percent), TOP + len(groups) * each
        parts.append(f'<line class="line" x1="{x:g}" x2="{x:g}" y1="{TOP - 6}" y2="{bottom}"/>')
        parts.append(_text(f"{percent} %", x - 8, bottom + 16, ""))
    for place, question in enumerate(groups):
        top = TOP + place * each
        middle = top + len(WAYS) * BAR / 2 + 4
        parts.append(_text(question, LEFT - 10, middle, "name mean" if question == MEAN else "name"))
        for row, way in enumerate(WAYS):
            value = outcome.accuracy[way][question]
            y, end = top + row * BAR, _across(value)
            parts.append(_box(way, LEFT, y, end - LEFT, BAR - 1))
            parts.append(_text(f"{value:.0f}", end + 4, y + BAR - 1, "number"))
    return "\n".join([*parts, "</svg>", ""])


def _legend(outcome: DemoOutcome) -> list[str]:
    parts, sizes = [], moved(outcome)
    for place, (way, head) in enumerate(WAYS.items()):
        x, y = 16 + (WIDTH - 32) / 3 * (place // 2), 50 + 22 * (place % 2)
        parts.append(_box(way, x, y, 12, 12))
        parts.append(_text(head if way == "base" else f"{head}: {sizes[way]} moved", x + 18, y + 10, ""))
    return parts


def _box(way: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:.4g}" y="{y:g}" width="{width:.4g}" height="{height:g}" style="fill: var(--{way})"/>'


def _text(text: str, x: float, y: float, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.4g}" y="{y:g}">{escape(text)}</text>'


def _across(percent: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * percent / 100
