"""Discussions and the inbox: all that was said and found, and what waits for whom."""

import pytest

from registry.db.tables import Comment
from tests.support.community import Community
from tests.support.reviewing import approve, propose

pytestmark = pytest.mark.heavy


def test_a_discussion_shows_all_that_was_said_and_found(crew: Community) -> None:
    propose(crew, 1)
    crew.post("carol", "/patches/1/comments", 201, message="Why so dense?")
    crew.post("rita", "/patches/1/reviews", 201, verdict="request_changes", revision=1, message="Too dense.")
    crew.revise(1, crew.spares[0])
    said = crew.post("bob", "/patches/1/comments", 201, message="Now?", revision=2)
    assert (said["author"], said["revision"], said["message"]) == ("bob", 2, "Now?")
    crew.post("carol", "/evaluations", 201, ref="#1", task="qa", dataset="squad", metric="f1", value=0.25)
    talk = crew.get("/patches/1/discussion")
    assert talk["patch"] == crew.patch(1)
    assert [(one["revision"], one["title"]) for one in talk["revisions"]] == [(1, "Patch 1"), (2, "again")]
    assert [(one["author"], one["revision"], one["message"]) for one in talk["comments"]] == [
        ("carol", None, "Why so dense?"),
        ("bob", 2, "Now?"),
    ]
    (verdict,) = talk["reviews"]
    assert (verdict["reviewer"], verdict["verdict"], verdict["revision"]) == ("rita", "request_changes", 1)
    assert (verdict["message"], verdict["sha256"]) == ("Too dense.", crew.get("/patches/1.1")["sha256"])
    assert [(one["subject"], one["value"], one["user"]) for one in talk["evaluations"]] == [("#1.2", 0.25, "carol")]
    assert talk["missing"] == ["It has 0 of 1 approvals of revision 2."]
    assert "norms" in {check["name"] for check in talk["checks"]}
    assert {check["status"] for check in talk["checks"] if check["required"]} == {"pass"}
    crew.post("carol", "/patches/1/comments", 404, message="Which?", revision=3)
    crew.post("carol", "/patches/9/comments", 404, message="Which?")
    for words in ("", "   "):
        crew.post("carol", "/patches/1/comments", 422, message=words)
    with crew.world.database.read() as session:
        assert session.query(Comment).count() == 2


def test_a_comment_on_a_decided_patch_is_still_a_comment(crew: Community) -> None:
    crew.accept(1)
    crew.post("carol", "/patches/1/comments", 201, message="Thanks!")
    assert crew.get("/patches/1/discussion")["missing"] == []


def inbox(crew: Community, user: str) -> dict[str, list[int]]:
    found = crew.get("/inbox", user)
    return {kind: [patch["number"] for patch in found[kind]] for kind in ("review", "accept", "mine")}


def test_an_inbox_shows_what_waits_for_its_owner(crew: Community) -> None:
    propose(crew, 1, 2, 3)
    crew.push(crew.spares[0], "rita", propose=True)  # 5
    crew.post("rita", "/patches/2/reviews", 201, verdict="request_changes", revision=1)
    approve(crew, "rita", 3)
    mine = [1, 2, 3, 4]
    assert inbox(crew, "bob") == {"review": [], "accept": [], "mine": mine}
    assert inbox(crew, "rita") == {"review": [1], "accept": [], "mine": [5]}
    assert inbox(crew, "rolf") == {"review": [1, 3, 5], "accept": [], "mine": []}
    assert inbox(crew, "mary") == {"review": [1, 3, 5], "accept": [3], "mine": []}
    assert inbox(crew, "carol") == {"review": [], "accept": [], "mine": []}
    crew.revise(3, crew.spares[1])
    assert inbox(crew, "rita")["review"] == [1, 3]
    assert inbox(crew, "mary")["accept"] == []
    crew.post("bob", "/patches/1/withdraw", message="")
    assert (inbox(crew, "bob")["mine"], inbox(crew, "rolf")["review"]) == ([2, 3, 4], [3, 5])
    crew.get("/inbox", None, 401)
