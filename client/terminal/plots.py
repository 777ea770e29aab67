"""Plots in text: points over a logarithmic axis."""

import math
from collections.abc import Sequence

WIDTH, HEIGHT = 60, 10  # characters and lines of the area of points
MARK, BEST = "o", "*"


def plot_log(points: Sequence[tuple[str, float]], best: int) -> str:
    """Return points as lines of text, with numbers at both axes.

    Args:
        points: At least one: (x, y), x as a decimal of any sign but 0, whose size decides its place.
        best: Which of them gets a mark of its own.
    """
    sizes = [math.log(abs(float(x))) for x, _ in points]
    columns = [_place(size, sizes, WIDTH) for size in sizes]
    heights = [y for _, y in points]
    rows = [HEIGHT - 1 - _place(y, heights, HEIGHT) for y in heights]
    area = [[" "] * WIDTH for _ in range(HEIGHT)]
    for column, row in zip(columns, rows, strict=True):
        area[row][column] = MARK
    area[rows[best]][columns[best]] = BEST
    ticks = {min(rows): max(heights), max(rows): min(heights), rows[best]: heights[best]}
    margin = max(len(f"{y:.6g}") for y in ticks.values())
    lines = [
        f"{f'{ticks[row]:.6g}' if row in ticks else '':>{margin}} | {''.join(cells)}".rstrip()
        for row, cells in enumerate(area)
    ]
    order = sorted(range(len(points)), key=lambda place: (place != best, columns[place] not in (0, WIDTH - 1)))
    labels = _labels([(columns[place], points[place][0]) for place in order])
    return "\n".join([*lines, f"{'':>{margin}} +{'-' * (WIDTH + 1)}", f"{'':>{margin}}   {labels}".rstrip()])


def _place(value: float, values: Sequence[float], count: int) -> int:
    """Return the place of a value among `count` from the smallest to the largest; the middle if all are the same."""
    low, high = min(values), max(values)
    return count // 2 if low == high else round((count - 1) * (value - low) / (high - low))


def _labels(wanted: Sequence[tuple[int, str]]) -> str:
    """Return labels in a line, each about its column; where two do not fit, the first one stays."""
    line = " " * (WIDTH + 8)
    for column, text in wanted:
        start = max(0, column - len(text) // 2)
        if not line[max(0, start - 1) : start + len(text) + 1].strip():
            line = line[:start] + text + line[start + len(text) :]
    return line.rstrip()
