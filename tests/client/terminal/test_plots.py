"""Plots and growing tables: what a person sees of a search."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.terminal.console import Console
from client.terminal.plots import HEIGHT, WIDTH, plot_log
from client.terminal.tables import GrowingTable

XS = st.sampled_from(["0.3", "0.45", "-2", "100", "0.000001"])


def test_points_are_placed_by_the_logarithm_and_the_best_has_a_mark_of_its_own() -> None:
    lines = plot_log([("0.1", 1.0), ("1", 3.0), ("10", 2.0)], 1).splitlines()
    assert len(lines) == HEIGHT + 2
    area = [line.partition("|")[2][1:] for line in lines[:HEIGHT]]
    marks = [(row, column, mark) for row, line in enumerate(area) for column, mark in enumerate(line) if mark != " "]
    middle = area[0].index("*")
    assert abs(middle - (WIDTH - 1) / 2) < 1
    assert {row for row, *_ in marks[1:-1]} <= {HEIGHT // 2 - 1, HEIGHT // 2}
    assert [mark[1:] for mark in marks] == [(middle, "*"), (WIDTH - 1, "o"), (0, "o")]
    assert lines[0].startswith("3 |") and lines[HEIGHT - 1].startswith("1 |")
    assert lines[-1].split() == ["0.1", "1", "10"]
    assert abs(lines[-1].index("10") - lines[HEIGHT].rindex("-")) <= 2


@given(st.lists(st.tuples(XS, st.floats(-1e300, 1e300)), min_size=1, max_size=30), st.data())
def test_any_points_make_a_plot_with_one_best(points: list[tuple[str, float]], data: st.DataObject) -> None:
    best = data.draw(st.integers(0, len(points) - 1))
    text = plot_log(points, best)
    assert text.count("*") == 1
    assert points[best][0] in text.splitlines()[-1]
    assert max(map(len, text.splitlines())) <= WIDTH + 30


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def grown(console: Console, stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("COLUMNS", "100")
    with GrowingTable(console, ("alpha", "score"), (10, 5), 7) as table:
        table.begin("alpha 0.3")
        table.add(("0.3", "0.5"), "alpha 0.3: 0.5", best=True)
        table.add(("[b]", "0.4"), "alpha [b]: 0.4")
        table.begin("alpha 0.45")
    return stderr.getvalue()


def test_a_table_grows_on_a_terminal_with_a_line_that_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = grown(Console(), Terminal(), monkeypatch)
    for words in ("alpha       score", "0.3         0.5", "[b]         0.4", "2/7", "alpha 0.45"):
        assert words in shown
    assert "alpha 0.3: 0.5" not in shown


def test_elsewhere_a_table_is_sentences_and_quiet_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grown(Console(), io.StringIO(), monkeypatch) == "alpha 0.3: 0.5\nalpha [b]: 0.4\n"
    assert grown(Console(quiet=True), Terminal(), monkeypatch) == ""
