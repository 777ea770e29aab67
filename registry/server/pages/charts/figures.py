"""Figures: what all charts share, that is the title, the drawing that scales or scrolls, and the table below."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from registry.server.pages.charts.scales import Axis
from registry.server.pages.charts.words import address, fit, one_line, slug, width

ROW, GAP = 24, 10  # height of a line of a chart; what is left between two things
LABELS = 210  # most that labels on the left may take
MOST = 400  # lines that a chart draws
WIDEST = 500  # a drawing that is wider scrolls where there is less room than
_LEAST = (480, 640, 800, 1000, 1200, 1600, 2000)  # of these, as in charts.css


@dataclass(frozen=True)
class Drawing:
    """Marks, and the width and height that they take, in units that are CSS pixels where there is room."""

    width: float
    height: float
    marks: Markup
    linked: bool = False


@dataclass(frozen=True)
class Table:
    """The numbers of a drawing: the names of columns, and rows of a name and cells, which are short.

    Cells are numbers, unless they are `words`.
    """

    head: Sequence[str]
    rows: Iterable[tuple[str, Sequence[str]]]
    words: bool = False


def join(parts: Iterable[Markup]) -> Markup:
    """Join pieces of markup."""
    return Markup("").join(parts)


def at(place: float) -> str:
    """Return a coordinate as text."""
    return f"{round(place, 1):g}"


def empty(name: str, title: str, sentence: str) -> Markup:
    """Draw a figure without data, with a sentence."""
    return Markup(
        '<figure class="chart" id="chart-{}"><figcaption>{}</figcaption><p class="chart-empty">{}</p></figure>'
    ).format(slug(name), one_line(title), sentence)


def figure(
    name: str,
    title: str,
    drawing: Drawing,
    table: Table,
    *,
    unit: str = "",
    summary: str,
    legend: Markup | None = None,
    notes: Sequence[str] = (),
) -> Markup:
    """Draw a figure.

    Args:
        name: Of the chart, once on a page: ids are made of it.
        title: What is shown.
        drawing: The marks.
        table: The same as text.
        unit: Of the values; it is written behind the title.
        summary: A description for readers who do not see the drawing.
        legend: What colours mean.
        notes: Whole sentences below the drawing.

    Returns:
        A `<figure>`.
    """
    key, shown = slug(name), one_line(f"{one_line(title)} ({unit})" if unit else title)
    readable = 0.75 * drawing.width  # type is drawn at no less than three quarters of its size
    least = next((least for least in _LEAST if least >= readable), _LEAST[-1])
    wide = drawing.width > WIDEST
    svg = Markup(
        '<svg class="{}" role="{}" aria-labelledby="chart-{}-title chart-{}-desc" viewBox="0 0 {} {}" width="{}">'
        '<title id="chart-{}-title">{}</title><desc id="chart-{}-desc">{}</desc>'
    ).format(
        f"drawing least-{least}" if wide else "drawing",
        "group" if drawing.linked else "img",  # an image has no links in it
        *(key, key, at(drawing.width), at(drawing.height), at(drawing.width), key, shown, key, summary),
    )
    svg += drawing.marks + Markup("</svg>")
    return join(
        [
            Markup('<figure class="chart" id="chart-{}"><figcaption>{}</figcaption>').format(key, shown),
            legend or Markup(""),
            _scrolling(f"{shown}, drawing", svg) if wide else svg,
            *(Markup('<p class="chart-note">{}</p>').format(note) for note in notes),
            Markup("<details><summary>As a table</summary>"),
            _scrolling(f"{shown}, table", _table(table)),
            Markup("</details></figure>"),
        ]
    )


def keys(items: Iterable[tuple[str, str]]) -> Markup:
    """Draw the legend of named colours, from pairs of a class and a name."""
    item = Markup('<li><span class="key {}"></span> {}</li>')
    return Markup('<ul class="chart-legend">{}</ul>').format(join(item.format(*pair) for pair in items))


def label(text: str, x: float, y: float, room: float, *, classes: str = "end", href: str | None = None) -> Markup:
    """Draw the name of a line, which ends at `x` if it is of that class; `href` is one that was looked at."""
    drawn = Markup('<text class="{}" x="{}" y="{}">{}</text>').format(classes, at(x), at(y), fit(text, room))
    return drawn if href is None else Markup('<a href="{}">{}</a>').format(href, drawn)


def addresses(links: Sequence[str | None], count: int) -> list[str | None]:
    """Return where each of `count` lines leads, as far as that is on this server."""
    return [address(links[place]) if place < len(links) else None for place in range(count)]


def hatched(x: float, y: float, wide: float, tall: float) -> Markup:
    """Draw the mark of a missing value."""
    lines = []
    for place in range(6, int(wide + tall), 7):
        a, b = max(0.0, place - tall), min(wide, place)
        lines.append(f"M{at(x + a)} {at(y + place - a)}L{at(x + b)} {at(y + place - b)}")
    return Markup('<rect class="ground" x="{}" y="{}" width="{}" height="{}"/><path class="hatch" d="{}"/>').format(
        at(x), at(y), at(wide), at(tall), "".join(lines)
    )


def room_for(labels: Iterable[str], most: float = LABELS) -> float:
    """Return how much the longest of some labels takes, and no more than there is."""
    return min(max((width(one_line(text)) for text in labels), default=0), most)


def grid(axis: Axis, left: float, right: float, top: float, bottom: float, *, unit: str, twice: bool) -> Markup:
    """Draw an axis from left to right: a line and a number for each mark, and its unit below them.

    Args:
        axis: What is marked.
        left: Where it begins.
        right: Where it ends.
        top: Of the lines.
        bottom: Of the lines; the numbers are below.
        unit: What the numbers are.
        twice: Numbers are above the lines, too, as in a chart that is taller than a screen.

    Returns:
        Marks that take 44 units below `bottom`, and 24 above `top` if `twice`.
    """
    drawn = []
    for tick in axis.ticks:
        x = left + (right - left) * (tick - axis.low) / (axis.high - axis.low)
        zero = "zero" if tick == 0 and not axis.log else "rule"
        drawn.append(
            Markup('<path class="{}" d="M{} {}V{}"/>').format(zero, at(x), at(top), at(bottom))
            + _tick(axis.mark(tick), x, bottom + 17)
            + (_tick(axis.mark(tick), x, top - 8) if twice else Markup(""))
        )
    return join(drawn) + _tick(fit(unit, right - left + 2 * GAP), (left + right) / 2, bottom + 36)


def cut(shown: int, count: int, what: str) -> list[str]:
    """Return a sentence about what was left out, if anything was."""
    return [f"The first {shown:,} of {count:,} {what} are shown."] if count > shown else []


def _tick(text: str, x: float, y: float) -> Markup:
    return Markup('<text class="tick" x="{}" y="{}">{}</text>').format(at(x), at(y), text)


def _scrolling(what: str, inner: Markup) -> Markup:
    """Wrap something wide so that it scrolls, also by keyboard."""
    return Markup('<div class="chart-scroll" tabindex="0" role="region" aria-label="{}">{}</div>').format(what, inner)


def _table(table: Table) -> Markup:
    kind = "" if table.words else "num"
    first, *others = (one_line(name) for name in table.head)
    head = Markup('<th scope="col">{}</th>').format(first) + join(
        Markup('<th scope="col" class="{}">{}</th>').format(kind, name) for name in others
    )
    cell = Markup('<td class="{}">').format(kind)
    rows = (
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            one_line(name), join(cell + escape(text) + Markup("</td>") for text in cells)
        )
        for name, cells in table.rows
    )
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, join(rows))
