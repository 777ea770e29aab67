"""Releases: cut, composed, and refused where their version or their patches do not allow them."""

from typing import Any

import pytest
from sqlalchemy import select

from registry.db.tables import AuditEvent, Release
from tests.support.community import NAME, Community
from tests.support.released import ALONE, numbers, row, scalars

pytestmark = pytest.mark.heavy


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
