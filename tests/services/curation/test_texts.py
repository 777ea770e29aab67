"""Texts: how much a user may write in a day, discussions page by page, and comments that are deleted or hidden."""

import json
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import insert, select

from registry.db.tables import AuditEvent, Comment, Evaluation, Review, User, now
from registry.services.events import payloads
from registry.services.people import budgets
from tests.support.community import NAME, URL, Community


def limit(crew: Community, text_bytes: int) -> None:
    context = crew.world.app.state.context
    settings = context.settings.model_copy(update={"text_bytes": text_bytes})
    crew.world.app.state.context = replace(context, settings=settings)


def say(crew: Community, message: str, user: str = "carol") -> Any:
    return crew.world.client(user).post(f"{URL}/patches/1/comments", json={"message": message})


def fill(crew: Community, table: Any, count: int, **values: Any) -> None:
    """Add rows on patch 1, a second apart, oldest first."""
    with crew.world.database.write() as session:
        revision = crew.revision(session, 1)
        about = {
            Comment: {"patch_id": revision.patch_id},
            Review: {"revision_id": revision.id, "verdict": "approve"},
            Evaluation: {"revision_id": revision.id, "model_id": crew.model(session).id, "task": "t", "dataset": "d"},
        }[table]
        start = now() - timedelta(days=1)
        rows = [{**about, **values, "created_at": start + timedelta(seconds=n)} for n in range(count)]
        session.execute(insert(table), rows)


def user_id(crew: Community, name: str) -> Any:
    with crew.world.database.read() as session:
        return session.scalars(select(User.id).where(User.name == name)).one()


def test_a_message_is_bounded_in_bytes(crew: Community) -> None:
    assert say(crew, "😀" * 16384).status_code == 201
    refused = say(crew, "😀" * 16385)
    assert refused.status_code == 422
    assert "65540 bytes" in refused.text


def test_a_user_writes_so_much_a_day_and_then_waits_for_the_next(crew: Community) -> None:
    limit(crew, 10_000)
    assert [say(crew, "x" * 4000).status_code for _ in range(2)] == [201, 201]
    refused = say(crew, "x" * 4000)
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:breadcrumb:problem:too-many")
    assert 86_000 < int(refused.headers["retry-after"]) <= 86_401
    ends = now() + timedelta(seconds=int(refused.headers["retry-after"]))
    assert f"{ends:%Y-%m-%d}" in refused.json()["detail"]
    assert say(crew, "x" * 4000, "rita").status_code == 201, "everybody has a day of their own"
    (first, second) = crew.get("/patches/1/discussion")["comments"][:2]
    for comment in (first, second):
        crew.post("carol", f"/patches/1/comments/{comment['id']}/delete", message="")
    assert say(crew, "x" * 4000).status_code == 429, "what is deleted was written"
    with crew.world.database.write() as session:
        session.get_one(User, user_id(crew, "carol")).text_since = now() - budgets.DAY
    assert say(crew, "x" * 4000).status_code == 201
    assert [say(crew, "x" * 4000).status_code for _ in range(2)] == [201, 429]
    with crew.world.database.write() as session:
        session.get_one(User, user_id(crew, "carol")).text_since = now() + budgets.DAY
    assert say(crew, "x" * 4000).status_code == 201, "a day that begins tomorrow was begun by a wrong clock"
    with crew.world.database.read() as session:
        assert session.get_one(User, user_id(crew, "carol")).text_bytes < 5000


def test_what_is_refused_for_another_reason_is_not_counted(crew: Community) -> None:
    crew.post("bob", "/patches/1/withdraw", message="w" * 1000)
    with crew.world.database.read() as session:
        before = session.get_one(User, user_id(crew, "bob")).text_bytes
    assert before > 1000
    crew.post("bob", "/patches/1/withdraw", 409, message="w" * 1000)
    with crew.world.database.read() as session:
        assert session.get_one(User, user_id(crew, "bob")).text_bytes == before


BODIES: dict[str, dict[str, Any]] = {
    "PATCH models/{namespace}/{name}": {"license": "mit"},
    "PATCH releases/{version}": {"changelog": "c"},
    "POST builds": {"recipe": "0" * 64, "weights_digest": f"sha256:{'0' * 64}"},
    "POST cards": {"card": "c"},
    "POST cards/{number}/accept": {"message": "m"},
    "POST cards/{number}/reject": {"message": "m"},
    "POST cards/{number}/withdraw": {"message": "m"},
    "POST channels/{channel}/rollback": {"message": "m"},
    "POST compositions": {"patches": [{"number": 1}]},
    "POST conflicts": {"patches": [{"number": 1}, {"number": 2}]},
    "POST evaluations": {"ref": "#1", "task": "t", "dataset": "d", "metric": "m", "value": 1},
    "POST patches": {"sha256": "0" * 64, "title": "t"},
    "POST patches/{number}/accept": {"message": "m"},
    "POST patches/{number}/comments": {"message": "m"},
    "POST patches/{number}/reject": {"message": "m"},
    "POST patches/{number}/reviews": {"verdict": "approve", "revision": 1, "message": "m"},
    "POST patches/{number}/revisions": {"sha256": "0" * 64, "title": "t"},
    "POST patches/{number}/unyank": {"message": "m"},
    "POST patches/{number}/withdraw": {"message": "m"},
    "POST patches/{number}/yank": {"message": "m"},
    "POST releases": {"version": "1.0.0", "patches": [{"number": 1}]},
    "POST releases/{version}/yank": {"message": "m"},
    "POST reports": {"reason": "other", "message": "m"},
    "POST webhooks": {"url": "https://example.org", "events": ["patch.push"]},
    "PUT cards/{number}": {"card": "c"},
    "PUT channels/{channel}": {"version": "1.0.0", "reason": "r"},
    "PUT evaluations": {"ref": "#1", "scores": [{"task": "t", "dataset": "d", "metric": "m", "value": 1}]},
    "PUT patches/{number}/comments/{comment_id}": {"message": "m"},
    "PUT patches/{number}/comments/{comment_id}/hidden": {"reason": "r"},
    "PUT patches/{number}/quarantine": {"reason": "r"},
    "PUT releases/{version}/signature": {"signature": "s"},
}
FREE = {  # adds no text, or only a bounded number of rows
    "PATCH webhooks/{webhook_id}",
    "POST patches/{number}/comments/{comment_id}/delete",
    "POST preview",
    "POST publishers",
    "PUT channels/{channel}/protection",
    "PUT members/{user}",
}


def test_every_route_with_a_text_about_a_model_counts_it(sqlite_crew: Community) -> None:
    """A route that takes a body and is in neither list is new: it counts what it is sent, or says why not."""
    limit(sqlite_crew, 0)
    prefix = "/api/v1/models/{namespace}/{name}"
    found = {}
    for route in sqlite_crew.world.app.openapi()["paths"].items():
        path, methods = route
        for method, about in methods.items():
            if path.startswith(prefix) and "application/json" in about.get("requestBody", {}).get("content", {}):
                short = path.removeprefix(prefix).lstrip("/") or "models/{namespace}/{name}"
                found[f"{method.upper()} {short}"] = (method.upper(), path)
    assert set(found) == set(BODIES) | FREE
    values = {"namespace": "alice", "name": "tiny", "version": "1.0.0", "channel": "stable"}
    values["comment_id"] = str(uuid.uuid4())
    for name, (method, path) in found.items():
        if name in FREE:
            continue
        user = "chief" if "quarantine" in name else "alice"
        number = 1
        if RULES_OF_AUTHORS & {name}:
            user = "bob"
        answer = sqlite_crew.world.client(user).request(
            method, path.format_map({**values, "number": number}), json=BODIES[name]
        )
        assert (answer.status_code, "You have written" in answer.text) == (429, True), (name, answer.text)


RULES_OF_AUTHORS = {
    "PUT cards/{number}",
    "POST cards/{number}/withdraw",
    "POST patches/{number}/withdraw",
    "POST patches/{number}/revisions",
}


def test_a_discussion_is_its_newest_page_and_the_rest_follows(crew: Community) -> None:
    carol, rita = user_id(crew, "carol"), user_id(crew, "rita")
    with crew.world.database.write() as session:
        revision = crew.revision(session, 1)
    fill(crew, Comment, 75, author_id=carol, message="m")
    fill(crew, Review, 35, reviewer_id=rita, message="r")
    fill(crew, Evaluation, 130, user_id=carol, metric="accuracy", value=1.0, higher_is_better=True)
    assert revision is not None
    talk = crew.get("/patches/1/discussion")
    assert (len(talk["comments"]), len(talk["reviews"]), len(talk["evaluations"])) == (30, 30, 100)
    assert [row["counts"] for row in talk["reviews"]] == [False] * 29 + [True]
    times, cursor = [row["created_at"] for row in talk["comments"]], talk["earlier_comments"]
    while cursor:
        page = crew.get(f"/patches/1/comments?before={cursor}&limit=20")
        times = [row["created_at"] for row in page["items"]][::-1] + times
        cursor = page["next"]
    assert len(times) == 75
    assert times == sorted(times)
    page = crew.get(f"/patches/1/reviews?before={talk['earlier_reviews']}")
    assert (len(page["items"]), page["next"]) == (5, None)
    page = crew.get("/evaluations?ref=%231&limit=100")
    rest = crew.get(f"/evaluations?ref=%231&limit=100&after={page['next']}")
    assert (len(page["items"]), len(rest["items"]), rest["next"]) == (100, 30, None)


def test_a_page_of_a_patch_links_earlier_comments(sqlite_crew: Community) -> None:
    fill(sqlite_crew, Comment, 31, author_id=user_id(sqlite_crew, "carol"), message="said so")
    page = sqlite_crew.world.client(None).get(f"/{NAME}/patches/1")
    assert page.text.count("said so") == 30
    cursor = sqlite_crew.get("/patches/1/discussion")["earlier_comments"]
    assert f"?before={cursor}" in page.text
    earlier = sqlite_crew.world.client(None).get(f"/{NAME}/patches/1?before={cursor}")
    assert earlier.text.count("said so") == 1


def test_a_deleted_comment_leaves_who_when_and_why_and_no_text(crew: Community) -> None:
    secret = "my password is hunter2"
    mine, theirs = (say(crew, secret, user).json()["id"] for user in ("carol", "bob"))
    where = f"/patches/1/comments/{theirs}/delete"
    crew.post("carol", where, 403, message="I do not like it.")
    crew.post("rita", where, 403, message="A reviewer is no maintainer.")
    assert crew.post("mary", where, 422, message="")["field"] == "message"
    crew.post("mary", f"/patches/2/comments/{theirs}/delete", 404, message="Of another patch.")
    deleted = crew.post("mary", where, message="Holds a password.")
    assert deleted["message"] == ""
    assert (deleted["deleted"]["user"], deleted["deleted"]["reason"]) == ("mary", "Holds a password.")
    assert crew.post("alice", where, message="Again.")["deleted"] == deleted["deleted"]
    crew.post("carol", f"/patches/1/comments/{mine}/delete", message="")
    rows = crew.get("/patches/1/discussion")["comments"]
    assert [(row["author"], row["message"], row["deleted"]["user"]) for row in rows] == [
        ("carol", "", "carol"),
        ("bob", "", "mary"),
    ]
    with crew.world.database.read() as session:
        logged = [json.dumps([row.before, row.after]) for row in session.scalars(select(AuditEvent))]
        assert not [text for text in logged if "hunter2" in text]
    (first, _) = crew.events("patch.delete_comment")
    assert (first.user_name, first.before["author"], first.after["reason"]) == ("mary", "bob", "Holds a password.")
    page = crew.world.client(None).get(f"/{NAME}/patches/1").text
    assert "hunter2" not in page
    assert "Holds a password." in page


def test_a_hidden_comment_is_read_by_maintainers_alone_until_it_is_shown_again(crew: Community) -> None:
    secret = "a rude word"
    said = say(crew, secret, "bob").json()["id"]
    where = f"/patches/1/comments/{said}/hidden"
    for user in ("carol", "rita", "bob"):
        crew.put(user, where, 403, reason="I do not like it.")
    assert crew.put("mary", where, 422, reason="")["field"] == "reason"
    crew.put("mary", f"/patches/2/comments/{said}/hidden", 404, reason="Of another patch.")
    hidden = crew.put("mary", where, reason="It is rude.")
    assert (hidden["message"], hidden["hidden"]["user"], hidden["hidden"]["reason"]) == (secret, "mary", "It is rude.")
    for user, shown in ((None, ""), ("carol", ""), ("rita", ""), ("bob", ""), ("mary", secret), ("alice", secret)):
        client = crew.world.client(user)
        for path in ("discussion", "comments"):
            answer = client.get(f"/api/v1/models/{NAME}/patches/1/{path}")
            rows = answer.json()["comments" if path == "discussion" else "items"]
            assert [(row["message"], row["hidden"]["user"]) for row in rows] == [(shown, "mary")], (user, path)
    page = crew.world.client(None).get(f"/{NAME}/patches/1").text
    assert (secret in page, "It is rude." in page) == (False, True)
    (event,) = crew.events("patch.hide_comment")
    assert (event.user_name, event.before["author"], event.after) == ("mary", "bob", {"hidden": "It is rude."})
    with crew.world.database.read() as session:
        (told,) = session.scalars(select(AuditEvent).where(AuditEvent.action == "patch.comment"))
        payload = payloads.describe(session, told, uuid.uuid4(), "http://here")
    assert (payload["comment"]["hidden"], payload["comment"]["content"]) == (True, "")
    shown = crew.put("alice", where, reason=None)
    assert (shown["message"], shown["hidden"]) == (secret, None)
    assert crew.get("/patches/1/discussion", None)["comments"][0]["message"] == secret
    crew.post("bob", f"/patches/1/comments/{said}/delete", message="")
    crew.put("mary", where, 409, reason="Too late.")
