"""Comparisons of evaluations: which of them count, of what, and which is the best; by the API and on the page."""

from typing import Any

import pytest

from registry.services.curation import comparisons
from tests.support.community import NAME, Community
from tests.support.world import statements

pytestmark = pytest.mark.heavy

ACC = {"task": "sums", "dataset": "digits", "metric": "acc"}


def add(crew: Community, ref: str, value: float, **more: Any) -> Any:
    return crew.post("carol", "/evaluations", 201, ref=ref, value=value, **{**ACC, **more})


def compare(crew: Community, *refs: str) -> Any:
    return crew.get("/evaluations/compare?" + "&".join(f"with={ref.replace('#', '%23')}" for ref in refs))


def columns(found: Any) -> list[str]:
    return [subject["ref"] for subject in found["subjects"]]


def values(found: Any) -> list[list[float | None]]:
    return [[one and one["value"] for one in metric["evaluations"]] for metric in found["metrics"]]


def test_the_newest_of_each_counts_and_the_best_of_a_row_is_named(lived: Community) -> None:
    for ref, value in (("base", 0.1), ("base", 0.2), ("#1", 0.9), ("1.1.0", 0.8), ("1.1.0", 0.9)):
        add(lived, ref, value)
    for ref, value in (("base", 5.0), ("1.1.0", 7.0)):
        add(lived, ref, value, metric="loss", higher_is_better=False)
    add(lived, "#1", 1.0, metric="only here")
    found = compare(lived, "#1", "1.1.0", "1.2.0")
    assert columns(found) == ["base", "#1.1", "1.1.0", "1.2.0"]
    assert [subject["kind"] for subject in found["subjects"]] == ["base", "patch", "release", "release"]
    assert [subject["title"] for subject in found["subjects"]] == [None, "Patch 1", None, None]
    assert [metric["metric"] for metric in found["metrics"]] == ["acc", "loss", "only here"]
    assert values(found) == [[0.2, 0.9, 0.9, None], [5.0, None, 7.0, None], [None, 1.0, None, None]]
    assert [metric["best"] for metric in found["metrics"]] == [[1, 2], [0], []]
    assert found["more"] is False


def test_a_subject_is_named_in_many_ways_and_shown_once(lived: Community) -> None:
    lived.put("mary", "/channels/stable", version="1.1.0")
    digest = lived.get("/releases/1.0.0")["recipe"]["digest"]
    names = ["1", "#1", "1.1", "#1.1", "stable", "1.1.0", "base", digest, digest[:8]]
    assert columns(compare(lived, *names)) == ["base", "#1.1", "1.1.0", digest]
    for ref, status in (("9", 404), ("#1.7", 404), ("9.9.9", 404), ("nightly", 404), ("a b", 422), ("", 422)):
        lived.get(f"/evaluations/compare?with={ref.replace('#', '%23')}", status=status)
    lived.get("/evaluations/compare?" + "&".join(["with=base"] * 21), status=422)


def test_a_release_has_the_evaluations_of_its_recipe(lived: Community) -> None:
    digest = lived.get("/releases/1.2.0")["recipe"]["digest"]
    add(lived, digest, 0.5, tried=14)
    ((_, row),) = [metric["evaluations"] for metric in compare(lived, "1.2.0")["metrics"]]
    assert (row["value"], row["tried"], row["subject"]) == (0.5, 14, digest)
    add(lived, "1.2.0", 0.4)
    assert values(compare(lived, "1.2.0", digest)) == [[None, 0.4, 0.5]]
    assert "chosen among 14" in lived.world.client(None).get(f"/{NAME}/evaluations?with={digest}").text


def test_the_patches_of_what_is_named_are_compared_alone_unless_others_are_named(lived: Community) -> None:
    for ref in ("#1", "#2", "#4"):
        add(lived, ref, 0.5)
    assert columns(compare(lived, "1.2.0")) == ["base", "#1.1", "#2.1", "1.2.0"], "#3 has no evaluation"
    digest = lived.get("/releases/1.0.0")["recipe"]["digest"]
    assert columns(compare(lived, digest)) == ["base", "#1.1", digest]
    assert columns(compare(lived, "1.2.0", "#4")) == ["base", "1.2.0", "#4.1"]


def test_unless_something_is_named_what_was_measured_last_is_compared(lived: Community) -> None:
    assert (columns(compare(lived)), compare(lived)["metrics"]) == (["base"], [])
    for ref in ("#2", "#4", "1.1.0", "1.0.0", "base"):
        add(lived, ref, 0.5)
    digest = lived.get("/releases/1.0.0")["recipe"]["digest"]
    add(lived, digest, 0.25)
    lived.set(4, state="draft")
    lived.revise(4, lived.spares[0])
    add(lived, "#4", 0.75)
    assert columns(compare(lived)) == ["base", "#2.1", "#4.2", digest, "1.0.0", "1.1.0"]


def test_a_comparison_is_bounded_and_says_so(crew: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "MOST_METRICS", 10)
    scores = [{**ACC, "metric": f"m{place:02}", "value": place} for place in range(11)]
    for ref in ("base", "#1"):
        crew.put("carol", "/evaluations", ref=ref, scores=scores[:10])
    found = compare(crew, "#1")
    assert (len(found["metrics"]), found["more"]) == (10, False)
    crew.put("carol", "/evaluations", ref="#1", scores=scores)
    found = compare(crew, "#1")
    assert ([metric["metric"] for metric in found["metrics"]], found["more"]) == ([f"m{n:02}" for n in range(10)], True)
    assert values(found) == [[n, n] for n in range(10)], "what is shown is whole"


def test_a_private_model_is_compared_by_nobody_else(crew: Community) -> None:
    crew.rules(visibility="private")
    crew.get("/evaluations/compare", "carol", status=404)
    crew.get("/evaluations/compare", "mary")


def page(crew: Community, query: str = "") -> str:
    answer = crew.world.client(None).get(f"/{NAME}/evaluations{query}")
    assert answer.status_code == 200, answer.text
    return answer.text


def test_the_page_without_evaluations_says_how_to_add_some(crew: Community) -> None:
    text = page(crew)
    assert "There are no evaluations to compare yet." in text
    assert f"crumb eval add {NAME}#1 --from lm-eval results.json" in text
    assert "<form action" not in text.split("<main")[1]
    assert f'href="/{NAME}/evaluations"' in crew.world.client(None).get(f"/{NAME}").text


def test_the_page_shows_a_hundred_tasks_with_long_and_hostile_names(lived: Community) -> None:
    hostile = '"><script>alert(1)</script>'
    scores = [
        {"task": f"{place:03} " + "w" * 90, "dataset": hostile * 7, "metric": "m" * 100, "value": place / 7}
        for place in range(100)
    ]
    for ref in ("base", "#1", "1.0.0"):
        lived.put("carol", "/evaluations", ref=ref, scores=scores)
    text = page(lived, "?with=1.0.0")
    assert "<script>alert" not in text
    assert text.count('<tr><th scope="row">') == 200, "in the table, and in that of the chart"
    assert text.count('class="dot"') == 100
    assert text.count('reference-first" d=') == 100
    assert f"crumb eval compare {NAME} 1.1 1.0.0 --csv" in text


def test_the_page_ticks_what_is_compared_and_marks_the_best(lived: Community) -> None:
    for ref, value in (("base", 0.25), ("#1", 0.5), ("#2", 0.125), ("1.0.0", 0.375)):
        add(lived, ref, value, stderr=0.0625)
    text = page(lived, "?with=%231&with=1.0.0")
    assert 'value="#1.1" checked' in text
    assert 'value="1.0.0" checked' in text
    assert 'value="#2.1">' in text
    assert text.count(">best</span>") == 1
    assert '<strong>0.5</strong> <span class="outcome better">best</span><br><span class="who">± 0.0625</span>' in text
    assert f'<a href="/{NAME}/evaluations?with=1.0.0">Compare with its patches alone</a>' in (
        lived.world.client(None).get(f"/{NAME}/releases/1.0.0").text
    )
    assert lived.world.client(None).get(f"/{NAME}/evaluations?with=9.9.9").status_code == 404
    assert lived.world.client(None).get(f"/{NAME}/evaluations?with=a%20b").status_code == 422


def test_a_comparison_takes_a_fixed_number_of_queries(lived: Community) -> None:
    for ref in ("base", "#1", "1.0.0"):
        add(lived, ref, 0.5)
    with statements(lived.world) as few:
        compare(lived)
    for ref in ("#2", "#3", "#4", "1.1.0", "1.2.0", lived.get("/releases/1.0.0")["recipe"]["digest"]):
        for metric in range(20):
            add(lived, ref, 0.5, metric=f"m{metric}")
    with statements(lived.world) as many:
        compare(lived)
    assert len(many) == len(few) <= 12
