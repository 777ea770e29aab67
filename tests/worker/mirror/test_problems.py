"""Models that cannot be taken over hold up no others, and nobody takes them for complete; a mirror mends itself."""

from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from registry.db.tables import AuditEvent, Blob, MirrorProblem
from registry.errors import InvalidRequest, NotFound, Unavailable, WrongState
from registry.outside.primary import Primary
from registry.services.blobs import damage
from registry.services.mirroring import mirrors
from registry.services.operating import measures
from tests.support.community import NAME, URL
from tests.support.world import create_model
from tests.worker.mirror.test_following import Pair, make_follower, pair, small

__all__ = ["pair", "small"]
OTHER = "alice/other"


def failing(pair: Pair, path: str, why: Exception) -> Any:
    """Have the primary refuse what has a text in its path or part, as long as the list that is returned has items."""
    real, left = pair.follower.primary.get, [why]

    def get(asked: str, patience: float = 0, **query: Any) -> bytes:
        if left and path in f"{asked}?{query.get('part', '')}":
            raise left[0]
        return real(asked, patience, **query)

    pair.follower.primary.get = get  # type: ignore[method-assign]
    return left


def promote(pair: Pair, *, force: bool = False) -> dict[str, Any]:
    with pair.here.database.write() as session:
        return mirrors.promote(session, current=True, force=force)


def test_a_model_that_cannot_be_taken_over_holds_up_no_other(small: Pair) -> None:
    crew, here = small.crew, small.here
    create_model(crew.world, OTHER, crew.base)
    left = failing(small, f"{OTHER}/mirror", InvalidRequest("It is malformed."))
    small.refused("malformed", OTHER)
    small.same("", "/patches")
    crew.post("bob", "/patches/1/comments", 201, message="on it goes")
    crew.world.client("alice").patch(f"/api/v1/models/{OTHER}", json={"min_approvals": 3})
    small.follower.round()
    small.same("/patches/1/discussion")
    mirror, (problem,) = small.mirror(), small.rows(MirrorProblem)
    assert (mirror.cursor, mirror.problem, problem.attempts) == (mirror.head, None, 1), "not tried before it is due"
    small.hurry()
    small.follower.round()
    (again,) = small.rows(MirrorProblem)
    assert again.attempts == 2 and again.retry_at > problem.retry_at
    with here.database.read() as session:
        told = mirrors.status(session) or {}
        assert {one.name: one.values[()] for one in measures.of_mirror(session)}["registry_mirror_set_aside"] == 1
    assert [one["name"] for one in told["problems"]] == [OTHER]
    assert f"{OTHER}: It is malformed." in mirrors.tell(told)
    with pytest.raises(WrongState, match=f"Not all is here of {OTHER}"):
        promote(small)
    left.clear()
    make_follower(crew, here).begin()  # tries all of them at once
    small.follower.round()
    assert small.rows(MirrorProblem) == []
    assert here.client(None).get(f"/api/v1/models/{OTHER}").json()["min_approvals"] == 3
    promote(small)


def test_a_model_that_was_lost_for_a_moment_is_not_taken_for_complete(small: Pair) -> None:
    """A proxy answers 404 for one of its parts; the cursor goes on, and the model is read once more."""
    crew = small.crew
    small.follower.round()
    left = failing(small, "patch:1", NotFound("Nothing is there."))
    crew.post("bob", "/patches/1/comments", 201, message="you missed this")
    small.follower.round()
    assert small.mirror().cursor == small.mirror().head
    assert small.get("/patches/1")["title"] == "Patch 1", "readers keep what is here"
    with pytest.raises(WrongState, match=NAME):
        promote(small)
    left.clear()
    small.hurry()
    small.follower.round()
    small.same("/patches/1/discussion")
    left.append(NotFound("Nothing is there."))
    crew.rules(visibility="private")
    small.follower.round()
    assert small.rows(MirrorProblem) == [], "it is hidden there, and no problem"
    promote(small)


def test_what_is_there_of_a_model_stays_when_its_mirror_is_promoted_by_force(small: Pair) -> None:
    create_model(small.crew.world, OTHER, small.crew.base)
    failing(small, f"{NAME}/mirror/rows?patch:3", InvalidRequest("It is malformed."))
    small.follower.round()
    assert promote(small, force=True)["incomplete"] == [NAME]
    here = small.here
    small.get("", status=404)
    own = here.client("alice").get(f"{URL}/patches").json()["items"]
    assert {one["number"] for one in own} == {1, 2}
    assert here.client(None).get(f"/api/v1/models/{OTHER}").status_code == 200
    assert here.client("alice").patch(URL, json={"visibility": "public"}).status_code == 200
    with here.database.read() as session:
        assert NAME in "".join(mirrors.tell_unfinished(mirrors.unfinished(session)))
        event = session.scalars(select(AuditEvent).where(AuditEvent.action == "mirror.promote")).one()
    assert (event.after or {})["incomplete"] == [NAME]


def test_a_damaged_file_is_fetched_again(small: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    small.follower.round()
    here, sha256 = small.here, small.crew.patch(1)["sha256"]
    path = here.store.path(sha256)
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    damage.note(here.database, here.store, sha256)
    small.follower.listed = float("-inf")
    small.follower.round()
    assert next(blob for blob in small.rows(Blob) if blob.sha256 == sha256).damaged_at is None
    assert damage.flaw(here.store, sha256, path.stat().st_size) is None
    damage.examine(here.database, here.store, sha256)
    path.chmod(0o644)
    path.write_bytes(b"x")
    damage.note(here.database, here.store, sha256)
    small.follower.listed = float("-inf")
    asked = list[str]()

    def download(_: Primary, model: str, digest: str, *rest: Any) -> None:
        asked.append(digest)
        raise Unavailable("Not now.")

    monkeypatch.setattr(Primary, "download", download)
    small.follower.round()
    assert asked == [sha256] and small.mirror().problem is None


def test_a_database_that_is_away_for_a_moment_does_not_end_the_mirror(
    small: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, kind, left = small.follower, type(small.here.database), [1, 2]
    real, waited = {name: getattr(kind, name) for name in ("read", "write")}, list[float]()

    def opening(name: str) -> Any:
        @contextmanager
        def opened(database: Any) -> Any:
            if left and left.pop():
                raise OperationalError("SELECT 1", {}, Exception("gone"))
            with real[name](database) as session:
                yield session

        return opened

    for name in real:
        monkeypatch.setattr(kind, name, opening(name))
    monkeypatch.setattr(follower.stopping, "wait", waited.append)
    monkeypatch.setattr("registry.worker.mirror.follower.WAIT", 0)
    once = follower.round

    def round(wait: int = 0) -> None:
        once(wait)
        follower.stop()

    monkeypatch.setattr(follower, "round", round)
    follower.run()
    assert (len(waited), left) == (1, [])
    small.same("")


def test_keys_that_cannot_be_used_are_told_of_at_the_start(small: Pair) -> None:
    follower = small.follower
    follower.settings = follower.settings.model_copy(update={"mirror_keys": "/nonexistent.pem"})
    with pytest.raises(InvalidRequest, match=r"/nonexistent.pem cannot be read"):
        follower.begin()
