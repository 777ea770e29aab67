"""Pictures: scores by alpha as SVG."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.terminal.pictures import HEIGHT, WIDTH, check_place, draw_scores, write_picture
from registry.errors import StorageFailed

XS = st.sampled_from(["0.3", "0.45", "-2", "100", "0.000001"])


def circles(drawn: str) -> list[tuple[float, float, str | None, str]]:
    """Return what is drawn: where, its class, and what is said of it."""
    found = ET.fromstring(drawn).iterfind(".//{*}circle")
    return [
        (float(one.get("cx", "")), float(one.get("cy", "")), one.get("class"), one.findtext("{*}title", ""))
        for one in found
    ]


def test_points_are_placed_by_the_logarithm_and_the_best_lies_on_top() -> None:
    drawn = draw_scores("<scores> & more", [("0.1", 1.0, "low"), ("1", 3.0, "<best>"), ("10", 2.0, "high")], 1)
    low, high, best = circles(drawn)
    assert [one[2:] for one in (low, high, best)] == [(None, "low"), (None, "high"), ("best", "<best>")]
    assert best[0] - low[0] == pytest.approx(high[0] - best[0])
    assert low[1] - high[1] == pytest.approx(high[1] - best[1]) and best[1] < low[1]
    texts = [one.text for one in ET.fromstring(drawn).iterfind(".//{*}text")]
    assert texts[0] == "<scores> & more"
    assert {"0.1", "1", "10", "1.5", "2.5"} <= set(texts)


@given(st.lists(st.tuples(XS, st.floats(-1e300, 1e300), st.text("<&x")), min_size=1, max_size=30), st.data())
def test_any_points_make_a_picture_with_one_best(points: list[tuple[str, float, str]], data: st.DataObject) -> None:
    best = data.draw(st.integers(0, len(points) - 1))
    drawn = draw_scores("t", points, best)
    found = circles(drawn)
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y, *_ in found)
    assert [one[3] for one in found if one[2]] == [points[best][2]]
    assert len(found) == len(points)
    assert points[best][0] in [one.text for one in ET.fromstring(drawn).iterfind(".//{*}text")]


def test_a_picture_replaces_a_file_of_its_name_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "scores.svg"
    file.write_text("older")
    check_place(file)
    write_picture(file, "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.svg"]
    assert file.read_text() == "newer"
    for place, why in ((tmp_path, "it is a folder"), (tmp_path / "none" / "scores.svg", "none does not exist")):
        with pytest.raises(StorageFailed, match=why):
            check_place(place)
