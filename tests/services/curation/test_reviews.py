"""Reviews: what must not be missing before a patch is accepted, and what counts for which revision."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from registry.db.tables import Check, Patch, Review, User, now
from registry.errors import WrongState
from registry.services.catalog import revisions
from registry.services.curation import reviews
from tests.support.community import NAME, PATCHES, Community
from tests.support.databases import await_lock
from tests.support.reviewing import accept, approve, missing, propose
from tests.support.world import upload

pytestmark = pytest.mark.heavy


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
