"""Previews: what a recipe would be, before it is composed."""

from typing import Any

import pytest

from registry.db.tables import Composition, Job, Recipe, now
from tests.support.community import Community

pytestmark = pytest.mark.heavy


def recipe(*numbers: int, **more: Any) -> dict[str, Any]:
    return {"patches": [{"number": number} for number in numbers], "alpha": "0.3", **more}


def preview(crew: Community, *numbers: int, user: str | None = None, status: int = 200, **more: Any) -> Any:
    return crew.ask(user, "POST", "/preview", status, **recipe(*numbers, **more))


def test_a_preview_is_of_the_same_recipe_and_writes_nothing(crew: Community) -> None:
    before = crew.count_events()
    body = {"alpha": "0.50", "patches": [{"number": 3, "weight": "-0.5"}, {"number": 1}]}
    told = crew.ask(None, "POST", "/preview", **body)
    with crew.world.database.read() as session:
        assert session.query(Recipe).count() == session.query(Composition).count() == 0
        assert session.query(Job).filter(Job.kind.in_(["compose", "conflicts"])).count() == 0
    assert crew.count_events() == before
    made = crew.post("bob", "/compositions", 202, **body)["recipe"]
    assert (told["recipe"], told["alpha"]) == (made["digest"], "0.5")
    fields = set(made["patches"][0])
    items = [{name: item[name] for name in fields} for item in told["patches"]]
    assert sorted(items, key=lambda item: item["sha256"]) == made["patches"]
    assert [item["number"] for item in told["patches"]] == [3, 1], "in the order in which they were named"
    assert told["patch_bytes"] == sum(crew.patch(number)["size"] for number in (1, 3))
    assert told["model_bytes"] == crew.get("")["size"]
    assert (told["composed"], told["weights_digest"]) == (False, None)
    crew.world.work()
    done = crew.post("bob", "/compositions", **body)
    assert crew.ask(None, "POST", "/preview", **body)["weights_digest"] == done["weights_digest"]


def test_a_preview_knows_what_has_been_compared_and_how_much_is_touched(crew: Community) -> None:
    nnz = [crew.patch(number)["nnz"] for number in (1, 2)]
    assert preview(crew)["touched"] == 0
    assert preview(crew, 1)["touched"] == nnz[0]
    unknown = preview(crew, 1, 2)
    assert (unknown["touched"], unknown["conflicts"]["missing"]) == (None, 1)
    job = crew.post("carol", "/conflicts", 202, patches=recipe(1, 2)["patches"])["job"]
    assert preview(crew, 1, 2)["conflicts"]["job"]["id"] == job["id"]
    crew.world.work()
    told = preview(crew, 1, 2)
    assert told["touched"] == told["conflicts"]["pairs"][0]["whole"]["union"] < sum(nnz)
    assert told["conflicts"]["missing"] == 0


def test_what_would_be_refused_is_a_warning_of_a_preview(crew: Community) -> None:
    crew.accept(1, 2, 3)
    crew.post("mary", "/patches/1/yank", message="It forgets.")
    crew.set(2, state="superseded", superseded_by=3)
    told = preview(crew, 1, 2, 3, 4)
    found = {item["number"]: item["warnings"] for item in told["patches"]}
    assert found[1] == [
        "alice/tiny#1 was yanked (It forgets.); leave it out, or pass --allow-yanked to compose it anyway."
    ]
    assert found[2] == ["alice/tiny#2 was superseded by #3."]
    assert found[3] == []
    assert found[4] == ["alice/tiny#4 is draft, not accepted."]
    assert told["warnings"][:3] == [*found[1], *found[2], *found[4]]
    assert "patch #1 states no licence; ask its author for one." in told["warnings"]
    allowed = preview(crew, 1, allow_yanked=True)["patches"][0]["warnings"]
    assert allowed == ["alice/tiny#1 was yanked: It forgets."]


def test_a_patch_that_nobody_may_compare_is_warned_of_and_left_out_of_the_conflicts(crew: Community) -> None:
    crew.set(1, quarantined_at=now(), quarantine_reason="odd")
    with crew.world.database.write() as session:
        crew.revision(session, 2).state = "refused"
    told = preview(crew, 1, 2, 3, 4)
    assert [patch["number"] for patch in told["conflicts"]["patches"]] == [3, 4]
    assert "quarantined and cannot be composed" in told["patches"][0]["warnings"][0]
    assert "is refused; only checked patches" in told["patches"][1]["warnings"][0]
    mine = preview(crew, 1, 2, 3, 4, user="chief")
    assert [patch["number"] for patch in mine["conflicts"]["patches"]] == [1, 3, 4]


def test_incompatible_licences_are_warnings(crew: Community) -> None:
    crew.rules(license="gpl-2.0")
    file = crew.spares[0]
    number = crew.push(file, license="apache-2.0")["number"]
    (told,) = [text for text in preview(crew, number)["warnings"] if "apache-2.0" in text]
    assert told.startswith(f"the base (gpl-2.0) and patch #{number} (apache-2.0) cannot be in one release")


def test_an_older_revision_is_a_warning(crew: Community) -> None:
    crew.revise(1, crew.spares[0])
    told = crew.ask(None, "POST", "/preview", patches=[{"number": 1, "revision": 1}])
    assert "alice/tiny#1 is revision 1; the newest is 2." in told["warnings"]


@pytest.mark.parametrize(
    ("body", "field"),
    [(recipe(9), "patches"), (recipe(1, 1), "patches"), (recipe(1, alpha="1e3"), "alpha"),
     (recipe(1, alpha="9" * 20) | {"patches": [{"number": 1, "weight": "9" * 20}]}, "alpha")],
)  # fmt: skip
def test_an_impossible_recipe_is_refused(crew: Community, body: dict[str, Any], field: str) -> None:
    assert crew.ask(None, "POST", "/preview", 422, **body)["field"] == field
