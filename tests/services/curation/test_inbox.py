"""The inbox: a fixed number of queries, and the same requirements as accepting a patch."""

from typing import Any

import pytest
from sqlalchemy import event, select

from registry.db.tables import Check, Model, ModelMember, Patch, PatchRevision, Recipe, Release, User
from tests.support.community import NAME, Community
from tests.support.world import add_model

pytestmark = pytest.mark.heavy


def acceptable(crew: Community) -> list[int]:
    return [patch["number"] for patch in crew.get("/inbox", "mary")["accept"]]


def test_what_an_inbox_lists_to_accept_can_be_accepted(crew: Community) -> None:
    crew.rules(min_approvals=2, required_evaluations=["mmlu:accuracy"])
    for number in (1, 2, 3, 4):
        crew.post("bob", f"/patches/{number}/propose")
        crew.post("rita", f"/patches/{number}/reviews", 201, verdict="approve", revision=1)
        measured = {"task": "qa", "dataset": "mmlu", "metric": "accuracy" if number != 2 else "loss", "value": 0.5}
        crew.post("bob", "/evaluations", 201, ref=f"#{number}", **measured)
    assert acceptable(crew) == []
    for number in (1, 2, 4):
        crew.post("max", f"/patches/{number}/reviews", 201, verdict="approve", revision=1)
    with crew.world.database.write() as session:
        session.merge(Check(revision_id=crew.revision(session, 4).id, name="finite", **fails()))
    assert acceptable(crew) == [1]  # 2 is not measured, 3 not approved by two, 4 not sound
    for number in (1, 2, 3, 4):
        assert (crew.get(f"/patches/{number}/discussion")["missing"] == []) == (number == 1)
    crew.role("rita", None)
    assert acceptable(crew) == []  # an approval ends with the role of who gave it
    crew.role("rita", "reviewer")
    crew.disable("max")
    assert acceptable(crew) == []


def fails() -> dict[str, Any]:
    return {"position": 9, "required": True, "status": "fail", "summary": "NaN in a tensor"}


def test_an_inbox_takes_no_more_queries_for_many_patches(crew: Community) -> None:
    asked: list[str] = []
    event.listen(crew.world.database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))

    def count() -> int:
        asked.clear()
        crew.get("/inbox", "mary")
        return len(asked)

    crew.post("bob", "/patches/1/propose")
    crew.post("rita", "/patches/1/reviews", 201, verdict="approve", revision=1)
    assert acceptable(crew) == [1]  # the use of the token is written down with that
    few = count()
    for number in (2, 3, 4):
        crew.post("bob", f"/patches/{number}/propose")
        crew.post("rita", f"/patches/{number}/reviews", 201, verdict="approve", revision=1)
    assert acceptable(crew) == [1, 2, 3, 4]
    assert count() == few


def test_an_approval_of_an_older_revision_counts_in_no_inbox(crew: Community) -> None:
    crew.post("bob", "/patches/1/propose")
    crew.post("rita", "/patches/1/reviews", 201, verdict="approve", revision=1)
    assert acceptable(crew) == [1]
    crew.revise(1, crew.spares[0])
    with crew.world.database.read() as session:
        assert session.query(PatchRevision).count() == 5
    assert acceptable(crew) == []
    assert [patch["revision"] for patch in crew.get("/inbox", "rita")["review"]] == [2]


def test_an_inbox_is_paged_and_the_client_reads_all_of_it(crew: Community) -> None:
    for number in (1, 2, 3):
        crew.post("bob", f"/patches/{number}/propose")
    first = crew.get("/inbox?limit=2", "rita")
    assert [patch["number"] for patch in first["review"]] == [1, 2]
    assert first["next"] == 2
    second = crew.get("/inbox?limit=2&after=2", "rita")
    assert ([patch["number"] for patch in second["review"]], second["next"]) == ([3], None)
    assert [patch["number"] for patch in crew.get("/inbox?limit=1&after=3", "bob")["mine"]] == [4]


def everywhere(crew: Community, user: str, query: str = "") -> dict[str, tuple[int, int, int]]:
    answer = crew.world.client(user).get(f"/api/v1/inbox{query}")
    assert answer.status_code == 200, answer.text
    return {row["model"]: (row["proposed"], row["mine"], row["candidates"]) for row in answer.json()["items"]}


def test_one_inbox_names_the_models_in_which_something_waits(crew: Community) -> None:
    add_model(crew.world, "other")
    add_model(crew.world, "hidden")
    assert everywhere(crew, "bob") == {NAME: (0, 4, 0)}
    assert everywhere(crew, "mary") == everywhere(crew, "rita") == everywhere(crew, "carol") == {}
    for number in (1, 2):
        crew.post("bob", f"/patches/{number}/propose")
    assert everywhere(crew, "rita") == everywhere(crew, "mary") == everywhere(crew, "alice") == {NAME: (2, 0, 0)}
    assert everywhere(crew, "carol") == everywhere(crew, "chief") == {}  # an admin is told of their own models alone
    assert crew.world.client(None).get("/api/v1/inbox").status_code == 401
    with crew.world.database.write() as session:
        rita = session.scalars(select(User).where(User.name == "rita")).one()
        bob = session.scalars(select(User).where(User.name == "bob")).one()
        other, hidden = (session.scalars(select(Model).where(Model.name == name)).one() for name in ("other", "hidden"))
        for model in (other, hidden):
            session.add(Patch(model_id=model.id, number=1, author_id=bob.id, state="proposed", revision=1))
        session.add(ModelMember(model_id=other.id, user_id=rita.id, role="maintainer"))
        session.add(Recipe(digest="0" * 64, base_digest="sha256:" + "0" * 64, alpha="1", method="sum"))
        session.flush()
        cut = {"version": "1.0.0", "sort": "1", "state": "candidate", "recipe_digest": "0" * 64, "changelog": ""}
        session.add(Release(model_id=other.id, creator_id=rita.id, **cut))
        hidden.visibility = "private"
    assert everywhere(crew, "rita") == {"alice/other": (1, 0, 1), NAME: (2, 0, 0)}
    assert everywhere(crew, "bob") == {"alice/other": (0, 1, 0), NAME: (0, 4, 0)}  # and nothing of what is private now
    assert everywhere(crew, "alice") == {"alice/hidden": (1, 0, 0), "alice/other": (1, 0, 1), NAME: (2, 0, 0)}
    assert list(everywhere(crew, "alice", "?limit=1")) == ["alice/hidden"]
    assert list(everywhere(crew, "alice", "?limit=1&after=alice/hidden")) == ["alice/other"]
    assert list(everywhere(crew, "alice", "?after=alice/other")) == [NAME]
