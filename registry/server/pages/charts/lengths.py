"""Bars from left to right: one number for each of many things."""

from collections.abc import Collection, Sequence

from markupsafe import Markup

from registry.server.pages.charts import figures, scales
from registry.server.pages.charts.figures import GAP, MOST, ROW, Drawing, Table, at, join
from registry.server.pages.charts.scales import Axis
from registry.server.pages.charts.words import UNIT, one_line, width

PLOT = 300
BESIDE = 160  # labels that are longer stand above their bars, so that the drawing is not too wide
BOLD = 1.1  # how much wider that is


def bars(
    name: str,
    title: str,
    items: Sequence[tuple[str, float | None]],
    *,
    unit: str = "",
    x_label: str = "",
    log: bool = False,
    highlight: Collection[str] = frozenset(),
    links: Sequence[str | None] = (),
    sentence: str = "There are no values to show yet.",
) -> Markup:
    """Draw a bar for each item, in the order given.

    Args:
        name: Of the chart, once on a page.
        title: What is shown.
        items: Labels and values; what is missing or not finite is drawn as such. The first 400 are shown.
        unit: Of the values.
        x_label: What the values are.
        log: By decades; values that are not above zero have no bar then.
        highlight: Labels of bars that stand out.
        links: Where labels lead, on this server; in the order of the items.
        sentence: Shown if there are no items.

    Returns:
        A `<figure>`.
    """
    if not items:
        return figures.empty(name, title, sentence)
    unit = one_line(unit, UNIT)
    shown = [(text, scales.finite(value)) for text, value in items[:MOST]]
    values = [value for _, value in shown if value is not None]
    axis = scales.logarithmic(values) if log else scales.linear(values)
    printed = [_printed(value, unit) for _, value in shown]
    twice = len(shown) > 20
    longest = figures.room_for(text for text, _ in shown) * BOLD
    above = longest > BESIDE
    left, top = (22.0 if above else longest + GAP), (28.0 if twice else 6.0)
    tall = ROW + 18 if above else ROW
    whole = left + PLOT + GAP + max(map(width, printed)) * BOLD
    bottom = top + tall * len(shown)
    measure = f"{x_label} ({unit})" if x_label and unit else x_label or unit
    hrefs = figures.addresses(links, len(shown))
    marks = [figures.grid(axis, left, left + PLOT, top, bottom, unit=measure, twice=twice)]
    for place, ((text, value), number) in enumerate(zip(shown, printed, strict=True)):
        y, strong = top + tall * place, "strong" if text in highlight else ""
        marks.append(Markup("<g><title>{}: {}</title>").format(one_line(text), scales.with_unit(value, unit)))
        if above:
            room = (whole - left) / BOLD
            marks.append(figures.label(text, left, y + 17, room, classes=strong, href=hrefs[place]))
        else:
            marks.append(figures.label(text, longest, y + 17, longest, classes=f"end {strong}", href=hrefs[place]))
        y += tall - ROW
        marks.append(_bar(value, axis, left, y, strong))
        marks.append(
            Markup('<text class="end {}" x="{}" y="{}">{}</text></g>').format(strong, at(whole), at(y + 17), number)
        )
    drawing = Drawing(whole + 2, bottom + 44, join(marks), linked=any(hrefs))
    table = Table(["name", measure or "value"], [(text, [scales.exact(value)]) for text, value in shown])
    notes = figures.cut(len(shown), len(items), "bars")
    if log and any(value <= 0 for value in values):
        notes += ["What is not above zero has no bar on this axis of decades."]
    return figures.figure(
        name, title, drawing, table, unit=unit, notes=notes, summary=_summary(len(shown), values, unit)
    )


def _printed(value: float | None, unit: str) -> str:
    if value is None:
        return "no value"
    return scales.brief(value, unit if len(unit) <= 3 else "")


def _bar(value: float | None, axis: Axis, left: float, y: float, strong: str) -> Markup:
    origin = left + PLOT * axis.place(0)
    if value is None:
        return figures.hatched(min(origin, left + PLOT - 40), y + 4, 40, ROW - 8)
    if not value or (axis.log and value < 0):
        return Markup("")
    end = left + PLOT * axis.place(value)
    return Markup('<rect class="bar {}" x="{}" y="{}" width="{}" height="{}"/>').format(
        strong, at(min(origin, end)), at(y + 4), at(max(abs(end - origin), 1.0)), ROW - 8
    )


def _summary(count: int, values: Sequence[float], unit: str) -> str:
    if not values:
        return f"{count} bars, all without a value."
    return (
        f"{count} bars, from {scales.with_unit(min(values), unit)} to {scales.with_unit(max(values), unit)}; "
        "the table below has the same numbers."
    )
