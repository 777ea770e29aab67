"""Publishing: what must not be missing, two builders that agree, and a release that is closed."""

import json

import pytest
from sqlalchemy import select

from registry.db.tables import Build, Job
from registry.documents.manifest import read_manifest
from tests.support.community import NAME, URL, Community
from tests.support.released import ALONE, BUNDLE, OTHER, pulled, raw_manifest, row, scalars
from tests.support.world import create_model, push_patch

pytestmark = pytest.mark.heavy


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


@pytest.mark.parametrize("words", ["\u202e", "a | b", "# [x](y) <b>", "x" * 100, "ü: 'y' \"z\"", "- a: {b}"])
def test_no_measurement_keeps_a_release_from_being_published(lived: Community, words: str) -> None:
    lived.cut("1.2.1", [1, 2], 201)
    for value in (1e308, -0.0):
        lived.post("carol", "/evaluations", 201, ref="1.2.1", task=words, dataset=words, metric=words, value=value)
    lived.post("mary", "/releases/1.2.1/publish")
    assert len(read_manifest(raw_manifest(lived, "1.2.1")).evaluations) == 2


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
