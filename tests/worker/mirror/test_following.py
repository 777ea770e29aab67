"""Following: a mirror has what its primary has, checked here; it changes none of it, and can take its place."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import func, select, update

from registry.db.audit import check_chain
from registry.db.tables import (
    AuditEvent,
    Build,
    Composition,
    Mirror,
    MirroredRow,
    MirrorProblem,
    Model,
    Release,
    Review,
    Token,
    User,
)
from registry.errors import DigestMismatch, HistoryChanged, InvalidRequest, Unauthenticated, Unavailable, WrongState
from registry.outside.primary import Primary
from registry.server.pages.frame.cookies import COOKIE
from registry.services.blobs import quotas
from registry.services.mirroring import mirrors, people
from registry.services.mirroring import problems as mirror_problems
from registry.services.operating import identity, measures
from registry.services.people import sign_ins
from registry.worker.mirror import reading
from registry.worker.mirror.follower import Follower
from tests.support.community import NAME, URL, Community
from tests.support.world import World, create_model, open_world

FILE = "model.safetensors"
PAGES = (
    "",
    "/patches",
    "/patches/1",
    "/patches/1/tensors",
    "/patches/1/discussion",
    "/releases",
    "/releases/1.1.0",
    "/releases/1.1.0/manifest",
    "/channels",
    "/channels/stable/history",
    "/revisions/base",
    "/evaluations",
)


@dataclass
class Pair:
    """A primary, and a registry beside it that follows it."""

    crew: Community
    here: World
    follower: Follower

    def get(self, path: str, world: World | None = None, status: int = 200, user: str | None = None) -> Any:
        answer = (world or self.here).client(user).get(f"{URL}{path}")
        assert answer.status_code == status, (path, answer.text)
        return answer.json() if answer.headers["content-type"].endswith("json") else answer.content

    def same(self, *paths: str) -> None:
        """Hold what the mirror answers to what the primary answers."""
        for path in paths or PAGES:
            theirs, ours = (self.get(path, world) for world in (self.crew.world, self.here))
            for answer in (theirs, ours):
                forget(answer)
            assert ours == theirs, path

    def page(self, path: str, user: str | None = None) -> str:
        """Return a page of the mirror, as somebody who has signed in there sees it."""
        browser = self.here.browser()
        if user is not None:
            token = self.here.token(user)
            with self.here.database.write() as session:
                browser.cookies.set(COOKIE, sign_ins.start(session, token))
        return str(browser.get(path, headers={"accept": "text/html"}).text)

    def refused(self, why: str, name: str = NAME) -> None:
        """Run a round in which a model is set aside, whose problem is as a pattern says."""
        self.follower.round()
        problems = {row.name: row.problem for row in self.rows(MirrorProblem)}
        assert re.search(why, problems[name]), problems

    def rows(self, table: Any) -> list[Any]:
        with self.here.database.read() as session:
            return list(session.scalars(select(table)))

    def hurry(self) -> None:
        """Have models tried again that were set aside, now and not in some seconds."""
        with self.here.database.write() as session:
            mirror_problems.hurry(session)

    def mirror(self) -> Mirror:
        with self.here.database.read() as session:
            return session.scalars(select(Mirror)).one()

    def count(self, table: Any) -> int:
        with self.here.database.read() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0


def forget(answer: Any) -> None:
    """Leave out what each registry counts by itself."""
    if isinstance(answer, dict):
        for name in ("downloads", "builds", "job", "primary", "counts"):  # and roles
            answer.pop(name, None)
        for value in answer.values():
            forget(value)
    elif isinstance(answer, list):  # a patch is compared with the release that is there when it is checked
        answer[:] = [value for value in answer if not (isinstance(value, dict) and value.get("name") == "release")]
        for value in answer:
            forget(value)


def make_follower(crew: Community, here: World, *names: str, user: str | None = None) -> Follower:
    token = crew.world.token(user) if user else None
    primary = Primary("http://testserver", token, crew.world.client(None))
    return Follower(here.settings, here.database, here.store, primary, names)


@contextmanager
def open_pair(crew: Community, folder: Path, url: str) -> Iterator[Pair]:
    with open_world(folder / "mirror", url) as here:
        for world in (crew.world, here):
            identity.claim(world.database, world.store)
        follower = make_follower(crew, here)
        follower.begin()
        yield Pair(crew, here, follower)


@pytest.fixture
def pair(lived: Community, database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A primary with releases, and an empty registry that is to follow it, on SQLite and again on PostgreSQL."""
    template = request.getfixturevalue("migrated_template")(database_kind)
    with ExitStack() as stack:
        if database_kind == "postgresql":
            url = stack.enter_context(request.getfixturevalue("databases").lent(template))
        else:
            shutil.copyfile(str(sqlalchemy.make_url(template).database), tmp_path / "mirror.db")
            url = f"sqlite:///{tmp_path / 'mirror.db'}"
        yield stack.enter_context(open_pair(lived, tmp_path, url))


@pytest.fixture
def small(sqlite_crew: Community, tmp_path: Path, migrated_template: Callable[[str], str]) -> Iterator[Pair]:
    """A primary with four drafts and no release, and a registry that is to follow it."""
    shutil.copyfile(str(sqlalchemy.make_url(migrated_template("sqlite")).database), tmp_path / "mirror.db")
    with open_pair(sqlite_crew, tmp_path, f"sqlite:///{tmp_path / 'mirror.db'}") as made:
        yield made


def test_a_mirror_has_all_of_its_primary_and_keeps_up_with_it(pair: Pair) -> None:
    crew, here = pair.crew, pair.here
    crew.put("mary", "/channels/stable", version="1.0.0", reason="First.")
    score = {"task": "t", "dataset": "d", "metric": "m", "value": 0.5, "higher_is_better": True}
    for ref in ("base", "#1", "1.0.0"):
        crew.post("bob", "/evaluations", 201, ref=ref, **score)
    pair.follower.round()
    pair.same()
    mirror = pair.mirror()
    assert (mirror.cursor, mirror.problem) == (mirror.head, None)
    assert mirror.current_at is not None
    with here.database.read() as session:
        assert not session.scalar(select(Token).join(User).where(User.name == "alice"))
        assert not any(session.scalars(select(Composition.held)))
    served = here.client(None).get(f"/{NAME}/resolve/1.1.0/{FILE}")  # composed here
    assert served.content == crew.world.client(None).get(f"/{NAME}/resolve/1.1.0/{FILE}").content
    before = pair.count(Build)
    here.work()  # each release is composed once more, as an alarm
    assert pair.count(Build) == before + 3
    with here.database.read() as session:
        assert set(session.scalars(select(AuditEvent.action).where(AuditEvent.action.like("recipe.%")))) == {
            "recipe.rebuilt"
        }
    pair.follower.round()
    assert pair.count(Build) == before + 3

    spare = crew.push(crew.spares[0], message="New.")
    crew.post("bob", f"/patches/{spare['number']}/comments", 201, message="Look.")
    crew.post("mary", "/patches/4/yank", message="Wrong.")
    crew.put("mary", "/channels/stable", version="1.2.0", reason="Next.")
    crew.post("mary", "/releases/1.0.0/yank", message="Old.")
    crew.rules(license="mit", min_approvals=2)
    pair.follower.round()
    crew.put("chief", f"/patches/{spare['number']}/quarantine", reason="Bad.")
    pair.follower.round()
    pair.same(*PAGES, f"/patches/{spare['number']}", f"/patches/{spare['number']}/discussion")
    pair.get(f"/patches/{spare['number']}/file", status=403)
    assert pair.get("/channels")[0]["release"] == "1.2.0"
    told = here.client(None).get("/api/v1/changes?limit=1000").json()["items"]
    assert {"model.mirrored", "patch.push", "channel.move", "release.yank"} <= {one["action"] for one in told}
    assert next(one for one in told if one["action"] == "channel.move")["user"] == "mary"
    with here.database.read() as session:
        assert list(check_chain(session)) == []
    assert list(quotas.check(here.database)) == []


def test_what_is_mirrored_can_be_changed_only_at_the_primary_until_the_mirror_takes_its_place(pair: Pair) -> None:
    crew, here, follower = pair.crew, pair.here, pair.follower
    follower.round()
    chief = here.client("boss", admin=True)
    refused = [
        chief.patch(URL, json={"min_approvals": 3}),
        chief.post(f"{URL}/patches/1/comments", json={"message": "here"}),
        chief.put(f"{URL}/channels/stable", json={"version": "1.0.0", "reason": "r"}),
        chief.post("/api/v1/models", json={"name": "alice/fresh", "source": "hf://a/b"}),
        chief.post("/api/repos/create", json={"name": "fresh", "organization": "alice"}),
        chief.put("/api/v1/namespaces/alice/members/boss", json={"role": "owner"}),
    ]
    for answer in refused:
        assert answer.status_code == 403, answer.text
        said = answer.json().get("detail") or answer.headers["x-error-message"]
        assert "is mirrored here from http://testserver, and can be changed only there" in said
    assert chief.put(f"{URL}/watch").status_code == 204
    with here.database.read() as session:
        told = {one.name: one.values[()] for one in measures.of_mirror(session)}
    assert (told["registry_mirror_events_behind"], told["registry_mirror_stopped"]) == (0, 0)
    there = f"http://testserver/{NAME}"
    for path in ("", "/patches", "/patches/1", "/releases", "/releases/1.1.0", "/recipes/new", "/evaluations"):
        page = pair.page(f"/{NAME}{path}", "alice")
        assert f'mirrored from <a href="{there}">' in page and f'href="{there}/contribute"' in page, path
        refused = re.findall(rf'"(/{NAME}/(?:contribute|card|recipes|patches/[0-9.]+/comments))"', page)
        assert refused == [], "they lead to a refusal"
        assert "no longer counts" not in page and (path == "/recipes/new" or f'"/{NAME}/recipes/new' not in page)
    assert 'mirrors <a href="http://testserver">' in pair.page("/")
    assert "create models there" in pair.page("/new", "alice") and "<option>boss" in pair.page("/new", "boss")

    crew.rules(min_approvals=2)
    with pytest.raises(WrongState, match="may be missing"), here.database.write() as session:
        mirrors.promote(session, current=False)
    assert pair.mirror().cursor is not None
    follower.round()
    with here.database.write() as session:
        mirrors.promote(session, current=True)
    assert (pair.mirror().promoted_at is not None, pair.count(MirroredRow)) == (True, 0)
    with pytest.raises(WrongState, match="not a mirror"):
        follower.round()
    assert chief.patch(URL, json={"min_approvals": 3}).status_code == 200
    answer = here.client("alice").post(f"{URL}/patches/1/comments", json={"message": "here"})
    assert answer.status_code == 201, "the owner of the namespace got a token here"
    assert here.client("alice").put(f"{URL}/members/mary", json={"role": "maintainer"}).status_code == 204
    assert here.client("mary").post(f"{URL}/patches/3/yank", json={"message": "r"}).status_code == 200


def test_models_that_the_primary_hides_are_hidden_and_names_choose(small: Pair, tmp_path: Path) -> None:
    crew, here = small.crew, small.here
    create_model(crew.world, "alice/other", crew.base)
    chosen = make_follower(crew, here, NAME)
    chosen.begin()
    chosen.round()
    assert [one["name"] for one in here.client(None).get("/api/v1/models").json()["items"]] == [NAME]
    with pytest.raises(LookupError, match="alice/none"):
        make_follower(crew, here, "alice/none").begin()
    small.follower.begin()
    small.follower.round()
    assert len(here.client(None).get("/api/v1/models").json()["items"]) == 2
    crew.rules(visibility="private")
    small.follower.round()
    small.get("", status=404)
    assert small.count(Model) == 2, "what is here stays"
    crew.world.client("bob")
    crew.post("alice", "/patches/1/comments", 201, message="unseen")
    crew.rules(visibility="public")
    small.follower.round()
    small.same("", "/patches/1/discussion")
    with crew.world.database.write() as session:  # nobody can rename a model yet; the key is what counts
        session.execute(update(Model).where(Model.name == "tiny").values(name="small"))
    crew.world.client("alice").patch("/api/v1/models/alice/small", json={"min_approvals": 4})
    small.follower.round()
    assert small.count(Model) == 2
    assert here.client(None).get("/api/v1/models/alice/small").json()["min_approvals"] == 4
    private = make_follower(crew, here, user="alice")
    crew.world.client("alice").patch("/api/v1/models/alice/small", json={"visibility": "private"})
    private.begin()
    private.round()
    assert here.client(None).get("/api/v1/models/alice/small").status_code == 404
    assert here.client("boss", admin=True).get("/api/v1/models/alice/small").status_code == 200


def test_a_mirror_that_is_interrupted_anywhere_ends_where_one_that_was_not_does(
    small: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew, here = small.crew, small.here
    real, left = Primary.get, 0

    class Killed(BaseException):
        pass

    def get(primary: Primary, path: str, patience: float = 0, **query: Any) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return real(primary, path, patience, **query)

    def interrupted(rounds: int) -> None:
        nonlocal left
        for steps in range(1, 60):
            left = steps
            try:
                for _ in range(rounds):
                    make_follower(crew, here).round()
                return
            except Killed:
                if small.count(Model):
                    small.get("", status=200 if small.mirror().cursor is not None else 404)
        raise AssertionError("never ended")

    monkeypatch.setattr(Primary, "get", get)
    interrupted(1)
    small.same("", "/patches", "/patches/1", "/patches/4/tensors")
    crew.push(crew.spares[0])
    crew.accept(1)
    interrupted(1)
    small.same("", "/patches", "/patches/1", "/patches/1/discussion", "/patches/5")
    told = [one["action"] for one in here.client(None).get("/api/v1/changes?limit=1000").json()["items"]]
    assert told.count("patch.accept") == 1 and told.count("model.mirrored") == 1


def tampering(follower: Follower, path: str, old: bytes, new: bytes) -> None:
    """Have the primary answer something else in the rows of one kind of part."""
    real = follower.primary.get

    def get(asked: str, patience: float = 0, **query: Any) -> bytes:
        raw = real(asked, patience, **query)
        if asked.endswith("/rows") and str(query.get("part", "")).startswith(path):
            assert old in raw, (old, raw[:2000])
            return raw.replace(old, new)
        return raw

    follower.primary.get = get  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("part", "old", "new", "why"),
    [
        ("patch:1", b'"table":"reviews"', b'"table":"tokens"', "rows of 'tokens'"),
        ("patch:1", b'"title":"Patch 1"', b'"title":7', "title"),
        ("patch:1", b'"number":1', b'"number":1,"is_admin":true', "other columns"),
        ("model", b'"model":', b'"nothing":', ""),
    ],
)
def test_an_answer_that_is_not_sound_is_refused_and_leaves_nothing(
    small: Pair, part: str, old: bytes, new: bytes, why: str
) -> None:
    if old == b'"model":':
        old, new, why = b'"state":"ready"', b'"state":"empty"', "no base"
    if b"reviews" in old:
        small.crew.post("bob", "/patches/1/propose")
        body = {"verdict": "approve", "revision": 1}
        small.crew.post("rita", "/patches/1/reviews", 201, **body)
    tampering(small.follower, part, old, new)
    small.refused(why)
    assert small.here.client(None).get("/api/v1/models").json()["items"] == []
    assert small.count(Review) == 0


def test_bytes_of_other_digests_are_refused_whatever_the_primary_says(
    small: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew, here = small.crew, small.here
    real = Primary.download
    sha256 = crew.patch(1)["sha256"]

    def long(primary: Primary, model: str, digest: str, size: int, *rest: Any) -> None:
        real(primary, model, digest, size - 1 if digest == sha256 else size, *rest)

    monkeypatch.setattr(Primary, "download", long)
    small.refused("more than")
    monkeypatch.setattr(Primary, "download", real)
    assert here.client(None).get("/api/v1/models").json()["items"] == []


def test_a_base_or_a_patch_that_is_not_sound_here_is_refused(small: Pair) -> None:
    base = small.get("", small.crew.world)["base"].encode()
    tampering(small.follower, "model", base, b"sha256:" + b"0" * 64)
    small.refused("has the digest")
    with pytest.raises(DigestMismatch, match="refused"):
        small.follower.look("check_config", "the base", path="/nonexistent")


@pytest.mark.parametrize(
    ("part", "old", "new", "why"),
    [
        ("recipe:", b'"weights_digest":"sha256:', b'"weights_digest":"sha256:00', "malformed|weights|digest"),
        ("recipe:", b'"changelog":"', b'"changelog":"x', "changelog"),
        ("recipe:", b'"method":"sum"', b'"method":"mean"', "another digest"),
        ("recipe:", b'"commit":"', b'"commit":"0', "commit|malformed"),
    ],
)
def test_a_release_that_is_not_what_its_manifest_says_is_refused(
    pair: Pair, part: str, old: bytes, new: bytes, why: str
) -> None:
    tampering(pair.follower, part, old, new)
    pair.refused(why)
    assert pair.count(Release) == 0


def test_a_primary_with_another_past_stops_the_mirror_with_an_alarm(pair: Pair) -> None:
    crew, here, follower = pair.crew, pair.here, pair.follower
    follower.round()
    cursor = pair.mirror().cursor
    with crew.world.database.write() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(sqlalchemy.text("ALTER TABLE audit_events DISABLE TRIGGER USER"))
        else:
            for name in session.scalars(sqlalchemy.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
                session.execute(sqlalchemy.text(f"DROP TRIGGER {name}"))
        session.execute(update(AuditEvent).where(AuditEvent.serial == cursor).values(hash="0" * 64))
    with pytest.raises(HistoryChanged, match=f"The event {cursor} of"):
        follower.run()
    mirror = pair.mirror()
    assert mirror.stopped and "had the hash" in (mirror.problem or "")
    with here.database.read() as session:
        assert {one.name: one.values[()] for one in measures.of_mirror(session)}["registry_mirror_stopped"] == 1
        assert "STOPPED" in mirrors.tell(mirrors.status(session) or {})
    with pytest.raises(WrongState, match="was stopped"):
        make_follower(crew, here).begin()
    with here.database.write() as session:
        mirrors.restart(session)
    make_follower(crew, here).begin()
    make_follower(crew, here).round()
    pair.same("", "/releases")

    with crew.world.database.write() as session:
        revision = crew.revision(session, 1)
        session.execute(update(type(revision)).where(type(revision).id == revision.id).values(title="Another"))
    crew.post("bob", "/patches/1/comments", 201, message="look at it")
    with pytest.raises(HistoryChanged, match="title of a row of patch_revisions was Patch 1 and is Another"):
        make_follower(crew, here).round()
    assert pair.get("/patches/1")["title"] == "Patch 1"


def test_names_and_keys_of_this_registry_are_not_the_primarys(small: Pair) -> None:
    here, follower = small.here, small.follower
    here.token("al1ce")
    small.refused("'al1ce' of this registry")
    with here.database.write() as session:
        boss = session.scalars(select(User).where(User.name == "al1ce")).one()
        person = people.Person(boss.id, "al1ce", "", False, boss.id)
        with pytest.raises(InvalidRequest, match="an account of this registry"):
            people.take_person(session, person)
    own = reading.head(follower.primary, 0).registry
    with small.crew.world.database.write() as session, pytest.raises(InvalidRequest, match="itself"):
        mirrors.begin(session, "http://testserver", sqlalchemy.Uuid().python_type(str(own)), [], 0)


def test_a_primary_that_fails_is_told_of_and_asked_again(small: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = small.follower

    def get(*_: Any, **__: Any) -> bytes:
        follower.stop()
        raise Unavailable("Nobody is there.")

    monkeypatch.setattr(Primary, "get", get)
    follower.run()
    assert small.mirror().problem == "Nobody is there."
    monkeypatch.undo()
    make_follower(small.crew, small.here).round()
    assert small.mirror().problem is None
    with pytest.raises(Unauthenticated):
        Primary("http://testserver", None, small.crew.world.client(None)).get("/admin/jobs")
