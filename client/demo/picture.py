"""The picture of the demo: the numbers of its table as bars, as an SVG file."""

import os
from pathlib import Path

from client.demo.report import MEAN, WAYS, DemoOutcome, moved
from client.terminal.pictures import WIDTH, picture, text
from registry.errors import StorageFailed

NAME = "crumb-demo"
LEFT, RIGHT = 130, 50  # left and right of the bars are names and numbers
BAR, GAP, TOP = 9, 16, 116
MOST = 1000  # pictures in one folder

STYLE = """
svg { --base: #b8bec6; --fine_tuned: #6e7781; --average: #f0b37e; --plain_sum: #c8691c; --composed: #86b6f0;
  --composed_tuned: #0b5cad; }
@media (prefers-color-scheme: dark) { svg { --base: #484f58; --fine_tuned: #9aa4af; --average: #9a6233;
  --plain_sum: #f0a45d; --composed: #2f5f9a; --composed_tuned: #79b8ff; } }
.mean { font-weight: 600; }
.number { font-size: 9px; }
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
    drawn = draw(outcome)
    for number in range(1, MOST + 1):
        path = folder / (f"{NAME}.svg" if number == 1 else f"{NAME}-{number}.svg")
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(drawn)
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
    parts = _legend(outcome)
    for percent in (0, 25, 50, 75, 100):
        x, bottom = _across(percent), TOP + len(groups) * each
        parts.append(f'<line class="line" x1="{x:g}" x2="{x:g}" y1="{TOP - 6}" y2="{bottom}"/>')
        parts.append(text(f"{percent} %", x - 8, bottom + 16, ""))
    for place, question in enumerate(groups):
        top = TOP + place * each
        middle = top + len(WAYS) * BAR / 2 + 4
        parts.append(text(question, LEFT - 10, middle, "name mean" if question == MEAN else "name"))
        for row, way in enumerate(WAYS):
            value = outcome.accuracy[way][question]
            y, end = top + row * BAR, _across(value)
            parts.append(_box(way, LEFT, y, end - LEFT, BAR - 1))
            parts.append(text(f"{value:.0f}", end + 4, y + BAR - 1, "number"))
    return picture(title, height, STYLE, parts)


def _legend(outcome: DemoOutcome) -> list[str]:
    parts, sizes = [], moved(outcome)
    for place, (way, head) in enumerate(WAYS.items()):
        x, y = 16 + (WIDTH - 32) / 3 * (place // 2), 50 + 22 * (place % 2)
        parts.append(_box(way, x, y, 12, 12))
        parts.append(text(head if way == "base" else f"{head}: {sizes[way]} moved", x + 18, y + 10, ""))
    return parts


def _box(way: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:.4g}" y="{y:g}" width="{width:.4g}" height="{height:g}" style="fill: var(--{way})"/>'


def _across(percent: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * percent / 100
