"""Charts as a browser meets them: XML, so that what is not escaped does not parse; and what they say to people."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from registry.server.pages import charts
from registry.server.pages.charts import scales, words

CSS = (Path(charts.__file__).parents[1] / "static" / "charts.css").read_text("utf-8")
EVIL = "\"'><script>alert(1)</script>&\x00\u202e]]>"
TAGS = {"figure", "figcaption", "svg", "title", "desc", "g", "rect", "path", "text", "a", "p", "ul", "li", "span"}
TAGS |= {"div", "details", "summary", "table", "thead", "tbody", "tr", "th", "td"}
NODES = [
    charts.Node("base", "base", "base", 0),
    charts.Node("#1", EVIL, "patch", 1, "/a/b/patches/1", EVIL),
    charts.Node("1.0.0", "1.0.0", "release", 2, "javascript:alert(1)"),
]


def everything(text: str = "some words", value: float | None = 1.5, count: int = 3) -> dict[str, Markup]:
    """Draw one chart of each kind, with one text and one value wherever they go."""
    labels, row = [f"{text} {place}" for place in range(count)], [value] * count
    return {
        "matrix": charts.matrix(text, text, labels, labels, [row] * count, links=[text, "/x", None], unit=text),
        "diverging": charts.matrix(text, text, labels, labels, [row] * count, diverging=True, unit=text),
        "bars": charts.bars(text, text, [(label, value) for label in labels], x_label=text, links=[text], unit=text),
        "log": charts.bars(text, text, [(label, value) for label in labels], log=True, highlight={labels[0]}),
        "stacked": charts.stacked(text, text, [(label, row) for label in labels], labels, unit=text),  # type: ignore
        "ordered": charts.stacked(text, text, [(labels[0], row)], labels, normalise=False, ordered=True),  # type: ignore
        "grouped": charts.grouped(text, text, [(label, row) for label in labels], labels, unit=text),
        "own": charts.grouped(text, text, [(label, row) for label in labels], labels, own_scale=True, unit=text),
        "referenced": charts.referenced(
            text, text, [charts.Row(label, row, [value, None, value]) for label in labels], labels, [text, *labels]
        ),
        "graph": charts.graph(text, text, [charts.Node(label, label, text, 0, text, text) for label in labels], []),
    }


KINDS = list(everything())


def parsed(drawn: Markup) -> ET.Element:
    return ET.fromstring(str(drawn))


def texts(drawn: Markup, tag: str) -> list[str]:
    return ["".join(found.itertext()) for found in parsed(drawn).iter(tag)]


def classes(drawn: Markup, tag: str) -> list[str]:
    return [found.get("class", "") for found in parsed(drawn).iter(tag)]


@pytest.mark.parametrize("kind", KINDS)
def test_strangers_words_are_words_and_nothing_else(kind: str) -> None:
    for drawn in (everything(EVIL)[kind], charts.graph("g", EVIL, NODES, [("base", "#1"), ("#1", "1.0.0")])):
        tree = parsed(drawn)
        assert {element.tag for element in tree.iter()} <= TAGS
        for element in tree.iter():
            assert not [name for name in element.attrib if name == "style" or name.startswith("on")]
            assert element.get("href", "/").startswith("/")
        assert "alert(1)" in "".join(tree.itertext())
        assert not set("\x00\u202e") & set("".join(tree.itertext()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_chart_has_a_title_a_description_a_table_and_ids_of_its_own(kind: str) -> None:
    drawn = everything("a metric")[kind]
    tree = parsed(drawn)
    assert tree.tag == "figure" and tree[0].tag == "figcaption" and "a metric" in (tree[0].text or "")
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert ids == ["chart-a-metric", "chart-a-metric-title", "chart-a-metric-desc"]
    drawing = next(tree.iter("svg"))
    assert (drawing.get("aria-labelledby") or "").split() == ids[1:]
    assert drawing.get("role") == ("group" if list(drawing.iter("a")) else "img") and drawing.get("viewBox")
    assert all(cell.get("scope") in ("row", "col") for cell in tree.iter("th")) and list(tree.iter("td"))
    for region in tree.iter("div"):
        assert region.get("tabindex") == "0" and region.get("role") == "region" and region.get("aria-label")


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_has_its_rules(kind: str) -> None:
    known = set(re.findall(r"\.([a-z][a-z0-9-]*)", CSS)) | {"num", "node", "kind-x"}
    said = {name for element in parsed(everything("x", None if kind == "matrix" else 2)[kind]).iter()
            for name in element.get("class", "").split()}  # fmt: skip
    assert said <= known


WORDS = st.text(st.characters(exclude_characters="\ufffe\uffff"), max_size=30)  # XML has no way to write these two
EDGES = st.sampled_from([0, 5e-324, 1e-300, 999.6, 1e15, 1e300, -1e300, 1.7e308, -1.7e308, 10**400, math.nan, None])
VALUES = EDGES | st.floats() | st.integers()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, VALUES), max_size=4), st.booleans(), st.booleans())
def test_no_number_and_no_words_break_a_chart(items: list[tuple[str, float | None]], one: bool, other: bool) -> None:
    values = [value for _, value in items]
    labels = [label for label, _ in items]
    rows = [(label, values) for label in labels]
    low, high = (values[0], values[-1]) if values and one else (None, None)
    for drawn in (
        charts.bars("n", "t", items, log=one, highlight=set(labels[:1])),
        charts.matrix("n", "t", labels, labels, [values[:1], values], diverging=other, low=low, high=high),
        charts.stacked("n", "t", rows, labels, normalise=one, ordered=other),  # type: ignore[arg-type]
        charts.grouped("n", "t", rows, labels, own_scale=one),
        charts.referenced("n", "t", [charts.Row(label, values, values[::-1]) for label in labels], labels, labels[:2]),
    ):
        assert not re.search(
            r"(?:nan|inf)\b", " ".join(v for e in parsed(drawn).iter("rect") for v in e.attrib.values())
        )
        assert min((float(e.get("width", 0)) for e in parsed(drawn).iter("rect")), default=0) >= 0


@pytest.mark.parametrize(
    "drawn",
    [
        charts.bars("n", "t", [], sentence="Push a patch first."),
        charts.matrix("n", "t", ["a"], [], [[]], sentence="Push a patch first."),
        charts.stacked("n", "t", [("a", [])], [], sentence="Push a patch first."),
        charts.grouped("n", "t", [], ["base"], sentence="Push a patch first."),
        charts.graph("n", "t", [], [], sentence="Push a patch first."),
    ],
)
def test_where_there_is_nothing_a_sentence_says_so(drawn: Markup) -> None:
    assert texts(drawn, "p") == ["Push a patch first."] and not texts(drawn, "svg")


def test_a_missing_value_is_hatched_and_said_not_zero() -> None:
    drawn = charts.matrix("n", "t", ["a"], ["b", "c", "d", "e"], [[0.0, None, math.nan]])
    cells = [name for name in classes(drawn, "g") if name]
    assert cells == ["q0", "na", "na", "na"]
    assert texts(drawn, "td") == ["0", *["no value"] * 3] and "a × c: no value" in texts(drawn, "title")
    bar = charts.bars("n", "t", [("a", None), ("b", 0.0)], unit="%")
    assert (
        texts(bar, "td") == ["no value", "0"] and "0 %" in texts(bar, "text") and not classes(bar, "path").count("na")
    )


def test_colours_go_from_the_lowest_to_the_highest_and_are_alike_around_zero() -> None:
    def shades(values: list[float], **more: float | bool) -> list[str]:
        drawn = charts.matrix("n", "t", ["a"], [str(value) for value in values], [values], **more)  # type: ignore
        return [name for name in classes(drawn, "g") if name]

    assert shades([0, 0.5, 1]) == ["q0", "q4", "q8"]
    assert shades([5, 5]) == ["q8", "q8"] and shades([0, 0]) == ["q0", "q0"]
    assert shades([0.2, 9], low=0, high=1) == ["q1", "q8"]
    assert shades([-4, -1e-9, 0, 2, 4], diverging=True) == ["d0", "d4", "d4", "d6", "d8"]
    assert shades([0, 0], diverging=True) == ["d4", "d4"]


def test_large_charts_are_cut_and_say_so() -> None:
    many = [str(place) for place in range(500)]
    cut = charts.matrix("n", "t", many, many, [[1.0] * 500] * 500)
    assert len([name for name in classes(cut, "g") if name]) == 64 * 64 and len(texts(cut, "td")) == 64 * 64
    assert texts(cut, "p") == ["The first 64 of 500 rows are shown.", "The first 64 of 500 columns are shown."]
    assert not texts(charts.matrix("n", "t", many[:126], many[:9], [[1.0] * 9] * 126), "p")  # a deep model
    for drawn in (
        charts.bars("n", "t", [(name, 1.0) for name in many]),
        charts.stacked("n", "t", [(name, [1.0]) for name in many], ["a"]),
        charts.grouped("n", "t", [(name, [1.0]) for name in many], ["a"]),
    ):
        assert len(texts(drawn, "td")) == 400 and "The first 400 of 500" in texts(drawn, "p")[0]
    assert len(charts.bars("n", "t", [("x" * 65536, 1.0)] * 400)) < 1_000_000


def test_bars_begin_at_zero_and_are_as_long_as_their_values() -> None:
    drawn = charts.bars("n", "t", [("a", 10.0), ("b", -5.0), ("c", 0.0)], unit="%")
    first, second = (rect for rect in parsed(drawn).iter("rect"))
    assert float(first.get("width", 0)) == pytest.approx(2 * float(second.get("width", 0)), rel=0.01)
    assert float(second.get("x", 0)) + float(second.get("width", 0)) == pytest.approx(float(first.get("x", 0)), abs=0.2)
    assert texts(drawn, "title")[1:] == ["a: 10 %", "b: -5 %", "c: 0 %"]
    assert {"10 %", "-5 %", "0 %"} <= set(texts(drawn, "text"))


def test_an_axis_of_decades_has_no_bar_for_zero_and_says_so() -> None:
    drawn = charts.bars("n", "t", [("a", 1e-3), ("b", 1.0), ("c", 0.0), ("d", -1.0)], log=True)
    short, long = (float(rect.get("width", 0)) for rect in parsed(drawn).iter("rect"))
    assert 4 * short == pytest.approx(long, rel=0.01)  # from 1e-4
    assert "no bar" in texts(drawn, "p")[0]
    assert {"0.0001", "0.001", "0.01", "0.1", "1"} <= set(texts(drawn, "text"))


def test_pieces_are_shares_of_their_row_and_the_ninth_is_among_others() -> None:
    drawn = charts.stacked("n", "t", [("a", [1, 3]), ("b", [0, 0])], ["one", "two"])
    assert {"a, one: 1, 25 %", "a, two: 3, 75 %", "b: none"} <= set(texts(drawn, "title"))
    one, two = [float(rect.get("width", 0)) for rect in parsed(drawn).iter("rect")][:2]
    assert 3 * one == pytest.approx(two, rel=0.01) and one + two == pytest.approx(380)
    many = charts.stacked("n", "t", [("a", [1] * 10)], [str(place) for place in range(10)])
    assert texts(many, "th")[1:9] == ["0", "1", "2", "3", "4", "5", "6", "3 others"] and texts(many, "td")[7] == "3"


def test_values_are_printed_beside_their_dots_and_rows_may_have_scales_of_their_own() -> None:
    rows: list[tuple[str, list[float | None]]] = [("acc", [0.5, 0.75]), ("speed", [10000, None])]
    drawn = charts.grouped("n", "t", rows, ["base", "1.0.0"])
    assert {"0.5", "0.75", "10k", "–"} <= set(texts(drawn, "text")) and "acc, 1.0.0: 0.75" in texts(drawn, "title")

    def spread(own: bool) -> float:
        tree = parsed(charts.grouped("n", "t", rows, ["base", "1.0.0"], own_scale=own))
        dots = [path.get("transform", "") for path in tree.iter("path") if path.get("class") == "dot"]
        first, second = (float(re.findall(r"[\d.]+", dot)[0]) for dot in dots[2:4])
        return second - first

    assert spread(own=False) < 1 and spread(own=True) > 100


def test_reference_lines_are_where_their_values_are_and_close_ones_have_one_name() -> None:
    row = charts.Row("acc", [0.5, None], [0.0, 1.0, 1.001])
    drawn = charts.referenced("n", "t", [row], ["1.0.0", "2.0.0"], ["base", "#1", "#2"])
    lines = [path for path in parsed(drawn).iter("path") if "reference" in path.get("class", "")]
    assert [line.get("class") for line in lines] == ["reference reference-first", "reference", "reference"]
    base, one, two = (float(re.findall(r"[\d.]+", line.get("d", ""))[0]) for line in lines)
    (dot,) = [path.get("transform", "") for path in parsed(drawn).iter("path") if path.get("class") == "dot"]
    assert float(re.findall(r"[\d.]+", dot)[0]) == pytest.approx((base + one) / 2, abs=1) and base < one < two
    assert {"acc, base: 0", "acc, #1: 1", "acc, #2: 1.001", "acc, 1.0.0: 0.5"} <= set(texts(drawn, "title"))
    assert {"base", "#1"} <= set(texts(drawn, "text")) and "#2" not in texts(drawn, "text")
    assert texts(drawn, "td") == ["0", "1", "1.001", "0.5", "no value"]


def test_what_there_is_no_room_for_is_counted() -> None:
    names = [str(place) for place in range(13)]
    drawn = charts.referenced("n", "t", [charts.Row("a", [1.0] * 13, [1.0] * 13)], names, names)
    assert {"The first 8 of 13 dots of a row are shown.", "The first 12 of 13 lines of a row are shown."} <= set(
        texts(drawn, "p")
    )
    assert "Nothing has been measured yet." in charts.referenced("n", "t", [], names, names)


def test_a_graph_links_its_nodes_and_keeps_the_newest_of_many() -> None:
    nodes = [charts.Node("base", "base", "base", 0)]
    nodes += [charts.Node(f"#{n}", f"#{n}", "patch", 1, f"/a/b/patches/{n}") for n in range(1, 51)]
    edges = [("base", node.id) for node in nodes] + [("base", "nobody"), ("nobody", "base")]
    drawn = charts.graph("n", "t", nodes, edges)
    links = [link.get("href") for link in parsed(drawn).iter("a")]
    assert links == [f"/a/b/patches/{n}" for n in range(11, 51)]
    assert "… and 10 more" in texts(drawn, "text")
    assert classes(drawn, "path").count("edge") == 41 and "base → … and 10 more" in texts(drawn, "title")
    assert "javascript" not in charts.graph("n", "t", NODES, [])


def test_cells_lead_where_they_are_told_to_and_a_drawing_with_links_is_no_image() -> None:
    names, values = ["#1", "#2"], [[None, 0.5], [0.5, None]]
    made = charts.matrix("n", "t", names, names, values, cell_links=[[None, "/a/b"], ["javascript:x()"]])
    assert re.findall(r'<a href="([^"]*)" tabindex="-1">', made) == ["/a/b"]
    assert 'role="group"' in made and 'role="img"' not in made
    assert 'role="img"' in charts.matrix("n", "t", names, names, values)


@pytest.mark.parametrize(
    "href", ["javascript:x()", "//evil.example", "/\\evil.example", "https://e.example", "\n/x", "/a\nb"]
)
def test_links_lead_nowhere_else(href: str) -> None:
    assert words.address(href) is None and words.address("/a/b?c=d#e") == "/a/b?c=d#e"


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0"), (-0.0, "0"), (999.6, "1k"), (12345, "12.3k"), (-1.5e6, "-1.5M"), (2e9, "2G"), (1e15, "1e15"),
     (0.05, "0.05"), (0.00012345, "0.000123"), (1.2e-7, "1.2e-7"), (5e-324, "4.94e-324")],
)  # fmt: skip
def test_numbers_are_written_shortly(value: float, written: str) -> None:
    assert scales.short(value) == written


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4), st.booleans())
def test_axes_hold_their_values_between_a_few_round_marks(values: list[float], zero: bool) -> None:
    axis = scales.linear(values, zero=zero)
    step = axis.ticks[1] - axis.ticks[0]
    assert 2 <= len(axis.ticks) <= 8 and step > 0 and len({axis.mark(tick) for tick in axis.ticks}) == len(axis.ticks)
    assert f"{step:.0e}"[0] in "125"
    for value in values:
        assert 0 <= axis.place(value) <= 1
        assert abs(value) > scales.MOST or axis.low - 1e-6 * step <= value <= axis.high + 1e-6 * step
    assert not zero or axis.low <= 0 <= axis.high


def test_marks_have_as_many_digits_as_tell_them_apart() -> None:
    axis = scales.linear([1000.1, 1000.4], zero=False)
    assert [axis.mark(tick) for tick in axis.ticks][:2] == ["1.0001k", "1.0002k"]


@given(st.text(max_size=400), st.floats(10, 400))
def test_words_fit_the_room_that_they_have(text: str, room: float) -> None:
    assert words.width(words.fit(text, room)) <= max(room, words.width("…")) + 0.2
    assert len(words.one_line(text)) <= words.LONGEST


def themes() -> list[dict[str, str]]:
    """Return the properties of charts.css: light, dark by preference, dark by choice."""
    blocks = re.findall(r":root[^{]*\{([^{}]*--q0[^{}]*)\}", CSS)
    return [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block)) for block in blocks]


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_what_is_written_on_a_colour_can_be_read_in_both_themes() -> None:
    light, by_preference, by_choice = themes()
    assert by_preference == by_choice and light.keys() == by_choice.keys() and light != by_choice
    for theme in (light, by_choice):
        inks = {name: colour for name, colour in theme.items() if name.endswith("-ink")}
        assert len(inks) == 9 + 9 + 8
        assert min(contrast(colour, theme[name.removesuffix("-ink")]) for name, colour in inks.items()) >= 4.5


def test_more_stands_out_more_in_both_themes() -> None:
    for theme, page in zip(themes()[:2], ("#ffffff", "#171614"), strict=True):
        for scale in (
            ["q" + str(n) for n in range(9)],
            ["d" + str(n) for n in range(4, 9)],
            [f"d{n}" for n in (4, 3, 2, 1, 0)],
        ):
            steps = [contrast(theme[name], page) for name in scale]
            assert steps == sorted(steps)
