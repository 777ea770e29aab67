"""Dots on a line: the values of a few things, by many metrics."""

from collections.abc import Sequence

from markupsafe import Markup

from registry.server.pages.charts import figures, scales
from registry.server.pages.charts.figures import GAP, MOST, Drawing, Table, at, join
from registry.server.pages.charts.scales import Axis
from registry.server.pages.charts.words import UNIT, fit, one_line, width

PLOT = 240
BOLD = 1.1  # how much wider that is
SERIES = 8
TALL = 30  # of a row
INSET = 8  # so that dots at both ends are whole


def grouped(
    name: str,
    title: str,
    rows: Sequence[tuple[str, Sequence[float | None]]],
    series: Sequence[str],
    *,
    unit: str = "",
    own_scale: bool = False,
    sentence: str = "Nothing has been measured yet.",
) -> Markup:
    """Draw the values of each row, and a dot for each on a line.

    Args:
        name: Of the chart, once on a page.
        title: What is shown.
        rows: Labels and a value for each series; what is missing or not finite has no dot. The first 400 are shown.
        series: What is compared; the first eight are shown.
        unit: Of the values.
        own_scale: Every row has an axis of its own, as where they are measured in different units.
        sentence: Shown if there are no rows or series.

    Returns:
        A `<figure>`.
    """
    if not rows or not series:
        return figures.empty(name, title, sentence)
    unit = one_line(unit, UNIT)
    names = series[:SERIES]
    shown = [(text, _row(values, len(names))) for text, values in rows[:MOST]]
    known = [value for _, values in shown for value in values if value is not None]
    axis = scales.linear(known, zero=False)
    printed = [["–" if value is None else scales.short(value, 4) for value in values] for _, values in shown]
    tall = TALL + 14 if own_scale else TALL
    top, begin = 30.0, figures.room_for(text for text, _ in shown)
    columns = [
        max(width(fit(each, 96)) * BOLD + 16, *(width(row[place]) for row in printed)) + 2 * GAP
        for place, each in enumerate(names)
    ]
    ends = [begin + sum(columns[: place + 1]) for place in range(len(columns))]
    left = ends[-1] + GAP
    right, bottom = left + PLOT, top + tall * len(shown)
    beside = min(14 / max(len(names) - 1, 1), 4.0)  # up and down, so that equal values are both seen
    marks = [] if own_scale else [figures.grid(axis, left + INSET, right - INSET, top, bottom, unit=unit, twice=False)]
    for place, (each, end) in enumerate(zip(names, ends, strict=True)):
        drawn = fit(each, 96)
        marks.append(dot(place, end - width(drawn) * BOLD - 8, 13, one_line(each)))
        marks.append(Markup('<text class="end strong" x="{}" y="18">{}</text>').format(at(end), drawn))
    for place, ((text, values), numbers) in enumerate(zip(shown, printed, strict=True)):
        y = top + tall * place
        own = scales.linear([value for value in values if value is not None], zero=False) if own_scale else axis
        marks.append(figures.label(text, begin, y + TALL / 2 + 5, begin))
        marks.append(
            _line(own, left, right, y + TALL / 2, ends=own_scale and any(value is not None for value in values))
        )
        for which, value in enumerate(values):
            if value is not None:
                where = f"{one_line(text)}, {one_line(names[which])}: {scales.with_unit(value, unit)}"
                x = left + INSET + (PLOT - 2 * INSET) * own.place(value)
                marks.append(dot(which, x, y + TALL / 2 + beside * (which - (len(names) - 1) / 2), where))
        marks += [
            Markup('<text class="end {}" x="{}" y="{}">{}</text>').format(
                "soft" if values[which] is None else "", at(ends[which]), at(y + TALL / 2 + 5), number
            )
            for which, number in enumerate(numbers)
        ]
    drawing = Drawing(right + 2, bottom + (4 if own_scale else 44), join(marks))
    table = Table(["name", *names], [(text, [scales.exact(value) for value in values]) for text, values in shown])
    notes = [*figures.cut(len(shown), len(rows), "rows"), *figures.cut(len(names), len(series), "columns")]
    if own_scale:
        notes.append("Every line has a scale of its own, whose ends are written below it.")
    summary = f"{len(shown)} rows that compare {', '.join(map(one_line, names))}; the table below has the same numbers."
    return figures.figure(name, title, drawing, table, unit=unit, summary=summary, notes=notes)


def _row(values: Sequence[float | None], count: int) -> list[float | None]:
    kept = [scales.finite(value) for value in values[:count]]
    return kept + [None] * (count - len(kept))


def _line(axis: Axis, left: float, right: float, y: float, *, ends: bool) -> Markup:
    drawn = Markup('<path class="track" d="M{} {}H{}"/>').format(at(left + INSET), at(y), at(right - INSET))
    if ends:
        written = Markup('<text class="small {}" x="{}" y="{}">{}</text>')
        drawn += written.format("", at(left + INSET), at(y + 20), axis.mark(axis.low))
        drawn += written.format("end", at(right - INSET), at(y + 20), axis.mark(axis.high))
    return drawn


def dot(place: int, x: float, y: float, where: str) -> Markup:
    """Draw the mark of a series: its colour and its shape are its own."""
    shapes = (
        "M-6 0A6 6 0 1 0 6 0A6 6 0 1 0 -6 0Z",
        "M-5.5 -5.5H5.5V5.5H-5.5Z",
        "M0 -7.5L7.5 0L0 7.5L-7.5 0Z",
        "M0 -7L7 5.5H-7Z",
    )
    return Markup('<g class="k{}"><title>{}</title><path class="dot" transform="translate({} {})" d="{}"/></g>').format(
        place, where, at(x), at(y), shapes[place % len(shapes)]
    )
