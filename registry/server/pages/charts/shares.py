"""Bars in pieces: the parts of each of many things."""

from collections.abc import Sequence

from markupsafe import Markup

from registry.server.pages.charts import figures, scales
from registry.server.pages.charts.figures import GAP, MOST, ROW, Drawing, Table, at, join
from registry.server.pages.charts.words import UNIT, one_line, width

PLOT = 380
SERIES = 8  # distinguishable colours; further series are put together


def stacked(
    name: str,
    title: str,
    rows: Sequence[tuple[str, Sequence[float]]],
    series: Sequence[str],
    *,
    unit: str = "",
    normalise: bool = True,
    ordered: bool = False,
    sentence: str = "There are no values to show yet.",
) -> Markup:
    """Draw a bar in pieces for each row.

    Args:
        name: Of the chart, once on a page.
        title: What is shown.
        rows: Labels and a value for each series; what is missing, negative or not finite has no piece. The first 400
            are shown.
        series: What the pieces are. The eighth and all after it are put together where there are more than eight.
        unit: Of the values.
        normalise: Pieces are shares of their row, in percent.
        ordered: The series are steps, such as counts, and have colours of one scale.
        sentence: Shown if there are no rows or series.

    Returns:
        A `<figure>`.
    """
    if not rows or not series:
        return figures.empty(name, title, sentence)
    unit = one_line(unit, UNIT)
    names = list(series) if len(series) <= SERIES else [*series[: SERIES - 1], f"{len(series) - SERIES + 1} others"]
    shown = [(text, _pieces(values, len(series))) for text, values in rows[:MOST]]
    totals = [sum(pieces) for _, pieces in shown]
    axis = scales.linear([100.0] if normalise else totals)
    unit_drawn = "%" if normalise else unit
    colours = [_colour(place, len(names), ordered) for place in range(len(names))]
    twice = len(shown) > 20
    left, top = figures.room_for(text for text, _ in shown) + GAP, 28.0 if twice else 6.0
    right, bottom = left + PLOT, top + ROW * len(shown)
    marks = [figures.grid(axis, left, right, top, bottom, unit=unit_drawn, twice=twice)]
    for place, ((text, pieces), total) in enumerate(zip(shown, totals, strict=True)):
        y = top + ROW * place
        marks.append(figures.label(text, left - GAP, y + 17, left - GAP))
        if not total:
            marks.append(_nothing(text, left, y))
            continue
        before = 0.0
        for piece, series_name, colour in zip(pieces, names, colours, strict=True):
            ends = [PLOT * axis.place(100 * (each / total) if normalise else each) for each in (before, before + piece)]
            before += piece
            value = scales.with_unit(piece, unit) + (f", {_percent(piece / total)}" if normalise else "")
            where = f"{one_line(text)}, {one_line(series_name)}: {value}"
            inside = _percent(piece / total) if normalise else scales.short(piece)
            marks.append(_piece(where, inside, colour, left + ends[0], ends[1] - ends[0], y) if piece else Markup(""))
    drawing = Drawing(right + width(axis.mark(axis.high)) / 2 + 2, bottom + 44, join(marks))
    table = Table(["name", *names], [(text, [scales.exact(piece) for piece in pieces]) for text, pieces in shown])
    notes = figures.cut(len(shown), len(rows), "rows")
    summary = (
        f"{len(shown)} bars in pieces: {', '.join(one_line(each) for each in names)}. The table below has the numbers."
    )
    legend = figures.keys((colour, one_line(each)) for colour, each in zip(colours, names, strict=True))
    return figures.figure(name, title, drawing, table, unit=unit, summary=summary, legend=legend, notes=notes)


def _pieces(values: Sequence[float], count: int) -> list[float]:
    """Return as many pieces as are drawn; the last is the sum of those that have no colour of their own."""
    kept = [scales.near(max(scales.finite(value) or 0, 0)) for value in values[:count]]
    kept += [0] * (count - len(kept))
    return kept if count <= SERIES else [*kept[: SERIES - 1], sum(kept[SERIES - 1 :])]


def _colour(place: int, count: int, ordered: bool) -> str:
    return f"q{round(8 * place / max(count - 1, 1))}" if ordered else f"k{place}"


def _percent(share: float) -> str:
    return f"{scales.short(100 * share, 2)} %" if share < 0.995 else f"{100 * share:.0f} %"


def _piece(where: str, inside: str, colour: str, x: float, length: float, y: float) -> Markup:
    drawn = Markup('<g class="{}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}"/>').format(
        colour, where, at(x), at(y + 2), at(length), ROW - 4
    )
    if length > width(inside) + 6:
        drawn += Markup('<text class="middle" x="{}" y="{}">{}</text>').format(at(x + length / 2), at(y + 17), inside)
    return drawn + Markup("</g>")


def _nothing(text: str, left: float, y: float) -> Markup:
    return Markup('<g><title>{}: none</title>{}<text x="{}" y="{}">none</text></g>').format(
        one_line(text), figures.hatched(left, y + 2, 40, ROW - 4), at(left + 48), at(y + 17)
    )
