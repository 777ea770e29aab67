"""What a name like `main` or `1.2.0` resolves to, and what a release says of itself."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from sqlalchemy import select

from registry.breadcrumbs.formats.recipe import make_recipe
from registry.db.tables import AuditEvent
from registry.documents.manifest import make_manifest, manifest_digest, read_manifest
from tests.support.community import NAME, URL, Community
from tests.support.makers import make_checkpoint
from tests.support.released import raw_manifest, scalars
from tests.support.world import create_model

pytestmark = pytest.mark.heavy


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


def test_a_base_with_other_weights_is_another_recipe(crew: Community, tmp_path: Path) -> None:
    """Otherwise a release could be built from another model's composition by mistake."""
    crew.accept(1)
    crew.cut("1.0.0", [1])
    recipe = crew.get("/releases/1.0.0")["recipe"]
    other = create_model(crew.world, "carol/other", make_checkpoint(tmp_path / "other", seed=9))
    items = [(item["sha256"], item["weight"]) for item in recipe["patches"]]
    assert make_recipe(recipe["base"], recipe["alpha"], items).digest == recipe["digest"]
    assert make_recipe(other["base"], recipe["alpha"], items).digest != recipe["digest"]
