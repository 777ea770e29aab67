"""A graph in columns: how things were made from others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from registry.server.pages.charts import figures
from registry.server.pages.charts.figures import Drawing, Table, at, join
from registry.server.pages.charts.words import address, fit, one_line, slug

NODES = 40  # of a column
COLUMNS, EDGES = 8, 2000
WIDE, TALL, ACROSS, DOWN = 164, 46, 64, 12  # of a node; between columns, and between nodes
TOP = 30  # for the names of the columns
SHORT = 8  # columns no longer than this are drawn around a common middle


@dataclass(frozen=True)
class Node:
    """A thing in a graph: `column` counts from the left, `href` is its link, `note` a further text on hover."""

    id: str
    label: str
    kind: str
    column: int
    href: str | None = None
    note: str = ""


@dataclass(frozen=True)
class _Box:
    node: Node
    x: float
    y: float


def graph(
    name: str,
    title: str,
    nodes: Sequence[Node],
    edges: Iterable[tuple[str, str]],
    *,
    sentence: str = "There is nothing to draw yet.",
) -> Markup:
    """Draw how things were made from others, from left to right.

    Args:
        name: Of the chart, once on a page.
        title: What is shown.
        nodes: The oldest of a column first. Of more than 40 in a column the newest are shown, below a box for the
            others, which has their edges; of more than eight columns, the first.
        edges: Pairs of ids; one that names no node is left out.
        sentence: Shown if there are no nodes.

    Returns:
        A `<figure>`.
    """
    if not nodes:
        return figures.empty(name, title, sentence)
    columns, stands, notes = _columns(nodes)
    boxes = _placed(columns)
    joined = {(stands[a], stands[b]): None for a, b in edges if a in stands and b in stands and stands[a] != stands[b]}
    pairs = list(joined)[:EDGES]
    notes += figures.cut(len(pairs), len(joined), "lines")
    marks = [_curve(boxes[a], boxes[b]) for a, b in pairs]
    marks += [_heading(column, place) for place, column in enumerate(columns)]
    marks += [_box(box) for box in boxes.values()]
    drawing = Drawing(
        len(columns) * (WIDE + ACROSS) - ACROSS + 4,
        max(box.y for box in boxes.values()) + TALL + 4,
        join(marks),
        linked=any(address(box.node.href) for box in boxes.values()),
    )
    made_of: dict[str, list[str]] = {}
    for a, b in pairs:
        made_of.setdefault(b, []).append(boxes[a].node.label)
    table = Table(
        ["name", "kind", "made of", "note"],
        [
            (
                box.node.label,
                [one_line(box.node.kind), ", ".join(map(one_line, made_of.get(key, ()))), one_line(box.node.note)],
            )
            for key, box in boxes.items()
        ],
        words=True,
    )
    summary = f"{len(nodes)} things in {len(columns)} columns, and {len(pairs)} lines from what each was made of."
    return figures.figure(name, title, drawing, table, summary=summary, notes=notes)


def _columns(nodes: Sequence[Node]) -> tuple[list[list[Node]], dict[str, str], list[str]]:
    """Return the columns that are drawn, by which node each id is shown, and what was left out."""
    found: dict[int, dict[str, Node]] = {}
    seen: set[str] = set()
    for node in nodes:
        if node.id not in seen:
            found.setdefault(node.column, {})[node.id] = node
        seen.add(node.id)
    columns: list[list[Node]] = []
    stands: dict[str, str] = {}
    notes = figures.cut(COLUMNS, len(found), "columns")
    for _, column in sorted(found.items())[:COLUMNS]:
        drawn = list(column.values())[-NODES:]
        stands |= {node.id: node.id for node in drawn}
        if (left_out := len(column) - len(drawn)) > 0:
            more = Node(f"more of {drawn[0].id}", f"… and {left_out:,} more", "more", drawn[0].column)
            while more.id in seen:  # a node may be called that
                more = Node(f"{more.id}.", more.label, more.kind, more.column)
            stands |= dict.fromkeys(list(column)[:-NODES], more.id) | {more.id: more.id}
            drawn.insert(0, more)
        columns.append(drawn)
    return columns, stands, notes


def _placed(columns: Sequence[Sequence[Node]]) -> dict[str, _Box]:
    """Return where each node is drawn, by id."""
    longest = max(map(len, columns))
    boxes = {}
    for place, column in enumerate(columns):
        lead = (longest - len(column)) / 2 if longest <= SHORT else 0
        for row, node in enumerate(column):
            boxes[node.id] = _Box(node, 2 + place * (WIDE + ACROSS), TOP + (row + lead) * (TALL + DOWN))
    return boxes


def _heading(column: Sequence[Node], place: int) -> Markup:
    kinds = {node.kind: None for node in column if node.kind != "more"}
    return Markup('<text class="strong" x="{}" y="16">{}</text>').format(
        at(2 + place * (WIDE + ACROSS)), fit(" / ".join(list(kinds)[:4]), WIDE)
    )


def _curve(start: _Box, end: _Box) -> Markup:
    """Draw an edge: from the right of a box to the left of one further right, and else around the outside."""
    a, b = start.y + TALL / 2, end.y + TALL / 2
    if start.x < end.x:
        from_x, to_x, bend = start.x + WIDE, end.x, ACROSS * 0.6
        path = f"M{at(from_x)} {at(a)}C{at(from_x + bend)} {at(a)} {at(to_x - bend)} {at(b)} {at(to_x)} {at(b)}"
    elif start.x == end.x:
        x = start.x + WIDE
        path = f"M{at(x)} {at(a)}C{at(x + 30)} {at(a)} {at(x + 30)} {at(b)} {at(x)} {at(b)}"
    else:
        from_x, to_x = start.x, end.x + WIDE
        path = f"M{at(from_x)} {at(a)}C{at(from_x - 40)} {at(a)} {at(to_x + 40)} {at(b)} {at(to_x)} {at(b)}"
    return Markup('<path class="edge" d="{}"><title>{} → {}</title></path>').format(
        path, one_line(start.node.label), one_line(end.node.label)
    )


def _box(box: _Box) -> Markup:
    node = box.node
    text = f"{one_line(node.label)}: {one_line(node.note)}" if node.note else one_line(node.label)
    drawn = Markup('<title>{}</title><rect class="box" x="{}" y="{}" width="{}" height="{}" rx="6"/>').format(
        text, at(box.x), at(box.y), WIDE, TALL
    )
    drawn += Markup('<rect class="edging" x="{}" y="{}" width="5" height="{}" rx="2"/>').format(
        at(box.x), at(box.y), TALL
    )
    middle = box.y + (19 if node.note else TALL / 2 + 5)
    drawn += Markup('<text x="{}" y="{}">{}</text>').format(at(box.x + 14), at(middle), fit(node.label, WIDE - 22))
    if node.note:
        drawn += Markup('<text class="small" x="{}" y="{}">{}</text>').format(
            at(box.x + 14), at(box.y + 36), fit(node.note, WIDE - 10)
        )
    kind = f"node kind-{slug(node.kind)}"
    if href := address(node.href):
        return Markup('<a class="{}" href="{}">{}</a>').format(kind, href, drawn)
    return Markup('<g class="{}">{}</g>').format(kind, drawn)
