"""Abuse reports: every user may send them, once, and only admins see them."""

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, update

from registry.db.tables import AuditEvent, Model, Namespace, Patch, PatchRevision, Report, User, WebhookDelivery
from registry.services.events import deliveries
from registry.services.operating import reports
from registry.services.people import actors
from registry.services.people.tokens import create_token
from tests.support.world import World

pytestmark = pytest.mark.heavy

ADMIN = "/api/v1/admin/reports"


def add_model(world: World, name: str, visibility: str = "public", patches: int = 0) -> None:
    """Add a model of alice's with patches but without files, which these tests do not need."""
    world.token("alice")
    with world.database.write() as session:
        alice = session.scalars(select(User).where(User.name == "alice")).one()
        space = session.scalars(select(Namespace).where(Namespace.name == "alice")).one()
        model = Model(namespace_id=space.id, name=name, creator_id=alice.id, size=0, visibility=visibility)
        session.add(model)
        session.flush()
        for number in range(1, patches + 1):
            patch = Patch(model_id=model.id, number=number, author_id=alice.id)
            session.add(patch)
            session.flush()
            sha256 = f"{number:064x}"
            words = {"title": "t", "message": "", "base_digest": "sha256:" + "0" * 64, "sha256": sha256, "size": 1}
            session.add(PatchRevision(patch_id=patch.id, number=1, **words))


def report(world: World, user: str | None, name: str = "open", status: int = 201, **body: Any) -> Any:
    given = {"reason": "malware", "message": "It phones home.", **body}
    answer = world.client(user).post(f"/api/v1/models/alice/{name}/reports", json=given)
    assert answer.status_code == status, answer.text
    return answer.json()


def listed(world: World, **query: Any) -> list[dict[str, Any]]:
    """Follow all pages of two, as an admin."""
    found, before = [], {}
    while True:
        answer = world.client("chief", admin=True).get(ADMIN, params={"limit": 2, **query, **before})
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        assert len(answer.json()["items"]) <= 2
        if answer.json()["next"] is None:
            return found
        before = {"before": answer.json()["next"]}


def close(world: World, made: dict[str, Any], answer: str = "Looked at.", status: int = 200) -> Any:
    done = world.client("chief", admin=True).post(f"{ADMIN}/{made['id']}/close", json={"answer": answer})
    assert done.status_code == status, done.text
    return done.json()


def test_whoever_sees_a_model_may_report_it_and_admins_see_who_did(world: World) -> None:
    add_model(world, "open", patches=1)
    add_model(world, "shut", "private")
    made = report(world, "bob", number=1, reason="personal_data", message=" It knows my address. ")
    assert (made["model"], made["number"], made["reporter"]) == ("alice/open", 1, "bob")
    assert (made["reason"], made["message"], made["closed_at"]) == ("personal_data", "It knows my address.", None)
    report(world, None, status=401)
    report(world, "bob", "shut", status=404)
    mine = report(world, "alice", "shut")
    assert listed(world) == [mine, made]


def test_a_token_that_reads_is_enough_to_report_and_no_admin_is_one_without_the_scope(world: World) -> None:
    add_model(world, "open")
    report(world, "bob")
    for path in (ADMIN, f"{ADMIN}?open=false"):
        assert world.client("bob").get(path).status_code == 403
        assert world.client("alice").get(path).status_code == 403
    with world.database.write() as session:
        world.tokens["reader"], _ = create_token(session, "carol", scopes=("read",))
    report(world, "reader")
    assert [row["reporter"] for row in listed(world)] == ["carol", "bob"]


def test_the_same_again_changes_the_words_until_it_is_closed(world: World) -> None:
    add_model(world, "open")
    first = report(world, "bob")
    again = report(world, "bob", reason="other", message="It is something else.")
    assert (again["id"], again["created_at"]) == (first["id"], first["created_at"])
    other = report(world, "carol")
    assert [(row["id"], row["message"]) for row in listed(world)] == [
        (other["id"], "It phones home."),
        (first["id"], "It is something else."),
    ]
    close(world, again)
    assert report(world, "bob")["id"] != first["id"]


def test_a_model_and_each_of_its_patches_are_reported_apart(world: World) -> None:
    add_model(world, "open", patches=2)
    made = [report(world, "bob"), *(report(world, "bob", number=number) for number in (1, 2))]
    assert [row["number"] for row in listed(world)] == [2, 1, None]
    assert len({row["id"] for row in made}) == 3
    assert "alice/open#3" in report(world, "bob", number=3, status=404)["detail"]


def test_the_same_reported_by_one_person_at_once_is_one_report(world: World) -> None:
    add_model(world, "open")
    token, start, failed = world.token("bob"), threading.Barrier(8), []

    def say() -> None:
        try:
            start.wait(10)
            with world.database.write() as session:
                bob = actors.authenticate(session, token)
                reports.create(session, bob, "alice/open", None, "other", "Bad.")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=say) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failed
    assert len(listed(world)) == 1


def test_nobody_has_more_than_twenty_open_and_a_closed_one_makes_room(world: World) -> None:
    add_model(world, "open", patches=reports.MOST_OPEN)
    made = [report(world, "bob", number=number) for number in range(1, reports.MOST_OPEN + 1)]
    refused = report(world, "bob", status=409)
    assert f"{reports.MOST_OPEN} of your reports" in refused["detail"]
    assert report(world, "bob", number=1, message="Still.")["id"] == made[0]["id"]
    report(world, "carol")
    close(world, made[3])
    report(world, "bob")


def test_a_report_is_closed_once_and_says_by_whom(world: World) -> None:
    add_model(world, "open")
    made = report(world, "bob")
    done = close(world, made, "It is gone.")
    assert (done["answer"], done["closed_by"], done["closed_at"] is None) == ("It is gone.", "chief", False)
    assert close(world, made, "It is gone.") == done
    assert "closed by chief" in close(world, made, "Something else.", 409)["detail"]
    assert listed(world) == []
    assert listed(world, open=False) == [done]
    assert "crumb admin reports" in close(world, {"id": "0" * 32}, status=404)["detail"]


def test_pages_hold_every_report_once_even_of_one_moment(world: World) -> None:
    add_model(world, "open", patches=5)
    for number in range(1, 6):
        report(world, "bob", number=number)
    moment = datetime(2026, 2, 3, 4, 5, 6, 789123, tzinfo=UTC)
    with world.database.write() as session:
        session.execute(update(Report).where(Report.number < 5).values(created_at=moment))
    found = listed(world)
    assert found[0]["number"] == 5
    assert {row["number"] for row in found[1:]} == {1, 2, 3, 4}
    assert len(found) == 5
    for before in ("x", "1-", "9" * 17 + "-" + "0" * 32):
        assert world.client("chief").get(ADMIN, params={"before": before}).status_code == 422, before


def test_neither_owner_nor_feed_nor_webhook_is_told_of_a_report(world: World) -> None:
    add_model(world, "open")
    add_model(world, "shut", "private")
    alice = world.client("alice")
    for name in ("open", "shut"):
        hook = {"url": "https://hooks.example.org/", "events": ["*"]}
        assert alice.post(f"/api/v1/models/alice/{name}/webhooks", json=hook).status_code == 201
    world.token("bob")
    alice.put("/api/v1/models/alice/shut/members/bob", json={"role": "contributor"})
    for name in ("open", "shut"):
        made = report(world, "bob", name)
        report(world, "bob", name, message="It is worse.")
        close(world, made)
    with world.database.write() as session:
        while deliveries.collect(session):
            pass
    with world.database.read() as session:
        told = session.scalars(
            select(AuditEvent.action).join(WebhookDelivery, WebhookDelivery.event_serial == AuditEvent.serial)
        ).all()
    assert set(told) == {"model.member"}
    for user in ("alice", "chief"):
        client = world.client(user)
        seen = client.get("/api/v1/changes").json()["items"]
        for name in ("open", "shut"):
            seen += client.get(f"/api/v1/models/alice/{name}/audit").json()["items"]
        assert seen
        assert not [row for row in seen if row["action"].startswith("report.")]
    actions = [row["action"] for row in world.client("chief").get("/api/v1/audit").json()["items"]]
    assert actions.count("report.create") == actions.count("report.update") == actions.count("report.close") == 2


def test_an_invalid_report_is_refused(world: World) -> None:
    add_model(world, "open")
    for message in ("  ", "x" * 4001, "a\0b"):
        report(world, "bob", status=422, message=message)
    for wrong in ({"reason": "spam"}, {"number": 0}, {"number": 2**31}, {"number": "1.1"}, {"more": 1}):
        report(world, "bob", status=422, **wrong)
    assert listed(world) == []
    report(world, "bob", message="x" * 4000)
