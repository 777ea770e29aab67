"""Dossiers of many releases: the same as one by one, with a fixed number of queries."""

import pytest
from sqlalchemy import select

from registry.db.tables import Build, Evaluation, Release
from registry.documents.versions import parse_version
from registry.services.curation import reviews
from registry.services.releasing import dossiers, publishing, releases
from tests.support.community import Community
from tests.support.world import statements

pytestmark = pytest.mark.heavy


@pytest.fixture
def lived(lived: Community) -> Community:
    """Twenty more releases, that wait for all that can be missing."""
    lived.rules(required_evaluations=["gsm8k:accuracy"])
    lived.put("mary", "/channels/stable", 200, version="1.1.0")
    lived.put("mary", "/channels/beta", 200, version="1.1.0")
    add(lived, 20)
    return lived


def add(crew: Community, count: int) -> None:
    """Add unpublished releases in every state, with the recipes of the three published ones."""
    with crew.world.database.write() as session:
        model = crew.model(session)
        alice, old = crew.actor(session, "alice").user_id, session.scalars(select(Release).order_by(Release.sort)).all()
        for number in range(count):
            version = f"1.{number % 4}.{number + 1}"
            words = {"recipe_digest": old[number % 3].recipe_digest, "previous_version": "1.2.0", "changelog": "more"}
            state = ("draft", "building", "candidate")[number % 3]
            row = Release(model_id=model.id, version=version, state=state, creator_id=alice, **words)
            row.sort = parse_version(version).sort_key
            session.add(row)
            session.flush()
            if number % 2:
                measured = {
                    "task": "t",
                    "dataset": "gsm8k",
                    "metric": "accuracy",
                    "value": 1.0,
                    "higher_is_better": True,
                }
                session.add(Evaluation(model_id=model.id, release_id=row.id, user_id=alice, **measured))
        other = "sha256:" + "0" * 64
        fields = {"recipe_digest": old[2].recipe_digest, "builder": "another", "device": "cpu"}
        session.add(Build(model_id=model.id, weights_digest=other, **fields))
    crew.set(2, state="yanked", reason="It forgets.")


def test_a_list_of_releases_says_what_each_says_alone(lived: Community) -> None:
    listed = lived.get("/releases?limit=100")["items"]
    assert len(listed) == 23
    for found in listed:
        assert found == lived.get(f"/releases/{found['version']}")
    missing = {found["version"]: found["missing"] for found in listed}
    assert missing["1.0.0"] == [] and missing["1.1.0"] == []
    assert missing["1.0.1"] == [
        "It is draft, and not composed yet.",
        "1.0.0 was published after it was cut; cut it again, to follow that.",
        "The evaluation gsm8k:accuracy is missing.",
    ]
    assert missing["1.2.3"][:1] == ["Patch #2 is yanked, not accepted."]
    assert missing["1.2.3"][-1].startswith("ALARM: alice/tiny@1.2.3 was composed to 2 different results")
    assert "The evaluation gsm8k:accuracy is missing." in missing["1.2.3"]
    by_version = {found["version"]: found for found in listed}
    assert by_version["1.1.0"]["channels"] == ["beta", "stable"]
    assert "Patch #2 was yanked: It forgets." in by_version["1.1.0"]["warnings"]


def test_a_list_of_twenty_releases_takes_no_more_queries_than_a_list_of_one(lived: Community) -> None:
    # The oldest three are published; newer ones ask for what is missing, too.
    with statements(lived.world) as few:
        assert len(lived.get("/releases?limit=1")["items"]) == 1
    with statements(lived.world) as many:
        assert len(lived.get("/releases?limit=20")["items"]) == 20
    assert len(many) == len(few) < 20


def test_an_outline_agrees_with_the_release_and_reads_none_of_its_texts(lived: Community) -> None:
    listed = {found["version"]: found for found in lived.get("/releases?limit=100")["items"]}
    with lived.world.database.read() as session, statements(lived.world) as seen:
        model = lived.model(session)
        found, cursor = dossiers.outlines(session, model, None, 20)
        rest, end = dossiers.outlines(session, model, cursor, 20)
        assert [one.release.version for one in (*found, *rest)] == list(listed)
        assert end is None
    assert not any("manifest" in statement or "changelog" in statement for statement in seen)
    for one in (*found, *rest):
        full = listed[one.release.version]
        assert one.patches == len(full["recipe"]["patches"])
        assert one.yanked == sum(item["state"] == "yanked" for item in full["recipe"]["patches"])
        assert (one.signed, list(one.channels)) == (full["signed"], full["channels"])


def test_approvals_of_many_are_those_of_each_alone(lived: Community) -> None:
    lived.role("rolf", "reviewer")
    with lived.world.database.read() as session:
        model = lived.model(session)
        found = [lived.revision(session, number) for number in (1, 2, 3, 4)]
        for row in found:
            session.refresh(row, ["patch"])
        alone = {row.id: reviews.approvers(session, model, row) for row in found}
        assert reviews.approvals(session, model, found) == alone
        assert list(alone.values()) == [["rita"]] * 4
    lived.role("rita", None)
    with lived.world.database.read() as session:
        model = lived.model(session)
        found = [lived.revision(session, number) for number in (1, 2)]
        for row in found:
            session.refresh(row, ["patch"])
        assert reviews.approvals(session, model, found) == {row.id: [] for row in found}
        # What was published says who had approved then.
        release = releases.find(session, "alice/tiny", "1.1.0")
        assert publishing.approved(session, model, release) == {"1.1": ["rita"], "2.1": ["rita"]}
        assert publishing.approvals(session, model, release) == {"1.1": [], "2.1": []}
