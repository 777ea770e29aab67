"""The audit log: every call that changes something has one row."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.audit_log import complaints, last, rows
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.routes import every_way
from tests.support.story import BUNDLE, HUB, MODEL, OPEN, PARTS, SEVERAL, Story
from tests.support.story_of_people import tell_joining, tell_people, tell_uploads
from tests.support.world import World, digest, upload

pytestmark = pytest.mark.heavy
MAILS = {
    "smtp_host": "mail.example.org",
    "mail_from": "crumbs@example.org",
    "public_url": "http://registry.example.org",
}


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {"registration": "open", **MAILS}


def tell_model(story: Story, folder: Path) -> None:
    alice = story.world.client("alice")
    files = [{"path": path.name, "sha256": upload(alice, path.read_bytes())} for path in sorted(folder.iterdir())]
    body = {"name": "crew/tiny", "files": files}
    public = {"visibility": "public", "license": None}
    story.tell("alice", "POST /api/v1/models", body, wrote="model.create", about="crew/tiny", after=public)
    story.world.work()
    was, words = {"license": "apache-2.0"}, {"license": "mit"}
    story.tell("alice", f"PATCH {MODEL}", words, wrote="model.update", about="crew/tiny", before=was, after=words)
    nothing, given = {"user": "dave", "role": None}, {"user": "dave", "role": "reviewer"}
    change = {"wrote": "model.member", "about": "crew/tiny", "user": "dave"}
    way = f"{MODEL}/members/{{user}}"
    story.tell("alice", f"PUT {way}", {"role": "reviewer"}, **change, before=nothing, after=given)
    story.tell("alice", f"DELETE {way}", **change, before=given, after=nothing)


def tell_patches(story: Story, files: Sequence[Path]) -> None:
    bob = story.world.client("bob")
    sent = [upload(bob, file.read_bytes()) for file in files]
    way, one = f"{MODEL}/patches", f"{MODEL}/patches/{{number}}"

    def push(number: int, sha256: str, state: str) -> None:
        body = {"sha256": sha256, "title": "a patch", "license": "mit", "propose": state == "proposed"}
        after = {"sha256": sha256, "state": state}
        story.tell("bob", f"POST {way}", body, wrote="patch.push", about=f"crew/tiny#{number}", after=after)

    def step(user: str, number: int, verb: str, start: str, end: str, body: Any = None, **after: Any) -> None:
        was, is_now = {"state": start}, {"state": end, **after}
        about = f"crew/tiny#{number}"
        story.tell(
            user,
            f"POST {one}/{verb}",
            body,
            number=str(number),
            wrote=f"patch.{verb}",
            about=about,
            before=was,
            after=is_now,
        )

    push(1, sent[0], "draft")
    body = {"sha256": sent[1], "title": "a better patch", "license": "mit"}
    was, is_now = {"revision": 1, "sha256": sent[0]}, {"revision": 2, "sha256": sent[1]}
    first = {"number": "1", "about": "crew/tiny#1"}
    story.tell("bob", f"POST {one}/revisions", body, **first, wrote="patch.revise", before=was, after=is_now)
    story.world.work()
    step("bob", 1, "propose", "draft", "proposed")
    said = {"message": "Looks fine."}
    story.tell("carol", f"POST {one}/comments", said, **first, wrote="patch.comment", after={}, adds=True)
    discussion = story.world.client("carol").get("/api/v1/models/crew/tiny/patches/1/discussion").json()
    comment = discussion["comments"][0]["id"]
    edited = {"wrote": "patch.edit_comment", "comment_id": comment, "after": {"comment": comment}}
    story.tell("carol", f"PUT {one}/comments/{{comment_id}}", {"message": "It looks fine."}, **first, **edited)
    hub = f"POST {HUB}/discussions/{{number}}/comment/{{comment_id}}/edit"
    story.tell("carol", hub, {"content": "Looks fine to me."}, **first, **edited)
    for verb, was, is_now in (("hide", None, "Rude."), ("unhide", "Rude.", None)):
        story.tell(
            "carol",
            f"PUT {one}/comments/{{comment_id}}/hidden",
            {"reason": is_now},
            **first,
            comment_id=comment,
            wrote=f"patch.{verb}_comment",
            before={"comment": comment, "author": "carol", "hidden": was},
            after={"hidden": is_now},
        )
    story.tell(
        "carol",
        f"POST {one}/comments/{{comment_id}}/delete",
        {"message": "A mistake."},
        **first,
        comment_id=comment,
        wrote="patch.delete_comment",
        before={"comment": comment, "author": "carol"},
        after={"reason": "A mistake."},
    )
    verdict = {"verdict": "approve", "revision": 2}
    story.tell(
        "carol",
        f"POST {one}/reviews",
        verdict,
        **first,
        wrote="patch.review",
        before={"state": "proposed"},
        after={**verdict, "sha256": sent[1], "state": "proposed"},
        adds=True,
    )
    step("carol", 1, "accept", "proposed", "accepted", {}, sha256=sent[1])
    step("bob", 1, "yank", "accepted", "yanked", {"message": "a mistake"}, reason="a mistake")
    step("carol", 1, "unyank", "yanked", "accepted", {})
    push(2, sent[2], "draft")
    step("bob", 2, "withdraw", "draft", "withdrawn", {"message": "no good"}, reason="no good")
    push(3, sent[3], "proposed")
    step("carol", 3, "reject", "proposed", "rejected", {"message": "too big"}, reason="too big")
    push(4, sent[4], "draft")
    tell_discussions(story, sent[4])
    tell_pushes(story)
    tell_cards(story)
    story.world.client("root", admin=True)
    for verb, old, new in (("quarantine", None, "odd"), ("release_from_quarantine", "odd", None)):
        story.tell(
            "root",
            f"PUT {one}/quarantine",
            {"reason": new},
            **first,
            wrote=f"patch.{verb}",
            before={"quarantined": old},
            after={"quarantined": new},
        )
    measured = {"task": "sums", "dataset": "two digits", "metric": "accuracy", "value": 0.5}
    story.tell(
        "bob",
        f"POST {MODEL}/evaluations",
        {"ref": "#1", **measured},
        wrote="evaluation.add",
        about="crew/tiny#1.2",
        after={name: measured[name] for name in ("dataset", "metric", "value")},
        adds=True,
    )
    scores = [{**measured, "metric": metric} for metric in ("f1", "recall")]
    story.tell(
        "bob",
        f"PUT {MODEL}/evaluations",
        {"ref": "#1", "scores": scores},
        wrote="evaluation.add",
        about="crew/tiny#1.2",
        after={"count": 2},
    )


def tell_discussions(story: Story, sha256: str) -> None:
    """What the Hub's clients do to a patch."""
    one, at = "POST /api/models/{namespace}/{name}/discussions/{number}", {"number": "4", "about": "crew/tiny#4"}
    story.world.work()
    was, is_now = {"state": "draft"}, {"state": "proposed"}
    story.tell("bob", f"{one}/status", {"status": "open"}, **at, wrote="patch.propose", before=was, after=is_now)
    said = {"comment": "Looks fine."}
    told = story.tell("carol", f"{one}/comment", said, **at, wrote="patch.comment", after={}, adds=True)
    comment = told["newMessage"]["id"]
    was = {"comment": str(uuid.UUID(comment)), "author": "carol"}
    way = f"{one}/comment/{{comment_id}}/hide"
    gone = {"reason": ""}
    story.tell("carol", way, **at, comment_id=comment, wrote="patch.delete_comment", before=was, after=gone)
    carol, verdict = story.world.client("carol"), {"verdict": "approve", "revision": 1}
    assert carol.post("/api/v1/models/crew/tiny/patches/4/reviews", json=verdict).status_code == 201
    was, is_now = {"state": "proposed"}, {"state": "accepted", "sha256": sha256}
    story.tell("carol", f"{one}/merge", **at, wrote="patch.accept", before=was, after=is_now)


def tell_pushes(story: Story) -> None:
    body = {"title": "Soon", "description": "", "pullRequest": True}
    after = {"title": "Soon", "propose": False}
    story.tell("bob", f"POST {HUB}/discussions", body, wrote="push.open", about="crew/tiny#5", after=after, adds=True)
    after = {"visibility": "private"}
    body = {"name": "later", "organization": "crew", "private": True}
    story.tell("alice", "POST /api/repos/create", body, wrote="model.reserve", about="crew/later", after=after)


def tell_cards(story: Story) -> None:
    way, one, at = f"{MODEL}/cards", f"{MODEL}/cards/{{number}}", {"number": "6", "about": "crew/tiny#6"}
    first, second = "# Tiny\n", "# Tiny, but better\n"
    told = {"title": "A word", "sha256": digest(first.encode())}
    body = {"card": first, "title": "A word"}
    story.tell("bob", f"POST {way}", body, wrote="card.propose", about="crew/tiny#6", after=told, adds=True)
    bob = story.world.client("bob")
    assert bob.post("/api/v1/models/crew/tiny/cards", json=body).status_code == 201
    story.tell(
        "bob",
        f"POST {one}/withdraw",
        {},
        number="7",
        wrote="card.withdraw",
        about="crew/tiny#7",
        before=OPEN,
        after={"state": "withdrawn"},
    )
    better = {"title": "A word", "sha256": digest(second.encode())}
    body = {"card": second, "title": "A word"}
    story.tell("bob", f"PUT {one}", body, **at, wrote="card.revise", before=told, after=better)
    story.tell("carol", f"POST {one}/accept", {}, **at, wrote="card.accept", before=OPEN, after=better)
    assert bob.post("/api/v1/models/crew/tiny/cards", json={"card": first}).status_code == 201
    why = {"message": "No."}
    after = {"state": "rejected", "reason": "No."}
    about = {"number": "8", "about": "crew/tiny#8"}
    story.tell("carol", f"POST {one}/reject", why, **about, wrote="card.reject", before=OPEN, after=after)


def tell_releases(story: Story) -> None:
    named = {"patches": [{"number": 1, "revision": 1}, {"number": 2}]}
    asked = {"patches": ["#1", "#2"]}
    story.world.work()
    story.tell("bob", f"POST {MODEL}/conflicts", named, wrote="conflict.ask", about="crew/tiny", after=asked)
    body = {"alpha": "0.9", "patches": [{"number": 1}]}
    made = story.tell("bob", f"POST {MODEL}/compositions", body, wrote="recipe.compose", about="crew/tiny", after={})
    job, recipe = made["job"]["id"], made["recipe"]["digest"]
    story.tell(
        "bob",
        "POST /api/v1/jobs/{job_id}/cancel",
        job_id=job,
        wrote="job.cancel",
        about=f"crew/tiny {recipe}",
        before={"state": "queued"},
    )
    client = story.world.client("bob")
    client.post("/api/v1/models/crew/tiny/compositions", json=body)
    story.world.work()
    composed = client.get(f"/api/v1/models/crew/tiny/revisions/{recipe}").json()
    story.tell(
        "bob",
        f"DELETE {MODEL}/compositions/{{recipe}}",
        recipe=recipe,
        wrote="recipe.delete",
        about="crew/tiny",
        before={"recipe": recipe, "weights_digest": composed["weights_digest"]},
    )
    way, one = f"{MODEL}/releases", f"{MODEL}/releases/{{version}}"
    for version, alpha in (("0.1.0", "0.3"), ("0.2.0", "0.4")):
        about = {"about": f"crew/tiny@{version}"}
        at = {"version": version, **about}
        body = {"version": version, "patches": [{"number": 1}], "alpha": alpha}
        previous = None if version == "0.1.0" else "0.1.0"
        follows = {"previous": previous}
        cut = story.tell("carol", f"POST {way}", body, **about, wrote="release.cut", after=follows, adds=True)
        story.world.work()
        serial, again = last(story.world), "/api/v1/models/crew/tiny/releases"
        assert story.world.client("carol").post(again, json=body).status_code == 201
        assert last(story.world) == serial
        recipe = cut["recipe"]["digest"]
        words = {"changelog": f"What is new in {version}."}
        story.tell("carol", f"PATCH {one}", words, **at, wrote="release.edit", after=words)
        weights = story.world.client(None).get(f"/api/v1/models/crew/tiny/releases/{version}").json()["weights_digest"]
        build = {"recipe": recipe, "weights_digest": weights}
        story.tell("carol", f"POST {MODEL}/builds", build, wrote="recipe.rebuilt", about="crew/tiny", after=build)
        published = {"state": "published", "weights_digest": weights}
        story.tell(
            "carol",
            f"POST {one}/publish",
            **at,
            wrote="release.publish",
            before={"state": "candidate"},
            after=published,
        )
        signature = {"signature": digest(BUNDLE.encode())}
        story.tell("carol", f"PUT {one}/signature", {"signature": BUNDLE}, **at, wrote="release.sign", after=signature)
    tell_channel(story)
    at = {"version": "0.2.0", "about": "crew/tiny@0.2.0"}
    for method, pinned in (("PUT", True), ("DELETE", False)):
        change = {"before": {"pinned": not pinned}, "after": {"pinned": pinned}}
        story.tell("carol", f"{method} {one}/pin", **at, wrote="release.pin", **change)
    story.tell(
        "carol",
        f"POST {one}/yank",
        {"message": "broken"},
        version="0.2.0",
        about="crew/tiny@0.2.0",
        wrote="release.yank",
        before={"state": "published"},
        after={"state": "yanked", "reason": "broken"},
    )


def tell_channel(story: Story) -> None:
    way = f"{MODEL}/channels/{{channel}}"
    at = {"channel": "stable", "about": "crew/tiny@stable"}

    def move(verb: str, body: Any, method: str, path: str, start: str | None, end: str) -> None:
        was, is_now = {"release": start}, {"release": end, "reason": "so"}
        story.tell("alice", f"{method} {path}", body, **at, wrote=f"channel.{verb}", before=was, after=is_now)

    move("move", {"version": "0.1.0", "reason": "so"}, "PUT", way, None, "0.1.0")
    rule = {"role": "maintainer", "approvals": 1, "allow_yanked": False}
    stricter = {**rule, "role": "owner"}
    body = {"role": "owner"}
    story.tell("alice", f"PUT {way}/protection", body, **at, wrote="channel.protect", before=rule, after=stricter)
    move("move", {"version": "0.2.0", "reason": "so"}, "PUT", way, "0.1.0", "0.2.0")
    move("rollback", {"message": "so"}, "POST", f"{way}/rollback", "0.2.0", "0.1.0")


def tell_webhooks(story: Story) -> None:
    way, about = f"{MODEL}/webhooks", {"about": "crew/tiny"}
    body = {"url": "https://example.org/hook?key=secret", "events": ["patch.*"]}
    after = {"url": "https://example.org", "events": ["patch.*"]}
    made = story.tell("alice", f"POST {way}", body, **about, wrote="webhook.create", after=after, adds=True)
    one, at = f"{way}/{{webhook_id}}", {"webhook_id": made["id"], **about}
    named = {"webhook": made["id"]}
    sent = story.tell("alice", f"POST {one}/test", **at, wrote="webhook.test", after=named, adds=True)
    replay = f"POST {one}/deliveries/{{delivery_id}}/replay"
    story.tell(
        "alice", replay, delivery_id=sent["id"], **at, wrote="webhook.replay", after={**named, "replay": 1}, adds=True
    )
    was, is_now = {**named, "active": True}, {**named, "active": False}
    story.tell("alice", f"PATCH {one}", {"active": False}, **at, wrote="webhook.update", before=was, after=is_now)
    gone = {**named, "events": ["patch.*"]}
    story.tell("alice", f"DELETE {one}", **at, wrote="webhook.delete", before=gone)
    assert "secret" not in "".join(str(row.after) for row in rows(story.world) if row.action.startswith("webhook"))


def tell_publishers(story: Story) -> None:
    way, about = f"{MODEL}/publishers", {"about": "crew/tiny"}
    wanted = {"repository": "crew/training", "workflow": "train.yml"}
    body, after = {"kind": "github", "user": "tiny-ci", **wanted}, {"user": "tiny-ci", "claims": wanted}
    made = story.tell("alice", f"POST {way}", body, **about, wrote="publisher.create", after=after)
    was = {"publisher": made["id"], "user": "tiny-ci", "issuer": made["issuer"], "claims": wanted}
    one = f"DELETE {way}/{{publisher_id}}"
    story.tell("alice", one, publisher_id=made["id"], **about, wrote="publisher.remove", before=was)
    story.told.add("POST /api/v1/publishing/token")  # tests/services/catalog/test_publishers.py looks for its row


def tell_admins(story: Story) -> None:
    about, body = {"about": "crew/tiny#1"}, {"number": 1, "reason": "malware", "message": "It phones home."}
    made = story.tell("bob", f"POST {MODEL}/reports", body, **about, wrote="report.create", after={"reason": "malware"})
    was, named = {"report": made["id"], "reason": "malware"}, {"report": made["id"]}
    body, is_now = {**body, "reason": "other"}, {**named, "reason": "other"}
    story.tell("bob", f"POST {MODEL}/reports", body, **about, wrote="report.update", before=was, after=is_now)
    way, said = "POST /api/v1/admin/reports/{report_id}/close", {"answer": "It does not."}
    story.tell("root", way, said, **about, report_id=made["id"], wrote="report.close", after=named | said)
    story.tell(
        "root",
        "PUT /api/v1/admin/namespaces/{namespace}/quota",
        {"bytes": 10**6},
        wrote="namespace.quota",
        about="crew",
        before={"quota_bytes": None},
        after={"quota_bytes": 10**6},
    )
    was, wanted = {"min_drop_top": None}, {"min_drop_top": "0.001"}
    change: dict[str, Any] = {"wrote": "policy.change", "about": "the registry", "before": was, "after": wanted}
    story.tell("root", "PUT /api/v1/admin/policy", wanted, **change)


def test_every_call_that_changes_something_writes_one_row(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    files = []
    for number in range(5):
        files.append(tmp_path / f"{number}.safetensors")
        make_patch(base, fine_tuned(base, tmp_path / f"tuned{number}", seed=number + 1), files[-1])
    story = Story(world)
    tell_people(story)
    tell_joining(story)
    tell_uploads(story)
    tell_model(story, base)
    tell_patches(story, files)
    tell_releases(story)
    tell_webhooks(story)
    tell_publishers(story)
    tell_admins(story)
    changing = {f"{way.method} {way.path}" for way in every_way(world.app) if not way.reads}
    assert story.told == changing - PARTS - SEVERAL, (
        "a route that changes something is not in the story, or no longer there"
    )
    assert not complaints(world)


def test_what_workers_and_operators_do_is_in_the_log_without_a_user(world: World, tmp_path: Path) -> None:
    story = Story(world)
    tell_people(story)
    tell_model(story, make_checkpoint(tmp_path / "base"))
    found = {row.action: row for row in rows(world) if row.user_id is None}
    assert set(found) == {"token.create", "model.ready"}
    for row in found.values():
        assert (row.user_name, row.token_prefix, row.request_id) == (None, None, None)
