"""Charts: from numbers to inline SVG that a strict Content-Security-Policy lets through.

No chart has a style attribute, a script or an event handler: colours are classes of static/charts.css, values are
shown on hover by `<title>`, and a table below each chart has the same numbers. Texts come from strangers, so they are
escaped, put on one line and cut. Every chart is as wide as its container allows; one that would become too small
scrolls.
"""

from registry.server.pages.charts.cells import matrix
from registry.server.pages.charts.dots import grouped
from registry.server.pages.charts.lengths import bars
from registry.server.pages.charts.lineages import Node, graph
from registry.server.pages.charts.references import Row, referenced
from registry.server.pages.charts.shares import stacked

__all__ = ["Node", "Row", "bars", "graph", "grouped", "matrix", "referenced", "stacked"]
