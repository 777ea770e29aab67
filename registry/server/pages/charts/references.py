"""Dots against reference lines: the values of a few things by many metrics, beside what they are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from registry.server.pages.charts import figures, scales
from registry.server.pages.charts.dots import INSET, SERIES, dot
from registry.server.pages.charts.figures import GAP, MOST, Drawing, Table, at, join
from registry.server.pages.charts.words import fit, one_line, width

PLOT = 460
TALL = 60  # of a row: names of lines, the lines, the ends of its scale
LINE = 22  # of a reference line
LINES = 12  # most of them
NAME = 60  # most that the name of a line takes
SMALL = 11.5 / 13  # size of small type, as in charts.css


@dataclass(frozen=True)
class Row:
    """One metric: a name, the values that are dots, and those that are lines; None where there is no value."""

    name: str
    dots: Sequence[float | None]
    lines: Sequence[float | None]


def referenced(
    name: str,
    title: str,
    rows: Sequence[Row],
    dots: Sequence[str],
    lines: Sequence[str],
    *,
    sentence: str = "Nothing has been measured yet.",
) -> Markup:
    """Draw each row on a scale of its own: dots, and lines for what they are compared with, the first one dashed.

    Args:
        name: Of the chart, once on a page.
        title: What is shown.
        rows: The metrics; the first 400 are shown.
        dots: What is compared; the first eight are shown.
        lines: What it is compared with; the first twelve are shown.
        sentence: Shown if there are no rows.

    Returns:
        A `<figure>`.
    """
    if not rows:
        return figures.empty(name, title, sentence)
    dots_shown, lines_shown = dots[:SERIES], lines[:LINES]
    shown = [
        Row(row.name, _finite(row.dots, len(dots_shown)), _finite(row.lines, len(lines_shown))) for row in rows[:MOST]
    ]
    begin = figures.room_for(row.name for row in shown)
    marks = [_row(row, dots_shown, lines_shown, begin, TALL * place) for place, row in enumerate(shown)]
    drawing = Drawing(begin + GAP + PLOT + NAME / 2, TALL * len(shown) + 4, join(marks))
    cells = [(row.name, list(map(scales.exact, (*row.lines, *row.dots)))) for row in shown]
    table = Table(["name", *lines_shown, *dots_shown], cells)
    notes = [
        *figures.cut(len(shown), len(rows), "rows"),
        *figures.cut(len(dots_shown), len(dots), "dots of a row"),
        *figures.cut(len(lines_shown), len(lines), "lines of a row"),
        "Every row has a scale of its own, whose ends are written below it.",
    ]
    compared = ", ".join(map(one_line, (*lines_shown, *dots_shown)))
    summary = f"{len(shown)} rows that compare {compared}; the table below has the same numbers."
    keys = [(_line_class(place), one_line(each)) for place, each in enumerate(lines_shown)]
    keys += [(f"k{place}", one_line(each)) for place, each in enumerate(dots_shown)]
    return figures.figure(name, title, drawing, table, summary=summary, legend=figures.keys(keys), notes=notes)


def _finite(values: Sequence[float | None], count: int) -> list[float | None]:
    kept = [scales.finite(value) for value in values[:count]]
    return kept + [None] * (count - len(kept))


def _line_class(place: int) -> str:
    return "reference" if place else "reference reference-first"


def _row(row: Row, dots: Sequence[str], lines: Sequence[str], begin: float, top: float) -> Markup:
    axis = scales.linear([value for value in (*row.dots, *row.lines) if value is not None], zero=False)
    low, high = begin + GAP + INSET, begin + GAP + PLOT - INSET
    y = top + 30
    marks = [figures.label(row.name, begin, y + 5, begin)]
    marks.append(Markup('<path class="track" d="M{} {}H{}"/>').format(at(low), at(y), at(high)))
    if any(value is not None for value in (*row.dots, *row.lines)):
        marks += [_small(axis.mark(axis.low), low, y + 24, ""), _small(axis.mark(axis.high), high, y + 24, "end")]
    free = low - NAME / 2  # where the next name of a line may begin
    for value, place in sorted((value, place) for place, value in enumerate(row.lines) if value is not None):
        x = low + (high - low) * axis.place(value)
        where = f"{one_line(row.name)}, {one_line(lines[place])}: {scales.exact(value)}"
        mark = Markup('<g><title>{}</title><path class="{}" d="M{} {}V{}"/></g>')
        marks.append(mark.format(where, _line_class(place), at(x), at(y - LINE / 2), at(y + LINE / 2)))
        name = fit(lines[place], NAME)
        half = SMALL * width(name) / 2
        if free <= x - half:  # names of lines that are close to each other are shown on hover
            marks.append(_small(name, x, y - 16, "middle"))
            free = x + half + GAP
    beside = min(10 / max(len(dots) - 1, 1), 4.0)  # up and down, so that equal values are both seen
    for place, found in enumerate(row.dots):
        if found is not None:
            where = f"{one_line(row.name)}, {one_line(dots[place])}: {scales.exact(found)}"
            x = low + (high - low) * axis.place(found)
            marks.append(dot(place, x, y + beside * (place - (len(dots) - 1) / 2), where))
    return join(marks)


def _small(text: str, x: float, y: float, anchor: str) -> Markup:
    return Markup('<text class="small {}" x="{}" y="{}">{}</text>').format(anchor, at(x), at(y), text)
