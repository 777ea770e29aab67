"""A matrix as coloured cells: what every row has with every column."""

import math
from collections.abc import Sequence
from functools import partial

from markupsafe import Markup

from registry.server.pages.charts import figures, scales
from registry.server.pages.charts.figures import GAP, MOST, Drawing, Table, at, join
from registry.server.pages.charts.words import UNIT, fit, one_line, width

SIDE = 64  # of the largest square; fewer columns leave room for more rows
PRINTED = 16  # columns; with more, values are shown on hover only
SHADES = 9
TILTED = 150  # most that a name above a column may take
_TILT = math.sqrt(0.5)  # of that, in height and in width


def matrix(
    name: str,
    title: str,
    labels_rows: Sequence[str],
    labels_columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    unit: str = "",
    diverging: bool = False,
    low: float | None = None,
    high: float | None = None,
    links: Sequence[str | None] = (),
    cell_links: Sequence[Sequence[str | None]] = (),
    digits: int = 2,
    sentence: str = "There is nothing to compare yet.",
) -> Markup:
    """Draw a matrix.

    Args:
        name: Of the chart, once on a page.
        title: What is shown.
        labels_rows: Of shape (rows).
        labels_columns: Of shape (columns).
        values: Of shape (rows, columns); what is missing or not finite is hatched. 4,096 cells are shown: 64 columns at
            most, and 64 rows or, where there are fewer columns, up to 400.
        unit: Of the values.
        diverging: Colours are of two kinds, for values on either side of zero, and alike at the same distance.
        low: The value of the first colour; zero, or the least value if that is negative.
        high: The value of the last; zero, or the greatest value if that is positive.
        links: Where rows lead, on this server.
        cell_links: Where cells lead, of the shape of the values; by the mouse alone, as there are many: the page lists
            the same links.
        digits: Decimals of the values in the cells.
        sentence: Shown if there are no cells.

    Returns:
        A `<figure>`.
    """
    columns = [one_line(text) for text in labels_columns[:SIDE]]
    rows = [one_line(text) for text in labels_rows[: min(SIDE * SIDE // max(len(columns), 1), MOST)]]
    if not rows or not columns:
        return figures.empty(name, title, sentence)
    unit = one_line(unit, UNIT)
    cells = [_row(values[place] if place < len(values) else (), len(columns)) for place in range(len(rows))]
    known = [value for row in cells for value in row if value is not None]
    low, high = _ends(known, low, high, diverging)
    coarse = max(map(abs, known), default=0) >= 10**-digits  # else decimals would say nothing of any
    write = partial(scales.fixed if coarse else scales.short, digits=digits)
    printed = [["" if value is None else write(value) for value in row] for row in cells]
    inside = len(columns) <= PRINTED
    wide = max(max(width(text) for row in printed for text in row) + 12, 34.0) if inside else 20.0
    tall = 28.0 if inside else 20.0
    tilted = figures.room_for(columns, TILTED)
    flat = tilted <= wide - 6
    left, top = figures.room_for(rows) + GAP, 26.0 if flat else tilted * _TILT + 24
    right = left + wide * len(columns)
    hrefs = figures.addresses(links, len(rows))
    leads = [
        figures.addresses(cell_links[place] if place < len(cell_links) else (), len(row))
        for place, row in enumerate(cells)
    ]
    marks = [_heading(text, left + wide * place, top, wide, flat) for place, text in enumerate(columns)]
    letter = "d" if diverging else "q"
    for place, (text, row) in enumerate(zip(rows, cells, strict=True)):
        y = top + tall * place
        marks.append(figures.label(text, left - GAP, y + tall / 2 + 5, left - GAP, href=hrefs[place]))
        for column, value in enumerate(row):
            where = f"{text} × {columns[column]}: {scales.with_unit(value, unit)}"
            colour = None if value is None else f"{letter}{_shade(value, low, high)}"
            drawn = printed[place][column] if inside else ""
            cell = _cell(colour, where, drawn, left + wide * column, y, wide, tall)
            href = leads[place][column]
            marks.append(cell if href is None else Markup('<a href="{}" tabindex="-1">{}</a>').format(href, cell))
    drawing = Drawing(
        right + (2 if flat else tilted * _TILT + 8),
        top + tall * len(rows) + 2,
        join(marks),
        linked=any(hrefs) or any(map(any, leads)),
    )
    table = Table(
        ["", *columns], [(rows[place], [scales.exact(value) for value in row]) for place, row in enumerate(cells)]
    )
    return figures.figure(
        name,
        title,
        drawing,
        table,
        unit=unit,
        summary=_summary(len(rows), len(columns), known, unit),
        legend=_legend(letter, low, high, unit, missing=len(known) < len(rows) * len(columns)),
        notes=[
            *figures.cut(len(rows), len(labels_rows), "rows"),
            *figures.cut(len(columns), len(labels_columns), "columns"),
        ],
    )


def _row(values: Sequence[float | None], count: int) -> list[float | None]:
    kept = [scales.finite(value) for value in values[:count]]
    return kept + [None] * (count - len(kept))


def _ends(known: Sequence[float], low: float | None, high: float | None, diverging: bool) -> tuple[float, float]:
    """Return the values of the first and the last colour; the last is greater."""
    low, high = scales.finite(low), scales.finite(high)
    low = min([*known, 0.0]) if low is None else low
    high = max([*known, 0.0]) if high is None else high
    low, high = scales.near(low), scales.near(high)
    if diverging:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def _shade(value: float, low: float, high: float) -> int:
    share = (min(max(value, low), high) - low) / (high - low)
    return min(int(share * SHADES), SHADES - 1)


def _heading(text: str, x: float, top: float, wide: float, flat: bool) -> Markup:
    """Draw the name of a column, tilted where it is longer than the column is wide."""
    if flat:
        return Markup('<text class="middle" x="{}" y="{}">{}</text>').format(at(x + wide / 2), at(top - 8), text)
    place = f"{at(x + wide / 2 + 3)} {at(top - 7)}"
    return Markup('<text transform="translate({}) rotate(-45)"><title>{}</title>{}</text>').format(
        place, text, fit(text, TILTED)
    )


def _cell(colour: str | None, where: str, printed: str, x: float, y: float, wide: float, tall: float) -> Markup:
    if colour is None:
        return Markup('<g class="na"><title>{}</title>{}</g>').format(where, figures.hatched(x, y, wide, tall))
    drawn = Markup('<g class="{}"><title>{}</title><rect class="cell" x="{}" y="{}" width="{}" height="{}"/>').format(
        colour, where, at(x), at(y), at(wide), at(tall)
    )
    if printed:
        drawn += Markup('<text class="middle" x="{}" y="{}">{}</text>').format(
            at(x + wide / 2), at(y + tall / 2 + 5), printed
        )
    return drawn + Markup("</g>")


def _legend(letter: str, low: float, high: float, unit: str, *, missing: bool) -> Markup:
    ends = [scales.brief(end, unit) for end in (low, high)]
    shades = join(Markup('<span class="key {}{}"></span>').format(letter, shade) for shade in range(SHADES))
    gap = Markup('<li><span class="key na"></span> no value</li>') if missing else Markup("")
    return Markup('<ul class="chart-legend"><li>{} <span class="ramp">{}</span> {}</li>{}</ul>').format(
        ends[0], shades, ends[1], gap
    )


def _summary(rows: int, columns: int, known: Sequence[float], unit: str) -> str:
    if not known:
        return f"A matrix of {rows} rows and {columns} columns without any value."
    return (
        f"A matrix of {rows} rows and {columns} columns, from {scales.with_unit(min(known), unit)} to "
        f"{scales.with_unit(max(known), unit)}; the table below has the same numbers."
    )
