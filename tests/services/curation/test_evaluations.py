"""Evaluations: many at a time, none twice; of recipes, whether or not their composition is still there."""

from typing import Any

import pytest
from alembic import command
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from registry.db.session import migrations_config
from registry.db.tables import Build, Evaluation, Recipe, User
from registry.services.people.budgets import ENTRY_BYTES
from tests.support.community import NAME, URL, Community

F1 = {"task": "qa", "dataset": "squad", "metric": "f1"}
NEVER = "0123abcd" * 8


def compose(crew: Community, alpha: str = "0.5") -> str:
    """Have carol compose patches 1 and 2; return the digest of the recipe."""
    body = {"patches": [{"number": 1}, {"number": 2}], "alpha": alpha}
    digest: str = crew.post("carol", "/compositions", 202, **body)["recipe"]["digest"]
    crew.world.work()
    return digest


def add(crew: Community, ref: str, value: float = 0.5, status: int = 201, **more: Any) -> Any:
    return crew.post("carol", "/evaluations", status, ref=ref, value=value, **{**F1, **more})


def values(crew: Community, ref: str) -> list[float]:
    return [row["value"] for row in crew.get(f"/evaluations?ref={ref}")["items"]]


def test_an_evaluation_of_a_recipe_says_among_how_many_it_was_chosen(crew: Community) -> None:
    digest = compose(crew)
    row = add(crew, digest[:8], tried=14)
    assert (row["subject"], row["tried"], row["value"]) == (digest, 14, 0.5)
    add(crew, f"sha256:{digest}", 0.75)
    add(crew, "base", 0.25)
    assert values(crew, digest) == values(crew, digest[:12]) == [0.5, 0.75]
    whole = {(row["subject"], row["tried"], row["value"]) for row in crew.get("/evaluations")["items"]}
    assert whole == {(digest, None, 0.75), (digest, 14, 0.5), ("base", None, 0.25)}
    (event, *_) = crew.events("evaluation.add")
    assert event.subject == f"{NAME}@{digest}"


def test_the_page_of_a_recipe_shows_its_evaluations(crew: Community) -> None:
    digest = compose(crew)
    add(crew, digest, 0.6125, tried=14)
    page = crew.world.client("carol").get(f"/{NAME}/recipes/{digest}").text
    assert "0.6125" in page
    assert "chosen among 14" in page
    both = crew.world.client("carol").get(f"/{NAME}/releases/compare?before=base&after={digest}").text
    assert "chosen among 14" in both


def test_evaluations_of_a_recipe_outlive_its_composition(crew: Community) -> None:
    digest = compose(crew)
    add(crew, digest, 0.5)
    assert crew.world.client("carol").delete(f"{URL}/compositions/{digest}").status_code == 204
    crew.get(f"/revisions/{digest}", status=404)
    add(crew, digest[:8], 0.6)
    assert values(crew, digest) == [0.5, 0.6]
    assert compose(crew) == digest
    assert values(crew, digest) == [0.5, 0.6]


def test_only_recipes_that_were_composed_on_the_model_can_be_evaluated(crew: Community) -> None:
    compose(crew)
    assert "compose it first" in add(crew, NEVER, status=404)["detail"]


def test_digits_with_which_two_recipes_start_are_refused(crew: Community) -> None:
    digest = compose(crew)
    with crew.world.database.write() as session:
        model, other = crew.model(session), digest[:8] + "f" * 56
        session.add(Recipe(digest=other, base_digest=model.base_digest, alpha="0.1"))
        session.flush()
        words = {"builder": "w", "weights_digest": "sha256:" + "0" * 64, "device": "cpu"}
        session.add(Build(model_id=model.id, recipe_digest=other, **words))
    refused = add(crew, digest[:8], status=422)
    assert (refused["field"], "give more digits" in refused["detail"]) == ("ref", True)
    add(crew, digest)


def test_only_a_recipe_is_chosen_among_tried_ones(crew: Community) -> None:
    digest = compose(crew)
    for ref in ("base", "#1"):
        assert add(crew, ref, status=422, tried=3)["field"] == "tried"
    for tried in (0, -1, 2**31):
        assert add(crew, digest, status=422, tried=tried)["field"] == "tried"
    assert crew.get("/evaluations")["items"] == []


def test_an_evaluation_has_at_most_one_subject_and_at_least_one_candidate(crew: Community) -> None:
    digest = compose(crew)
    with crew.world.database.read() as session:
        row = {"model_id": crew.model(session).id, "user_id": crew.actor(session, "carol").user_id, **F1, "value": 1.0}
        revision = crew.revision(session, 1).id
    row |= {"higher_is_better": True}
    for wrong in ({"revision_id": revision, "recipe_digest": digest}, {"recipe_digest": digest, "tried": 0}):
        with pytest.raises(IntegrityError), crew.world.database.write() as session:
            session.execute(insert(Evaluation).values(**row, **wrong))


def test_a_database_with_evaluations_of_recipes_does_not_go_back(crew: Community) -> None:
    """The older program would take them for ones of the base."""
    add(crew, compose(crew))
    url = crew.world.settings.database_url
    with pytest.raises(RuntimeError, match="of recipes"):
        command.downgrade(migrations_config(url), "e19a7c3f5b24")


def put(crew: Community, scores: list[dict[str, Any]], user: str = "carol", status: int = 200, **more: Any) -> Any:
    return crew.put(user, "/evaluations", status, **{"ref": "#1", "scores": scores, **more})


def score(metric: str, value: float, **more: Any) -> dict[str, Any]:
    return {**F1, "metric": metric, "value": value, **more}


def test_many_evaluations_are_recorded_by_one_call_and_not_again_by_the_same(crew: Community) -> None:
    many = [score(f"m{place}", place / 7, stderr=0.25, higher_is_better=place % 2 == 0) for place in range(65)]
    first = put(crew, many, source="https://x.example", command="measure")
    assert (len(first["added"]), first["known"]) == (65, [])
    assert {(row["source"], row["command"], row["user"], row["stderr"]) for row in first["added"]} == {
        ("https://x.example", "measure", "carol", 0.25)
    }
    assert [(row["metric"], row["value"]) for row in first["added"]] == [(one["metric"], one["value"]) for one in many]
    assert [event.after for event in crew.events("evaluation.add")] == [{"count": 65}]
    again = put(crew, [*many, score("new", 1)])
    assert ([row["metric"] for row in again["added"]], len(again["known"])) == (["new"], 65)
    assert [row["id"] for row in again["known"]] == [row["id"] for row in first["added"]]
    assert put(crew, many)["added"] == []
    assert len(crew.events("evaluation.add")) == 2
    assert len(crew.get("/evaluations?ref=%231")["items"]) == 66


def test_only_the_same_newest_numbers_of_the_same_person_are_the_same(crew: Community) -> None:
    put(crew, [score("f1", 0.5, stderr=0.1)])
    for other in ({"value": 0.6}, {"stderr": None}, {"higher_is_better": False}, {"dataset": "other"}):
        assert len(put(crew, [{**score("f1", 0.5, stderr=0.1), **other}])["added"]) == 1, other
    assert len(put(crew, [score("f1", 0.5, stderr=0.1)])["added"]) == 1, "measured again since, with another result"
    assert len(put(crew, [score("f1", 0.5, stderr=0.1)], "bob")["added"]) == 1
    assert len(put(crew, [score("f1", 0.5, stderr=0.1)], ref="#2")["added"]) == 1


def test_of_many_evaluations_all_are_recorded_or_none(crew: Community) -> None:
    fine = score("f1", 0.5)
    for wrong in (
        [fine, score("a\nb", 0.5)],
        [fine, fine],
        [fine, score("", 0.5)],
        [fine, score("m" * 101, 0.5)],
        [fine, score("s", 0.5, stderr=-1)],
        [],
        [score(f"m{place}", 1) for place in range(1001)],
    ):
        put(crew, wrong, status=422)
    put(crew, [fine], status=422, tried=3)
    put(crew, [fine], status=404, ref="#9")
    assert crew.get("/evaluations")["items"] == []
    assert len(put(crew, [score(f"m{place}", 1) for place in range(1000)])["added"]) == 1000


def test_each_of_many_evaluations_counts_for_what_its_sender_may_write(crew: Community) -> None:
    with crew.world.database.write() as session:
        user = crew.actor(session, "carol").user_id
    put(crew, [score(f"m{place}", 1) for place in range(100)])
    with crew.world.database.read() as session:
        assert session.get_one(User, user).text_bytes > 100 * ENTRY_BYTES
