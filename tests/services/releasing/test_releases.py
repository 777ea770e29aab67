"""Releases: cut, built twice, published once."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from sqlalchemy import select

from registry.breadcrumbs.formats.recipe import make_recipe
from registry.db.tables import AuditEvent, Build, Job, Release, ReleaseFile
from registry.documents.manifest import make_manifest, manifest_digest, read_manifest
from tests.support.community import NAME, URL, Community
from tests.support.makers import make_checkpoint
from tests.support.world import create_model, push_patch

pytestmark = pytest.mark.heavy

OTHER = "sha256:" + "0" * 64
BUNDLE = json.dumps({"verificationMaterial": {}, "dsseEnvelope": {}})
ALONE = "was composed by {worker} alone, and 2 must agree"


def numbers(release: dict[str, Any]) -> dict[int, str]:
    return {item["number"]: item["weight"] for item in release["recipe"]["patches"]}


def scalars(crew: Community, query: Any) -> list[Any]:
    with crew.world.database.read() as session:
        return list(session.scalars(query))


def row(crew: Community, version: str) -> dict[str, Any]:
    """Return the rows of a release and its files."""
    with crew.world.database.read() as session:
        found = session.scalars(select(Release).where(Release.version == version)).one()
        files = session.scalars(select(ReleaseFile).where(ReleaseFile.release_id == found.id))
        columns = {column.name: getattr(found, column.name) for column in Release.__table__.columns}
        return columns | {"files": {file.path: file.sha256 for file in files}}


# from draft to yanked


def test_a_release_is_cut_composed_built_twice_published_and_yanked(crew: Community) -> None:
    crew.accept(1, 2)
    cut = crew.post(
        "mary", "/releases", 202, version="1.0.0", alpha="0.3", patches=[{"number": 2, "weight": "0.5"}, {"number": 1}]
    )
    assert (cut["state"], cut["creator"], cut["previous"], cut["weights_digest"]) == ("building", "mary", None, None)
    assert (cut["job"]["kind"], cut["job"]["state"]) == ("compose", "queued")
    assert (numbers(cut), cut["recipe"]["alpha"]) == ({1: "1", 2: "0.5"}, "0.3")
    assert cut["missing"] == ["It is building, and not composed yet."]
    assert crew.get("/revisions/1.0.0", status=409)["detail"].startswith(f"{NAME}@1.0.0 is building and not composed")
    crew.post("mary", "/releases/1.0.0/publish", 409)
    crew.world.work()
    candidate = crew.get("/releases/1.0.0")
    assert (candidate["state"], len(candidate["builds"]), candidate["manifest_digest"]) == ("candidate", 1, None)
    (alone,) = candidate["missing"]
    assert ALONE.format(worker=crew.world.worker.name) in alone
    assert alone in crew.post("mary", "/releases/1.0.0/publish", 409)["detail"]
    crew.rebuild()
    assert crew.get("/releases/1.0.0")["missing"] == []
    published = crew.post("max", "/releases/1.0.0/publish")
    assert (published["state"], published["publisher"], published["creator"]) == ("published", "max", "mary")
    assert published["weights_digest"] == candidate["weights_digest"]
    yanked = crew.post("mary", "/releases/1.0.0/yank", message="it forgets")
    assert (yanked["state"], yanked["yank_reason"], yanked["missing"]) == ("yanked", "it forgets", [])
    events = scalars(crew, select(AuditEvent.action).where(AuditEvent.action.startswith("release.")))
    assert events == ["release.cut", "release.publish", "release.yank"]


def test_a_release_whose_composition_fails_is_a_draft_that_can_be_cut_again(crew: Community) -> None:
    crew.accept(1)
    blob = crew.world.store.path(crew.patch(1)["sha256"])
    sound = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    crew.cut("1.0.0", [1])
    assert crew.get("/releases/1.0.0")["state"] == "draft"
    assert crew.get("/releases/1.0.0")["missing"][0] == "It is draft, and not composed yet."
    crew.post("mary", "/releases/1.0.0/publish", 409)
    crew.get("/revisions/1.0.0", status=409)
    blob.write_bytes(sound)
    assert crew.cut("1.0.0", [1])["state"] == "building"
    assert crew.get("/releases/1.0.0")["state"] == "candidate"


def test_cutting_the_same_again_changes_nothing_and_another_replaces_it(crew: Community) -> None:
    crew.accept(1, 2)
    crew.cut("1.0.0", [1])
    crew.ask("mary", "PATCH", "/releases/1.0.0", changelog="In my words.")
    before, events = row(crew, "1.0.0"), crew.count_events()
    crew.cut("1.0.0", [1], 201)
    assert (row(crew, "1.0.0"), crew.count_events()) == (before, events)
    crew.cut("1.0.0", [2])
    after = crew.get("/releases/1.0.0")
    assert (numbers(after), after["state"], len(after["builds"])) == ({2: "1"}, "candidate", 1)
    assert "Patch 2" in after["changelog"]
    assert crew.cut("1.0.0", [1], 201)["state"] == "candidate", "what is composed already is a candidate at once"
    assert len(scalars(crew, select(Release))) == 1


# what is cut


def test_a_release_starts_from_another_with_some_more_and_without_some(lived: Community) -> None:
    cut = lived.cut("2.0.0", from_ref="1.2.0", add=[{"number": 4, "weight": "0.5"}, {"number": 2, "weight": "2"}])
    assert (numbers(cut), cut["recipe"]["alpha"]) == ({1: "1", 2: "2", 3: "1", 4: "0.5"}, "0.3")
    less = lived.cut("1.3.0", from_ref="1.2.0", without=[1, 3], alpha="0.4")
    assert (numbers(less), less["recipe"]["alpha"]) == ({2: "1"}, "0.4")
    digest = less["recipe"]["digest"]
    again = lived.cut("2.1.0", status=202, from_ref=digest[:12], add=[{"number": 1, "weight": "-1"}])
    assert (numbers(again), again["recipe"]["alpha"]) == ({1: "-1", 2: "1"}, "0.4")
    lived.put("mary", "/channels/stable", version="1.1.0")
    for ref, expected in [("stable", {1: "1", 2: "1", 4: "1"}), ("main", {1: "1", 2: "1", 4: "1"}), ("base", {4: "1"})]:
        assert numbers(lived.cut("3.0.0", status=None, from_ref=ref, add=[{"number": 4}])) == expected


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"patches": [{"number": 1}], "from_ref": "1.2.0"}, None, "not both"),
        ({"from_ref": "1.2.0", "without": [4]}, "without", "Patch #4 is not in the recipe, so it cannot be left out."),
        ({"from_ref": "1.0.0", "without": [1]}, "patches", "A release needs a patch"),
        ({"from_ref": "base"}, "patches", "A release needs a patch"),
        ({}, "patches", "A release needs a patch"),
        ({"patches": [{"number": 1}, {"number": 1, "weight": "2"}]}, "patches", "named twice"),
        ({"patches": [{"number": 9}]}, "patches", f"There is no patch {NAME}#9; see `crumb log {NAME}`."),
        (
            {"patches": [{"number": 1, "revision": 2}]},
            "patches",
            f"There is no patch {NAME}#1.2; see `crumb log {NAME}`.",
        ),
        ({"patches": [{"number": 1, "weight": "many"}]}, "patches.0.weight", ""),
        ({"patches": [{"number": 1}], "alpha": "1e3"}, "alpha", ""),
    ],
)
def test_a_cut_that_cannot_be_is_refused_by_field(
    lived: Community, body: dict[str, Any], field: str | None, words: str
) -> None:
    refused = lived.post("mary", "/releases", 422, version="2.0.0", **body)
    assert refused["field"] == field
    assert words in refused["detail"]
    lived.get("/releases/2.0.0", status=404)


def test_a_cut_from_a_missing_release_is_not_found(lived: Community) -> None:
    for ref in ("9.9.9", "nightly", "0" * 64):
        lived.post("mary", "/releases", 404, version="2.0.0", from_ref=ref)


@pytest.mark.parametrize(
    ("version", "patches", "alpha", "words"),
    [
        ("1.2.1", [1, 2, 3, 4], "0.3", "combines them in another way. The lowest that fits is 1.3.0"),
        ("1.2.1", [1, 2, 3], "0.31", "combines them in another way. The lowest that fits is 1.3.0"),
        ("1.2.1", [1, 2, 3], "-0.3", "combines them in another way. The lowest that fits is 1.3.0"),
        ("1.0.1", [1, 2], "0.3", "does not fit after 1.0.0"),
        ("1.2.1+build", [1, 2], "0.3", ""),
        ("01.3.0", [1, 2], "0.3", "'01.3.0' is not a version"),
        ("1.3.0-01", [1, 2], "0.3", "'1.3.0-01' is not a version"),
        ("1.3", [1, 2], "0.3", ""),
        ("v1.3.0", [1, 2], "0.3", ""),
    ],
)
def test_a_version_that_promises_less_than_changed_is_refused(
    lived: Community, version: str, patches: list[int], alpha: str, words: str
) -> None:
    refused = lived.post(
        "mary", "/releases", 422, version=version, patches=[{"number": number} for number in patches], alpha=alpha
    )
    assert refused["field"] == "version"
    assert words in refused["detail"]


def test_a_version_that_says_what_changed_is_taken(lived: Community) -> None:
    for version, patches, alpha in [
        ("1.2.1", [1, 2, 3], "0.29"),
        ("1.2.1", [2, 3], "0.3"),
        ("1.3.0-rc.1", [1, 2, 3, 4], "0.3"),
        ("2.0.0", [4], "0.5"),
        ("1.1.1", [1], "0.3"),
        ("0.9.0", [4], "0.5"),
    ]:
        cut = lived.cut(version, patches, None, alpha=alpha)
        assert "missing" in cut, cut
    assert lived.get("/releases/1.1.1")["previous"] == "1.1.0"
    assert lived.get("/releases/0.9.0")["previous"] is None


def test_a_release_that_was_overtaken_has_to_be_cut_again(crew: Community) -> None:
    """Otherwise two candidates at once could let a patch into 1.0.1, with a manifest that skips a release."""
    crew.accept(1, 2)
    crew.cut("1.0.0", [1])
    crew.cut("1.0.1", [1, 2])
    crew.rebuild()
    crew.post("mary", "/releases/1.0.0/publish")
    sentence = "1.0.0 was published after it was cut; cut it again, to follow that."
    assert crew.get("/releases/1.0.1")["missing"] == [sentence]
    assert sentence in crew.post("mary", "/releases/1.0.1/publish", 409)["detail"]
    assert "1.1.0" in crew.cut("1.0.1", [1, 2], 422)["detail"]
    crew.cut("1.1.0", [1, 2], 201)
    assert crew.post("mary", "/releases/1.1.0/publish")["previous"] == "1.0.0"


def test_licences_that_do_not_go_together_are_named(crew: Community) -> None:
    crew.push(crew.spares[0], "carol", license="gpl-2.0")
    crew.push(crew.spares[1], "carol", license="cc-by-4.0")
    crew.push(crew.spares[2], "carol", license="cc-by-nd-4.0")
    refused = crew.cut("1.0.0", [1, 5, 6], 422)
    assert refused["field"] == "patches"
    assert refused["detail"].startswith("the base (apache-2.0) and patch #5 (gpl-2.0) cannot be in one release: ")
    assert "patch #7 (cc-by-nd-4.0)" in crew.cut("1.0.0", [6, 7], 422)["detail"]
    made = crew.cut("1.0.0", [1, 6])
    assert made["warnings"] == ["patch #1 states no licence; ask its author for one."]


# what keeps a release from being published


def test_publishing_lists_everything_that_is_missing(crew: Community) -> None:
    crew.rules(required_evaluations=["squad:f1"])
    crew.cut("1.0.0", [1, 2, 3, 4])
    crew.set(2, state="accepted")
    crew.put("chief", "/patches/2/quarantine", reason="odd")
    crew.set(3, state="yanked", reason="it forgets")
    crew.set(4, state="superseded")
    expected = {
        "Patch #1 is draft, not accepted.",
        "Patch #2 is quarantined.",
        "Patch #3 is yanked, not accepted.",
        "Patch #4 is superseded, not accepted.",
        "The evaluation squad:f1 is missing.",
    }
    *lacking, alone = crew.get("/releases/1.0.0")["missing"]
    assert set(lacking) == expected
    assert ALONE.format(worker=crew.world.worker.name) in alone
    refused = crew.post("mary", "/releases/1.0.0/publish", 409)["detail"]
    assert refused == f"{NAME}@1.0.0 cannot be published yet: {' '.join([*lacking, alone])}"
    assert row(crew, "1.0.0")["state"] == "candidate"


def test_each_thing_that_is_missing_is_enough_to_keep_it_back(crew: Community) -> None:
    crew.accept(1, 2)
    crew.cut("1.0.0", [1, 2])
    crew.rebuild()
    crew.rules(required_evaluations=["squad:f1"])
    measure = {"task": "qa", "dataset": "squad", "metric": "f1", "value": 0.5}
    crew.post("carol", "/evaluations", 201, ref="#1", **measure)
    crew.post("carol", "/evaluations", 201, ref="base", **measure)
    assert "The evaluation squad:f1 is missing." in crew.post("mary", "/releases/1.0.0/publish", 409)["detail"]
    crew.post("carol", "/evaluations", 201, ref="1.0.0", **measure)
    crew.put("chief", "/patches/1/quarantine", reason="odd")
    assert "Patch #1 is quarantined." in crew.post("mary", "/releases/1.0.0/publish", 409)["detail"]
    crew.world.client("chief").put(f"{URL}/patches/1/quarantine", json={"reason": None})
    crew.set(2, state="proposed")
    assert "Patch #2 is proposed, not accepted." in crew.post("mary", "/releases/1.0.0/publish", 409)["detail"]
    crew.set(2, state="accepted")
    crew.post("mary", "/releases/1.0.0/publish")


def test_an_older_revision_than_what_was_accepted_is_not_published(crew: Community) -> None:
    crew.revise(1, crew.spares[0])
    crew.accept(1)
    cut = crew.post("mary", "/releases", 202, version="1.0.0", patches=[{"number": 1, "revision": 1}])
    assert (cut["recipe"]["patches"][0]["revision"], "Patch #1 was accepted at revision 2." in cut["missing"]) == (
        1,
        True,
    )


# two builds


def test_the_worker_that_composed_never_takes_the_rebuild(crew: Community) -> None:
    crew.accept(1)
    crew.cut("1.0.0", [1])
    (job,) = scalars(crew, select(Job).where(Job.kind == "rebuild"))
    assert (job.state, job.not_worker) == ("queued", crew.world.worker.name)
    assert not crew.world.worker.step()
    assert crew.second.step()
    assert not crew.second.step()
    builds = crew.get("/releases/1.0.0")["builds"]
    assert [one["builder"] for one in builds] == [crew.world.worker.name, crew.second.name]
    assert len({one["weights_digest"] for one in builds}) == 1
    assert crew.get(f"/recipes/{job.payload['recipe']}/builds") == builds
    assert len(crew.events("recipe.rebuilt")) == 1
    crew.post("mary", "/releases/1.0.0/publish")


def test_a_maintainer_who_composed_it_themselves_is_the_second_builder(crew: Community) -> None:
    crew.accept(1)
    crew.cut("1.0.0", [1])
    release = crew.get("/releases/1.0.0")
    recipe, weights = release["recipe"]["digest"], release["weights_digest"]
    for user in ("bob", "rita"):
        crew.post(user, "/builds", 403, recipe=recipe, weights_digest=weights)
    crew.post("mary", "/builds", 404, recipe="0" * 64, weights_digest=weights)
    made = crew.post("mary", "/builds", 201, recipe=recipe, weights_digest=weights, device="cpu")
    assert (made["builder"], made["weights_digest"], made["device"]) == ("user:mary", weights, "cpu")
    again = crew.post("mary", "/builds", 201, recipe=recipe, weights_digest=weights, device="cuda")
    assert again == made
    refused = crew.post("mary", "/builds", 409, recipe=recipe, weights_digest=OTHER)["detail"]
    assert refused.startswith(f"user:mary came to {weights} for this recipe before")
    assert len(crew.events("recipe.rebuilt")) == 1
    crew.post("mary", "/releases/1.0.0/publish")


def test_two_results_of_one_recipe_raise_the_alarm(crew: Community) -> None:
    crew.accept(1)
    crew.cut("1.0.0", [1])
    release = crew.get("/releases/1.0.0")
    recipe = release["recipe"]["digest"]
    crew.post("mary", "/builds", 201, recipe=recipe, weights_digest=OTHER)
    alarm = crew.events("recipe.alarm")
    assert [(event.user_name, event.after and event.after["weights_digest"]) for event in alarm] == [("mary", OTHER)]
    refused = crew.post("mary", "/releases/1.0.0/publish", 409)["detail"]
    assert f"ALARM: {NAME}@1.0.0 was composed to 2 different results" in refused
    assert OTHER in refused
    assert release["weights_digest"] in refused
    crew.rebuild()  # that two of three agree is not enough
    assert "ALARM" in crew.post("mary", "/releases/1.0.0/publish", 409)["detail"]
    assert crew.get("/inbox", "mary")["alarms"] == [recipe]
    assert crew.get("/inbox", "mary")["candidates"] == ["1.0.0"]
    assert crew.get("/inbox", "rita")["alarms"] == crew.get("/inbox", "rita")["candidates"] == []


def test_a_worker_that_comes_to_another_result_raises_the_alarm(
    crew: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew.accept(1)
    crew.cut("1.0.0", [1])
    wrong = {"weights_digest": OTHER, "device": "cpu", "files": None}
    monkeypatch.setattr(crew.second, "compose_into", lambda *_, **__: wrong)
    crew.rebuild()
    alarm = crew.events("recipe.alarm")
    assert [(event.user_name, event.after and event.after["builder"]) for event in alarm] == [(None, crew.second.name)]
    assert "ALARM" in crew.post("mary", "/releases/1.0.0/publish", 409)["detail"]


def test_a_result_on_a_copy_of_a_model_raises_no_alarm_elsewhere(crew: Community) -> None:
    """Anybody may copy a public model; a worker's result counts on every model."""
    crew.accept(1)
    crew.cut("1.0.0", [1])
    crew.rebuild()
    recipe = crew.get("/releases/1.0.0")["recipe"]["digest"]
    create_model(crew.world, "carol/copy", crew.base)
    file = crew.world.store.path(crew.patch(1)["sha256"])
    push_patch(crew.world, "carol/copy", file, "carol")
    carol, copy = crew.world.client("carol"), URL.replace(NAME, "carol/copy")
    carol.post(f"{copy}/compositions", json={"patches": [{"number": 1}], "alpha": "0.3"})
    crew.world.work()
    answer = carol.post(f"{copy}/builds", json={"recipe": recipe, "weights_digest": OTHER})
    assert answer.status_code == 201, answer.text
    assert carol.get(f"{copy}/inbox").json()["alarms"] == [recipe]
    assert crew.get("/inbox", "mary")["alarms"] == []
    assert crew.get("/releases/1.0.0")["missing"] == []
    with crew.world.database.write() as session:
        there = session.scalars(select(Build).where(Build.builder == "user:carol")).one()
        there.user_id, there.builder = None, "host:1:abc"
    assert crew.get("/inbox", "mary")["alarms"] == [recipe]
    assert "ALARM" in crew.post("mary", "/releases/1.0.0/publish", 409)["detail"]


# closed for ever


def test_a_published_release_is_closed(lived: Community) -> None:
    before, events = row(lived, "1.1.0"), lived.count_events()
    closed = f"{NAME}@1.1.0 is published and cannot change"
    for body in ({"changelog": "x"}, {"card": "x"}):
        assert lived.ask("alice", "PATCH", "/releases/1.1.0", 409, **body)["detail"].startswith(closed)
    assert lived.cut("1.1.0", [1], 409)["detail"] == f"{closed}; cut the next version."
    assert lived.cut("1.1.0", [1, 2], 409)["detail"] == f"{closed}; cut the next version."
    assert lived.post("max", "/releases/1.1.0/publish")["publisher"] == "mary"
    assert (row(lived, "1.1.0"), lived.count_events()) == (before, events)
    lived.post("mary", "/releases/1.1.0/yank", message="it forgets")
    for answer in (
        lived.ask("mary", "PATCH", "/releases/1.1.0", 409, changelog="x"),
        lived.cut("1.1.0", [1], 409),
        lived.post("mary", "/releases/1.1.0/publish", 409),
        lived.post("mary", "/releases/1.1.0/yank", 409, message="again"),
    ):
        assert "yanked" in answer["detail"]
    after = row(lived, "1.1.0")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"state", "yank_reason", "yanked_at"}


def test_a_release_is_signed_once(lived: Community) -> None:
    lived.cut("1.3.0", [1, 2, 3, 4])
    lived.put("mary", "/releases/1.3.0/signature", 404, signature=BUNDLE)
    lived.get("/releases/1.2.0/signature", status=404)
    for nonsense in ("", "{}", "[]", "1", "no json", json.dumps({"dsseEnvelope": {}})):
        assert lived.put("mary", "/releases/1.2.0/signature", 422, signature=nonsense)["field"] == "signature"
    assert lived.put("mary", "/releases/1.2.0/signature", signature=BUNDLE)["signed"] is True
    events = lived.count_events()
    lived.put("mary", "/releases/1.2.0/signature", signature=BUNDLE)
    other = json.dumps({"verificationMaterial": {}, "dsseEnvelope": {"signatures": []}})
    assert "signed already" in lived.put("alice", "/releases/1.2.0/signature", 409, signature=other)["detail"]
    assert lived.get("/releases/1.2.0/signature") == json.loads(BUNDLE)
    assert lived.count_events() == events


def pulled(crew: Community, ref: str, user: str | None = None) -> dict[str, bytes]:
    revision = crew.get(f"/revisions/{ref}", user)
    client = crew.world.client(user)
    found = {}
    for file in revision["files"]:
        answer = client.get(f"{URL}/revisions/{ref}/files/{file['path']}")
        assert answer.status_code == 200
        assert answer.headers["etag"] == f'"{file["sha256"]}"'
        assert ("immutable" in answer.headers["cache-control"]) == (ref == revision["ref"])
        assert (hashlib.sha256(answer.content).hexdigest(), len(answer.content)) == (file["sha256"], file["size"])
        found[file["path"]] = answer.content
    return found


def test_the_files_of_a_published_release_never_change(lived: Community) -> None:
    before = pulled(lived, "1.1.0")
    assert before.keys() == {path.name for path in lived.base.iterdir()}
    release = lived.get("/releases/1.1.0")
    assert before["README.md"].decode() == release["card"] == lived.get("/releases/1.1.0/card").text
    lived.put("mary", "/channels/stable", version="1.1.0")
    assert pulled(lived, "stable") == before
    lived.post("carol", "/evaluations", 201, ref="1.1.0", task="t", dataset="d", metric="m", value=1)
    lived.publish("1.3.0", [1, 2, 3, 4])
    lived.post("mary", "/patches/2/yank", message="it forgets")
    lived.post("mary", "/releases/1.1.0/yank", message="so does this")
    assert pulled(lived, "1.1.0") == before
    assert lived.get("/revisions/1.1.0")["warnings"] == [
        f"{NAME}@1.1.0 was yanked: so does this",
        f"{NAME}@1.1.0 holds patch #2, which was yanked: it forgets",
    ]
    assert lived.get("/releases/1.1.0")["card"] == release["card"]
    lived.put("chief", "/patches/2/quarantine", reason="odd")
    lived.get("/revisions/1.1.0", "alice", 403)
    lived.get("/revisions/1.1.0/files/config.json", "alice", 403)
    assert pulled(lived, "1.1.0", "chief") == before
    assert pulled(lived, "1.0.0").keys() == before.keys()


def test_texts_are_edited_before_publishing_and_published_as_edited(crew: Community) -> None:
    crew.accept(1)
    crew.cut("1.0.0", [1])
    crew.rebuild()
    crew.post("carol", "/evaluations", 201, ref="1.0.0", task="qa", dataset="squad", metric="f1", value=0.5)
    generated = crew.get("/releases/1.0.0/card").text
    for words in ("Patch 1", "apache-2.0", "squad", "0.5", crew.get("/releases/1.0.0")["weights_digest"]):
        assert words in generated
    edited = crew.ask("mary", "PATCH", "/releases/1.0.0", changelog="First.", card="# Mine\n")
    assert (edited["changelog"], edited["card"]) == ("First.", "# Mine\n")
    crew.post("mary", "/releases/1.0.0/publish")
    assert pulled(crew, "1.0.0")["README.md"] == b"# Mine\n"
    assert crew.get("/releases/1.0.0")["changelog"] == "First."


# what a reference stands for


def test_main_is_stable_else_the_newest_release_else_the_base(lived: Community) -> None:
    def main() -> tuple[str, str | None, bool]:
        found = lived.get("/revisions/main")
        assert found["weights_digest"] == lived.get(f"/revisions/{found['ref']}")["weights_digest"]
        return found["ref"], found["channel"], found["fixed"]

    assert main() == ("1.2.0", None, True)
    lived.cut("1.3.0", [1, 2, 3, 4])
    assert main() == ("1.2.0", None, True), "a candidate is nobody's default"
    lived.put("alice", "/channels/stable/protection", approvals=1)
    lived.put("mary", "/channels/beta", version="1.1.0")
    assert main() == ("1.2.0", None, True), "a channel that points nowhere yet says nothing"
    lived.get("/revisions/stable", status=404)
    lived.put("mary", "/channels/stable", version="1.0.0")
    assert main() == ("1.0.0", "stable", True)
    with lived.world.database.write() as session:
        session.connection().exec_driver_sql("DELETE FROM channel_moves")
        session.connection().exec_driver_sql("DELETE FROM channels")
    for version, then in [("1.2.0", "1.1.0"), ("1.1.0", "1.0.0"), ("1.0.0", "base")]:
        lived.post("mary", f"/releases/{version}/yank", message="it forgets")
        assert main() == (then, None, True)


def test_the_base_is_main_until_something_is_published(crew: Community) -> None:
    crew.accept(1)
    crew.cut("1.0.0", [1])
    base = crew.get("/revisions/base")
    assert crew.get("/revisions/main") == base
    assert crew.get(f"/revisions/{base['weights_digest']}") == base


def test_a_candidate_is_pulled_with_a_warning(lived: Community) -> None:
    lived.cut("1.3.0-rc.1", [1, 2, 3, 4])
    found = lived.get("/revisions/1.3.0-rc.1")
    assert found["warnings"] == [f"{NAME}@1.3.0-rc.1 is a candidate and not published; it may still change."]
    assert (found["ref"], found["release"], found["fixed"]) == ("1.3.0-rc.1", "1.3.0-rc.1", False)
    file = lived.world.client(None).get(f"{URL}/revisions/1.3.0-rc.1/files/config.json")
    assert "immutable" not in file.headers["cache-control"]
    lived.rebuild()
    lived.post("mary", "/releases/1.3.0-rc.1/publish")
    assert lived.get("/revisions/1.3.0-rc.1")["warnings"] == []


def test_an_unknown_ref_is_refused_with_the_possible_ones(lived: Community) -> None:
    assert "crumb release list" in lived.get("/revisions/9.9.9", status=404)["detail"]
    assert "a version, a channel, base" in lived.get("/revisions/nightly", status=404)["detail"]


def test_releases_are_listed_newest_version_first_in_pages(lived: Community) -> None:
    for version in ("1.10.0", "1.10.0-rc.2", "1.10.0-rc.10", "0.9.0"):
        lived.cut(version, [1, 2, 3, 4], None)
    order = ["1.10.0", "1.10.0-rc.10", "1.10.0-rc.2", "1.2.0", "1.1.0", "1.0.0", "0.9.0"]
    assert [one["version"] for one in lived.get("/releases")["items"]] == order
    seen, cursor = [], ""
    while cursor is not None:
        page = lived.get(f"/releases?limit=2{f'&before={cursor}' if cursor else ''}")
        seen += [one["version"] for one in page["items"]]
        cursor = page["next"]
    assert seen == order


# what is said of a release


def raw_manifest(crew: Community, version: str) -> bytes:
    answer = crew.world.client(None).get(f"{URL}/releases/{version}/manifest")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return answer.content


def test_the_manifest_is_canonical_and_says_everything(lived: Community) -> None:
    raw = raw_manifest(lived, "1.2.0")
    found = read_manifest(raw)
    assert make_manifest(found) == raw
    release = lived.get("/releases/1.2.0")
    assert release["manifest_digest"] == manifest_digest(raw) == hashlib.sha256(raw).hexdigest()
    assert (found.model, found.version, found.weights_digest) == (NAME, "1.2.0", release["weights_digest"])
    assert found.recipe.digest == release["recipe"]["digest"]
    assert {file.path: (file.sha256, file.size) for file in found.files} == {
        file["path"]: (file["sha256"], file["size"]) for file in lived.get("/revisions/1.2.0")["files"]
    }
    assert {(patch.number, patch.revision, patch.author) for patch in found.patches} == {
        (number, 1, "bob") for number in (1, 2, 3)
    }
    assert {(approval.who, approval.sha256) for patch in found.patches for approval in patch.approvals} == {
        ("rita", patch.sha256) for patch in found.patches
    }
    assert [builder.who for builder in found.builders] == [one["builder"] for one in release["builds"]]
    assert found.card_sha256 == hashlib.sha256(release["card"].encode()).hexdigest()
    assert found.changelog_sha256 == hashlib.sha256(release["changelog"].encode()).hexdigest()
    assert found.created_at.isoformat().replace("+00:00", "") == release["published_at"].rstrip("Z")
    (head,) = scalars(lived, select(AuditEvent).where(AuditEvent.serial == found.audit.serial))
    assert head.hash == found.audit.hash
    (event,) = (event for event in lived.events("release.publish") if event.subject.endswith("@1.2.0"))
    assert event.after and event.after["manifest"] == release["manifest_digest"]
    assert event.serial == head.serial + 1


def test_each_manifest_names_the_one_before(lived: Community) -> None:
    first, second, third = (read_manifest(raw_manifest(lived, version)) for version in ("1.0.0", "1.1.0", "1.2.0"))
    assert first.previous is None
    for before, after in ((first, second), (second, third)):
        assert after.previous is not None
        assert (after.previous.version, after.previous.manifest) == (
            before.version,
            manifest_digest(make_manifest(before)),
        )
        assert before.audit.serial < after.audit.serial


def test_an_unpublished_release_has_no_manifest(lived: Community) -> None:
    lived.cut("1.3.0", [1, 2, 3, 4])
    for what in ("manifest", "provenance"):
        assert "is candidate" in lived.get(f"/releases/1.3.0/{what}", status=404)["detail"]


def test_the_changelog_lists_what_changed(lived: Community) -> None:
    today = datetime.now(UTC).date().isoformat()
    first = lived.get("/releases/1.0.0")["changelog"]
    assert first.splitlines()[0].startswith("## [1.0.0] - ")
    assert "### Added\n\n- \\#1 Patch 1, by bob: scale 0 → 0.3\n" in first
    cut = lived.cut(
        "1.3.0",
        [],
        from_ref="1.2.0",
        add=[{"number": 4}, {"number": 2, "weight": "0.5"}, {"number": 1, "weight": "2"}],
        without=[3],
    )
    assert cut["changelog"] == (
        f"## [1.3.0] - {today}\n\n"
        "### Added\n\n- \\#4 Patch 4, by bob: scale 0 → 0.3\n\n"
        "### Strengthened\n\n- \\#1 Patch 1, by bob: scale 0.3 → 0.6\n\n"
        "### Weakened\n\n- \\#2 Patch 2, by bob: scale 0.3 → 0.15\n\n"
        "### Removed\n\n- \\#3 Patch 3, by bob: scale 0.3 → 0\n"
    )


def test_two_revisions_are_compared_by_their_recipes(lived: Community) -> None:
    lived.cut("1.3.0", [], from_ref="1.1.0", add=[{"number": 4}, {"number": 2, "weight": "0.5"}], without=[1])
    found = lived.get("/compare?before=1.1.0&after=1.3.0")
    assert (found["before"], found["after"], found["bump"]) == ("1.1.0", "1.3.0", "minor")
    assert ([one["number"] for one in found["added"]], [one["number"] for one in found["removed"]]) == ([4], [1])
    assert [(one["number"], one["before"], one["after"]) for one in found["changed"]] == [(2, "0.3", "0.15")]
    back = lived.get("/compare?before=1.2.0&after=1.1.0")
    assert (back["bump"], [one["number"] for one in back["removed"]]) == ("patch", [3])
    same = lived.get("/compare?before=main&after=1.2.0")
    assert (same["bump"], same["added"], same["removed"], same["changed"]) == ("none", [], [], [])
    assert [one["number"] for one in lived.get("/compare?before=base&after=1.1.0")["added"]] == [
        one["number"] for one in lived.get("/releases/1.1.0")["recipe"]["patches"]
    ]
    lived.get("/compare?before=base&after=9.9.9", status=404)


def test_provenance_is_a_valid_statement_about_the_files_that_are_pulled(lived: Community) -> None:
    found = lived.get("/releases/1.2.0/provenance")
    made = json_format.ParseDict(found["statement"], statement_pb2.Statement())
    Statement.copy_from_pb(made).validate()
    assert {one.name: one.digest["sha256"] for one in made.subject} == {
        file["path"]: file["sha256"] for file in lived.get("/revisions/1.2.0")["files"]
    }
    assert found["approvals"] == {f"{number}.1": ["rita"] for number in (1, 2, 3)}
    assert found["release"] == lived.get("/releases/1.2.0")


def test_an_evaluation_is_of_the_base_a_revision_or_a_release(lived: Community) -> None:
    lived.put("mary", "/channels/stable", version="1.1.0")
    lived.cut("1.3.0", [1, 2, 3, 4])
    given = {"task": "qa", "dataset": "squad", "metric": "f1", "source": "https://x.example", "command": "eval it"}
    for ref, subject, value in [
        ("base", "base", 0.1),
        ("#2", "#2.1", 0.2),
        ("#2.1", "#2.1", 0.3),
        ("1.2.0", "1.2.0", 0.4),
        ("stable", "1.1.0", 0.5),
        ("1.3.0", "1.3.0", 0.6),
    ]:
        made = lived.post("carol", "/evaluations", 201, ref=ref, value=value, higher_is_better=False, **given)
        assert (made["subject"], made["value"], made["user"], made["higher_is_better"]) == (
            subject,
            value,
            "carol",
            False,
        )
        assert {name: made[name] for name in given} == given

    def values(ref: str) -> list[float]:
        return [one["value"] for one in lived.get(f"/evaluations?ref={ref}")["items"]]

    assert (values("base"), values("%232"), values("1.2.0"), values("1.1.0")) == ([0.1], [0.2, 0.3], [0.4], [0.5])
    seen, cursor = [], None
    while True:
        page = lived.get(f"/evaluations?limit=4{f'&after={cursor}' if cursor else ''}")
        seen += [one["value"] for one in page["items"]]
        if (cursor := page["next"]) is None:
            break
    assert sorted(seen) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    for ref in ("#9", "#2.2", "9.9.9", "nightly"):
        lived.post("carol", "/evaluations", 404, ref=ref, value=1, **given)
    lived.rebuild()
    lived.post("mary", "/releases/1.3.0/publish")
    (told,) = read_manifest(raw_manifest(lived, "1.3.0")).evaluations
    assert (told.value, told.who, told.dataset) == (0.6, "carol", "squad")
    assert lived.get("/releases/1.3.0/provenance")["evaluations"][0]["value"] == 0.6


@pytest.mark.parametrize("field", ["task", "dataset", "metric"])
def test_an_evaluation_with_control_characters_is_refused(crew: Community, field: str) -> None:
    """Otherwise anybody could prevent a release from being published."""
    given = {"ref": "base", "task": "qa", "dataset": "squad", "metric": "f1", "value": 1}
    for words in ("a\nb", "a\x07b", "a\x85b"):
        assert crew.post("carol", "/evaluations", 422, **{**given, field: words})["field"] == field


@pytest.mark.parametrize("words", ["\u202e", "a | b", "# [x](y) <b>", "x" * 100, "ü: 'y' \"z\"", "- a: {b}"])
def test_no_measurement_keeps_a_release_from_being_published(lived: Community, words: str) -> None:
    lived.cut("1.2.1", [1, 2], 201)
    for value in (1e308, -0.0):
        lived.post("carol", "/evaluations", 201, ref="1.2.1", task=words, dataset=words, metric=words, value=value)
    lived.post("mary", "/releases/1.2.1/publish")
    assert len(read_manifest(raw_manifest(lived, "1.2.1")).evaluations) == 2


# yanked patches


def test_a_yanked_patch_leaves_published_releases_as_they_are(lived: Community) -> None:
    before = row(lived, "1.2.0")
    lived.put("mary", "/channels/beta", version="1.2.0")
    lived.post("mary", "/patches/2/yank", message="it forgets")
    assert row(lived, "1.2.0") == before
    assert "Patch #2 was yanked: it forgets" in lived.get("/releases/1.2.0")["warnings"]
    assert not any("yanked" in warning for warning in lived.get("/releases/1.0.0")["warnings"])
    assert {item["number"]: item["state"] for item in lived.get("/releases/1.2.0")["recipe"]["patches"]} == {
        1: "accepted",
        2: "yanked",
        3: "accepted",
    }
    refused = lived.put("mary", "/channels/stable", 409, version="1.2.0")["detail"]
    assert refused == f"{NAME}@stable does not allow a release with yanked patches: Patch #2 was yanked: it forgets"
    lived.put("mary", "/channels/stable", version="1.0.0")
    assert lived.get("/revisions/beta")["ref"] == "1.2.0"
    lived.put("alice", "/channels/stable/protection", allow_yanked=True)
    assert lived.put("mary", "/channels/stable", version="1.2.0")["release"] == "1.2.0"


def test_a_release_without_the_yanked_patch_is_one_command_away(lived: Community) -> None:
    lived.post("mary", "/patches/2/yank", message="it forgets")
    assert f"{NAME}#2.1 was yanked (it forgets)" in lived.cut("1.3.0", status=422, from_ref="1.2.0")["detail"]
    made = lived.publish("1.2.1", status=202, from_ref="1.2.0", without=[2])
    assert (numbers(made), made["state"], made["previous"]) == ({1: "1", 3: "1"}, "published", "1.2.0")
    assert "### Removed\n\n- \\#2 Patch 2" in made["changelog"]
    assert lived.put("mary", "/channels/stable", version="1.2.1")["release"] == "1.2.1"


def test_a_yanked_patch_is_released_only_when_asked_for(lived: Community) -> None:
    lived.cut("1.3.0", [2, 4])
    lived.rebuild()
    lived.post("mary", "/patches/2/yank", message="it forgets")
    assert lived.get("/releases/1.3.0")["missing"] == ["Patch #2 is yanked, not accepted."]
    lived.cut("1.3.0", [2, 4], 422)
    lived.cut("1.3.0", [2, 4], 201, allow_yanked=True)
    assert lived.get("/releases/1.3.0")["missing"] == []
    published = lived.post("mary", "/releases/1.3.0/publish")
    assert "Patch #2 was yanked: it forgets" in published["warnings"]


def test_a_release_of_a_model_with_the_same_weights_waits_for_a_second_builder_too(crew: Community) -> None:
    """A composition of another model is reused with its builder, which does not build it again."""
    crew.accept(1)
    crew.cut("1.0.0", [1])
    create_model(crew.world, "carol/copy", crew.base)
    push_patch(crew.world, "carol/copy", crew.world.store.path(crew.patch(1)["sha256"]), "carol", propose=True)
    carol, copy = crew.world.client("carol"), URL.replace(NAME, "carol/copy")
    cut = carol.post(f"{copy}/releases", json={"version": "1.0.0", "patches": [{"number": 1}], "alpha": "0.3"})
    assert cut.status_code == 202, cut.text
    crew.world.work()
    found = carol.get(f"{copy}/releases/1.0.0").json()
    assert found["weights_digest"] == crew.get("/releases/1.0.0")["weights_digest"]
    assert [one["builder"] for one in found["builds"]] == [crew.world.worker.name]
    crew.rebuild()
    assert [one["builder"] for one in carol.get(f"{copy}/releases/1.0.0").json()["builds"]] == [
        crew.world.worker.name,
        crew.second.name,
    ]


def test_a_base_with_other_weights_is_another_recipe(crew: Community, tmp_path: Path) -> None:
    """Otherwise a release could be built from another model's composition by mistake."""
    crew.accept(1)
    crew.cut("1.0.0", [1])
    recipe = crew.get("/releases/1.0.0")["recipe"]
    other = create_model(crew.world, "carol/other", make_checkpoint(tmp_path / "other", seed=9))
    items = [(item["sha256"], item["weight"]) for item in recipe["patches"]]
    assert make_recipe(recipe["base"], recipe["alpha"], items).digest == recipe["digest"]
    assert make_recipe(other["base"], recipe["alpha"], items).digest != recipe["digest"]
