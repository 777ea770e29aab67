"""Reviews: the steps of a patch, who may take them, and what must not be missing."""

import math
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select

from registry.db.tables import Check, Comment, Patch, Review, User, now
from registry.errors import WrongState
from registry.services.catalog import norms, revisions
from registry.services.curation import reviews
from tests.support.community import NAME, PATCHES, URL, Community
from tests.support.databases import await_lock
from tests.support.makers import changed, fine_tuned, make_patch
from tests.support.world import upload

pytestmark = pytest.mark.heavy

# verb -> where it starts, where it ends, who may take it, what they send
STEPS: dict[str, tuple[set[str], str, str, dict[str, Any]]] = {
    "propose": ({"draft", "changes_requested"}, "proposed", "bob", {}),
    "withdraw": ({"draft", "proposed", "changes_requested"}, "withdrawn", "bob", {"message": "no use"}),
    "approve": ({"proposed"}, "proposed", "rita", {"verdict": "approve", "revision": 1}),
    "request changes": ({"proposed"}, "changes_requested", "rita", {"verdict": "request_changes", "revision": 1}),
    "accept": ({"proposed"}, "accepted", "mary", {"message": "good"}),
    "reject": ({"proposed", "changes_requested"}, "rejected", "mary", {"message": "no use"}),
    "yank": ({"accepted"}, "yanked", "mary", {"message": "no use"}),
    "unyank": ({"yanked"}, "accepted", "mary", {"message": "it was not so"}),
}
STATES = ("draft", "proposed", "changes_requested", "accepted", "rejected", "withdrawn", "superseded", "yanked")


def propose(crew: Community, *numbers: int) -> None:
    for number in numbers:
        crew.post("bob", f"/patches/{number}/propose")


def approve(crew: Community, user: str, number: int = 1, revision: int = 1, status: int = 201) -> Any:
    return crew.post(user, f"/patches/{number}/reviews", status, verdict="approve", revision=revision)


def accept(crew: Community, number: int = 1, status: int = 200, **body: Any) -> Any:
    return crew.post("mary", f"/patches/{number}/accept", status, **{"message": "", **body})


def missing(crew: Community, number: int = 1) -> list[str]:
    found: list[str] = crew.get(f"/patches/{number}/discussion")["missing"]
    return found


@pytest.mark.parametrize("verb", STEPS)
def test_a_step_leads_where_the_table_says_and_from_elsewhere_nowhere(crew: Community, verb: str) -> None:
    starts, end, user, body = STEPS[verb]
    path = f"/patches/1/{'reviews' if 'verdict' in body else verb}"
    crew.rules(min_approvals=0)
    for state in STATES:
        crew.set(1, state=state, reason="before")
        before = crew.count_events()
        if state in starts:
            answer = crew.post(user, path, 201 if "verdict" in body else 200, **body)
            assert (answer["state"], crew.patch(1)["state"]) == (end, end)
            assert crew.count_events() == before + 1
            if "verdict" not in body and verb != "accept":
                assert answer["reason"] == ("no use" if body.get("message") == "no use" else None)
        else:
            refused = crew.post(user, path, 409, **body)["detail"]
            needs = "only a proposed patch" if verb == "approve" else " or ".join(sorted(starts))
            assert f"{NAME}#1 is {state}; " in refused
            assert needs in refused
            assert (crew.patch(1)["state"], crew.patch(1)["reason"]) == (state, "before")
            assert crew.count_events() == before


def test_a_rejection_and_a_yank_have_to_be_explained(crew: Community) -> None:
    propose(crew, 1)
    for verb in ("reject", "yank"):
        for body in ({}, {"message": ""}, {"message": "  "}):
            assert crew.post("mary", f"/patches/1/{verb}", 422, **body)
    assert crew.patch(1)["state"] == "proposed"


def test_a_decided_patch_takes_no_revision(crew: Community) -> None:
    for state in ("accepted", "rejected", "withdrawn", "superseded", "yanked"):
        crew.set(1, state=state)
        refused = crew.revise(1, crew.spares[0], status=409)["detail"]
        assert refused == f"{NAME}#1 is {state} and takes no more revisions; push a new patch."
    assert crew.patch(1)["newest"] == 1


def test_each_step_is_for_those_whose_it_is(crew: Community) -> None:
    propose(crew, 1)
    for user, path, body in [
        ("mary", "propose", {}),
        ("alice", "withdraw", {"message": ""}),
        ("bob", "accept", {"message": ""}),
        ("rita", "accept", {"message": ""}),
        ("rita", "reject", {"message": "no"}),
        ("carol", "reviews", {"verdict": "approve", "revision": 1}),
        ("bob", "reviews", {"verdict": "request_changes", "revision": 1}),
    ]:
        crew.post(user, f"/patches/1/{path}", 403, **body)
    crew.put("mary", "/patches/1/quarantine", 403, reason="no")
    crew.set(1, state="accepted")
    crew.post("rita", "/patches/1/yank", 403, message="no")
    crew.post("bob", "/patches/1/yank", 200, message="its author may")


def test_nobody_approves_their_own(crew: Community) -> None:
    for number, user in ((PATCHES + 1, "rita"), (PATCHES + 2, "alice")):
        pushed = crew.push(crew.spares[number - PATCHES - 1], user, propose=True)
        assert (pushed["number"], pushed["state"]) == (number, "proposed")
        for verdict in ("approve", "request_changes"):
            refused = crew.post(user, f"/patches/{number}/reviews", 403, verdict=verdict, revision=1)
            assert refused["detail"] == f"{NAME}#{number} is your own patch; somebody else has to review it."
        with crew.world.database.write() as session:  # and if a row came there by another way, it would not count
            author = session.scalars(select(User).where(User.name == user)).one()
            revision = crew.revision(session, number)
            session.add(Review(revision_id=revision.id, reviewer_id=author.id, verdict="approve", message=""))
        assert missing(crew, number) == ["It has 0 of 1 approvals of revision 1."]
        crew.post("mary", f"/patches/{number}/accept", 409, message="")
    approve(crew, "rolf", PATCHES + 1)
    accept(crew, PATCHES + 1)


def test_a_new_revision_has_neither_approvals_nor_checks(crew: Community) -> None:
    propose(crew, 1)
    approve(crew, "rita")
    crew.post("alice", "/evaluations", 201, ref="#1", task="t", dataset="d", metric="m", value=1)
    assert missing(crew) == []
    sha256 = crew.patch(1)["sha256"]
    crew.revise(1, crew.spares[0])
    talk = crew.get("/patches/1/discussion")
    assert [(one["revision"], one["counts"]) for one in talk["reviews"]] == [(1, False)]
    assert talk["missing"] == ["It has 0 of 1 approvals of revision 2."]
    assert talk["evaluations"] == []
    assert crew.patch(1)["sha256"] != sha256
    assert (crew.get("/patches/1.1")["sha256"], crew.get("/patches/1.1")["newest"]) == (sha256, 2)
    assert "0 of 1 approvals" in accept(crew, 1, 409)["detail"]
    with crew.world.database.write() as session:
        crew.revision(session, 1, 2).state = "checking"
    assert "Its revision 2 is checking." in accept(crew, 1, 409)["detail"]
    with crew.world.database.write() as session:
        crew.revision(session, 1, 2).state = "checked"
    approve(crew, "rita", 1, 2)
    accept(crew)


def test_what_counted_for_an_old_revision_is_not_shown_as_counting(crew: Community) -> None:
    propose(crew, 1)
    approve(crew, "rita")
    crew.revise(1, crew.spares[0])
    old = crew.get("/patches/1.1/discussion")
    assert (old["patch"]["revision"], [one["counts"] for one in old["reviews"]]) == (1, [False])


def test_a_review_of_an_older_revision_is_refused(crew: Community) -> None:
    propose(crew, 1)
    crew.revise(1, crew.spares[0])
    sentence = f"{NAME}#1 is at revision 2 now, not 1; look at it again."
    for verdict in ("approve", "request_changes"):
        refused = crew.post("rita", "/patches/1/reviews", 409, verdict=verdict, revision=1)
        assert refused["detail"] == sentence
    assert approve(crew, "rita", 1, 3, status=409)["detail"].endswith("not 3; look at it again.")
    approve(crew, "rita", 1, 2)
    assert accept(crew, 1, 409, revision=1)["detail"] == sentence
    assert crew.patch(1)["state"] == "proposed"
    accept(crew, 1, revision=2)


def test_of_several_verdicts_the_newest_counts(crew: Community) -> None:
    propose(crew, 1)
    approve(crew, "rita")
    crew.post("rita", "/patches/1/reviews", 201, verdict="request_changes", revision=1, message="on second thoughts")
    assert missing(crew) == ["It has 0 of 1 approvals of revision 1."]
    propose(crew, 1)
    accept(crew, 1, 409)
    approve(crew, "rita")
    counting = [(one["verdict"], one["counts"]) for one in crew.get("/patches/1/discussion")["reviews"]]
    assert counting == [("approve", False), ("request_changes", False), ("approve", True)]
    accept(crew)


def test_an_approval_that_a_clock_dated_tomorrow_is_withdrawn_all_the_same(crew: Community) -> None:
    propose(crew, 1)
    approve(crew, "rita")
    with crew.world.database.write() as session:
        session.scalars(select(Review)).one().created_at = now() + timedelta(days=1)
    crew.post("rita", "/patches/1/reviews", 201, verdict="request_changes", revision=1, message="the clock went back")
    assert missing(crew) == ["It has 0 of 1 approvals of revision 1."]
    propose(crew, 1)
    accept(crew, 1, 409)


def test_two_approvals_of_one_reviewer_count_once(crew: Community) -> None:
    crew.rules(min_approvals=2)
    propose(crew, 1)
    approve(crew, "rita")
    approve(crew, "rita")
    assert missing(crew) == ["It has 1 of 2 approvals of revision 1."]


def test_the_approval_of_a_user_who_lost_the_role_no_longer_counts(crew: Community) -> None:
    propose(crew, 1)
    approve(crew, "rita")
    for lose, regain in [
        (lambda: crew.role("rita", None), lambda: crew.role("rita", "reviewer")),
        (lambda: crew.role("rita", "contributor"), lambda: crew.role("rita", "maintainer")),
        (lambda: crew.disable("rita"), lambda: crew.disable("rita", active=True)),
    ]:
        lose()
        assert "0 of 1 approvals" in accept(crew, 1, 409)["detail"]
        regain()
        assert missing(crew) == []
    accept(crew)


@pytest.mark.parametrize("needed", [0, 1, 3])
def test_as_many_approvals_are_needed_as_the_model_says(crew: Community, needed: int) -> None:
    crew.rules(min_approvals=needed)
    propose(crew, 1)
    for count, user in enumerate(("rita", "rolf", "max")[:needed]):
        assert f"It has {count} of {needed} approvals of revision 1." in accept(crew, 1, 409)["detail"]
        approve(crew, user)
    assert missing(crew) == []
    accept(crew)
    event = crew.events("patch.accept")[0]
    assert (event.user_name, event.before, event.after and event.after["state"]) == (
        "mary",
        {"state": "proposed"},
        "accepted",
    )


def test_accepting_lists_everything_that_is_missing(crew: Community) -> None:
    crew.rules(min_approvals=2, required_evaluations=["squad:f1", "glue:accuracy"])
    propose(crew, 1)
    approve(crew, "rita")
    fail_check(crew, required=True)
    crew.put("chief", "/patches/1/quarantine", reason="odd")
    sentences = [
        "It is quarantined.",
        "The check 'made-up' failed: it is odd.",
        "It has 1 of 2 approvals of revision 1.",
        "The evaluation squad:f1 is missing.",
        "The evaluation glue:accuracy is missing.",
    ]
    assert missing(crew) == sentences
    refused = accept(crew, 1, 409)["detail"]
    assert refused == f"{NAME}#1 cannot be accepted yet: {' '.join(sentences)}"
    assert crew.patch(1)["state"] == "proposed"


def fail_check(crew: Community, *, required: bool) -> None:
    with crew.world.database.write() as session:
        revision = crew.revision(session, 1)
        row = session.get(Check, (revision.id, "made-up"))
        if row is None:
            row = Check(revision_id=revision.id, name="made-up", position=99, status="fail", summary="it is odd.")
            session.add(row)
        row.required = required


def test_only_a_required_check_that_failed_keeps_a_patch_out(crew: Community) -> None:
    propose(crew, 1)
    approve(crew, "rita")
    fail_check(crew, required=True)
    assert "The check 'made-up' failed: it is odd." in accept(crew, 1, 409)["detail"]
    fail_check(crew, required=False)
    accept(crew)


def test_a_required_evaluation_is_of_this_revision_this_data_and_this_metric(crew: Community) -> None:
    crew.rules(required_evaluations=["squad:f1"])
    propose(crew, 1)

    def measure(ref: str, dataset: str, metric: str) -> None:
        body = {"ref": ref, "task": "qa", "dataset": dataset, "metric": metric, "value": 0.5}
        crew.post("carol", "/evaluations", 201, **body)

    measure("#1", "squad", "f1")
    crew.revise(1, crew.spares[0])
    approve(crew, "rita", 1, 2)
    for ref, dataset, metric in [("#1.1", "squad", "f1"), ("#2", "squad", "f1"), ("base", "squad", "f1")]:
        measure(ref, dataset, metric)
    measure("#1.2", "squad", "exact")
    measure("#1", "glue", "f1")
    assert accept(crew, 1, 409)["detail"].endswith("The evaluation squad:f1 is missing.")
    measure("#1", "squad", "f1")
    accept(crew)


def test_an_accepted_patch_takes_the_place_of_older_ones(crew: Community) -> None:
    crew.accept(1, 2)
    propose(crew, 3, 4)
    approve(crew, "rita", 3)
    approve(crew, "rita", 4)
    refused = accept(crew, 3, 409, supersedes=[1, 4])["detail"]
    assert refused == f"{NAME}#4 is proposed; to supersede it, it must be accepted."
    assert accept(crew, 3, 422, supersedes=[1, 3])["field"] == "supersedes"
    assert accept(crew, 3, 404, supersedes=[1, 9])
    assert [crew.patch(number)["state"] for number in (1, 2, 3)] == ["accepted", "accepted", "proposed"]
    accept(crew, 3, supersedes=[2, 1, 2])
    assert [(crew.patch(n)["state"], crew.patch(n)["superseded_by"]) for n in (1, 2, 3)] == [
        ("superseded", 3),
        ("superseded", 3),
        ("accepted", None),
    ]
    assert crew.post("mary", "/patches/1/yank", 409, message="late")["detail"].startswith(f"{NAME}#1 is superseded; ")


def test_a_yank_names_the_releases_and_channels_that_hold_the_patch(crew: Community) -> None:
    crew.accept(1, 2, 3)
    crew.publish("1.0.0", [1])
    crew.publish("1.1.0", [1, 2])
    crew.cut("1.2.0", [1, 2, 3])  # a candidate is no release that anybody relies on
    for channel, version in (("stable", "1.0.0"), ("beta", "1.1.0"), ("nightly", "1.1.0")):
        crew.put("mary", f"/channels/{channel}", version=version)
    yanked = crew.post("bob", "/patches/2/yank", message="it forgets")
    assert yanked["affected"] == {"releases": ["1.1.0"], "channels": ["beta", "nightly"]}
    assert yanked["reason"] == "it forgets"
    both = crew.get("/patches/1/discussion")["affected"]
    assert both == {"releases": ["1.1.0", "1.0.0"], "channels": ["beta", "nightly", "stable"]}
    assert crew.get("/patches/3/discussion")["affected"] == {"releases": [], "channels": []}
    warnings = {row["name"]: row["warnings"] for row in crew.get("/channels")}
    assert "Patch #2 was yanked: it forgets" in warnings["beta"]
    assert not any("yanked" in warning for warning in warnings["stable"])
    assert crew.get("/revisions/1.0.0")["warnings"] == []
    assert crew.get("/revisions/beta")["warnings"] == [f"{NAME}@1.1.0 holds patch #2, which was yanked: it forgets"]
    undone = crew.post("mary", "/patches/2/unyank", message="it was the test")
    assert (undone["state"], undone["reason"], undone["affected"]) == ("accepted", None, None)
    assert crew.get("/revisions/beta")["warnings"] == []


def compose(crew: Community, *numbers: int, user: str = "carol", status: int = 202, **body: Any) -> Any:
    patches = [{"number": number} for number in numbers]
    return crew.post(user, "/compositions", status, patches=patches, **{"alpha": "0.3", **body})


def test_a_yanked_patch_is_composed_only_when_asked_for(crew: Community) -> None:
    crew.accept(1)
    crew.post("mary", "/patches/1/yank", message="it forgets")
    refused = compose(crew, 1, 2, status=422)
    assert refused["detail"] == (
        f"{NAME}#1 was yanked (it forgets); leave it out, or pass --allow-yanked to compose it anyway."
    )
    compose(crew, 1, 2, allow_yanked=True)
    compose(crew, 2)


def test_a_quarantined_patch_is_for_admins_alone(crew: Community) -> None:
    digest = compose(crew, 1, 2)["recipe"]["digest"]
    other = compose(crew, 2)["recipe"]["digest"]
    crew.world.work()
    people = (None, "carol", "bob", "rita", "mary", "alice")
    paths = ("/patches/1/file", "/patches/1.1/file", f"/revisions/{digest}", f"/revisions/{digest}/files/config.json")
    assert {crew.get(path, user) is not None for path in paths for user in people} == {True}
    shown = crew.put("chief", "/patches/1/quarantine", reason="it leaks names")
    assert (shown["quarantined"], shown["state"], crew.patch(1)["quarantined"]) == (
        "it leaks names",
        "draft",
        "it leaks names",
    )
    for path in paths:
        for user in people:
            refused = crew.get(path, user, 403)
            assert "quarantined" in refused["detail"]
        assert crew.world.client("bob").head(f"{URL}{path}").status_code in (403, 405)
    for user in (*people[1:], "chief"):
        refused = compose(crew, 1, 2, user=user, status=422)
        assert refused["detail"] == f"{NAME}#1 is quarantined and cannot be composed."
        compose(crew, 1, user=user, status=422, allow_yanked=True)
    kept = crew.get("/patches/1/file", "chief")
    assert "private" in kept.headers["cache-control"]
    assert crew.get(f"/revisions/{digest}", "chief")["warnings"] == ["Patch #1 is quarantined: it leaks names"]
    assert crew.get(f"/revisions/{digest}/files/config.json", "chief") is not None
    assert crew.get(f"/revisions/{other}")["warnings"] == []
    crew.put("chief", "/patches/1/quarantine", reason="it leaks names")
    crew.world.client("chief").put(f"{URL}/patches/1/quarantine", json={"reason": None})
    assert crew.patch(1)["quarantined"] is None
    assert {crew.get(path, user) is not None for path in paths for user in people} == {True}
    assert [len(crew.events(f"patch.{verb}")) for verb in ("quarantine", "release_from_quarantine")] == [1, 1]


def test_a_patch_quarantined_while_it_waits_to_be_composed_is_not_composed(crew: Community) -> None:
    job = compose(crew, 1, 2)["job"]
    crew.put("chief", "/patches/2/quarantine", reason="odd")
    crew.world.work()
    ended = crew.world.client("carol").get(f"/api/v1/jobs/{job['id']}").json()
    assert (ended["state"], ended["error"]) == ("failed", f"{NAME}#2 is quarantined and cannot be composed.")


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


def test_an_outlying_norm_is_a_warning_with_numbers() -> None:
    ordinary = [1.0, 1.1, 0.9, 1.05]
    assert norms.outlier_warning("x", 1.2, ordinary) is None
    assert norms.outlier_warning("x", 30.0, ordinary) == "x has L2 norm 30, 33.8 deviations from the median 1.025"
    assert norms.outlier_warning("x", 0.01, ordinary) is not None, "a patch that does nothing is odd, too"
    assert norms.outlier_warning("x", 0.0, ordinary) is None, "nothing has no logarithm"
    assert norms.outlier_warning("x", 30.0, ordinary[:2]) is None, "two are not enough to say what is ordinary"
    assert norms.outlier_warning("x", 30.0, [1.0, 1.0, 0.0]) is None, "and one that is zero is none of them"


def test_near_equal_norms_do_not_flag_each_other_and_one_odd_one_moves_nothing() -> None:
    assert norms.outlier_warning("x", 1.4, [1.0, 1.0, 1.0]) is None
    assert norms.outlier_warning("x", 1.6, [1.0, 1.0, 1.0]) is not None
    assert norms.outlier_warning("x", 1e6, [1.0, 1.01, 0.99, 1e6]) is not None
    wide = [math.exp(-0.5), 1.0, math.exp(0.5)]  # a normal distribution of this MAD deviates by 0.5 * 1.4826
    assert norms.outlier_warning("x", math.exp(2.9), wide) is None
    assert norms.outlier_warning("x", math.exp(3.0), wide) is not None


def test_the_worker_warns_of_a_patch_out_of_the_ordinary(crew: Community, tmp_path: Path) -> None:
    def check(number: int) -> dict[str, Any]:
        (found,) = (one for one in crew.get(f"/patches/{number}/discussion")["checks"] if one["name"] == "norms")
        return found

    def push(name: str, tuned: Path) -> dict[str, Any]:
        make_patch(crew.base, tuned, tmp_path / f"{name}.safetensors")
        return check(crew.push(tmp_path / f"{name}.safetensors")["number"])

    assert check(4)["summary"] == f"Not compared: {NAME} has 0 accepted patches, and 3 are needed."
    crew.accept(1, 2)
    assert push("early", fine_tuned(crew.base, tmp_path / "early", seed=21, scale=1.0))["status"] == "pass"
    crew.accept(3)
    ordinary = push("ordinary", fine_tuned(crew.base, tmp_path / "ordinary", seed=22))
    assert (ordinary["status"], ordinary["required"]) == ("pass", False)
    assert "ordinary among 3 accepted patches" in ordinary["summary"]
    far = push("far", fine_tuned(crew.base, tmp_path / "far", seed=23, scale=1.0))
    assert far["status"] == "warn"
    assert far["summary"].startswith("the whole patch has L2 norm ")
    assert "deviations from the median" in far["summary"]
    assert "embed.weight has L2 norm" in far["summary"]

    def only_norm(name: str, tensor: torch.Tensor) -> torch.Tensor:  # far in one small tensor alone
        if not tensor.is_floating_point():
            return tensor
        random = torch.Generator().manual_seed(24)
        return tensor + torch.randn(tensor.shape, generator=random) * (0.09 if "norm" in name else 0.01)

    one = push("one", changed(crew.base, tmp_path / "one", only_norm))
    assert one["status"] == "warn"
    assert one["summary"].startswith("layers.0.norm.weight has L2 norm")
    crew.post("bob", "/patches/7/propose")
    approve(crew, "rita", 7)
    accept(crew, 7)  # a warning is no verdict


def test_a_patch_accepted_while_its_next_revision_arrives_is_what_was_approved(
    crew: Community, database_kind: str
) -> None:
    """The second transaction waits, and is refused: no accepted patch has a revision that nobody approved."""
    propose(crew, 1)
    approve(crew, "rita")
    sha256 = upload(crew.world.client("bob"), crew.spares[0].read_bytes())
    found: list[BaseException | None] = []

    def revise() -> None:
        try:
            with crew.world.database.write() as session:
                bob = crew.actor(session, "bob")
                revisions.revise(session, bob, NAME, 1, revisions.Contribution(sha256, "again", ""))
            found.append(None)
        except WrongState as error:
            found.append(error)

    thread = threading.Thread(target=revise)
    with crew.world.database.write() as session:
        mary = crew.actor(session, "mary")
        reviews.accept(session, mary, NAME, 1, "", None, [])
        session.flush()
        thread.start()
        if database_kind == "postgresql":  # on SQLite, it waits for the one writer
            await_lock(crew.world.database, thread)
    thread.join(30)
    assert isinstance(found[0], WrongState)
    with crew.world.database.read() as session:
        row = session.scalars(select(Patch).where(Patch.number == 1)).one()
        assert (row.state, row.revision) == ("accepted", 1)
