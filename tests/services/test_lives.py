"""Steps in any order, compared with a small model of their expected results."""

import hashlib
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import select

from registry.db.audit import check_chain
from registry.db.tables import (
    AuditHead,
    BaseFile,
    Blob,
    Build,
    Channel,
    ChannelMove,
    Model,
    Namespace,
    Patch,
    PatchRevision,
    Release,
    ReleaseFile,
    Review,
    UploadSession,
    User,
    now,
)
from registry.errors import BreadcrumbError, Forbidden, InvalidRecipe, InvalidRequest, NotFound, WrongState
from registry.services.catalog import models, patches, revisions
from registry.services.composing import builds, compositions, mixes
from registry.services.composing.mixes import Ingredient, Mix
from registry.services.curation import reviews
from registry.services.people import access
from registry.services.people.actors import Actor, authenticate
from registry.services.releasing import channels, cutting, publishing, releases
from tests.support.world import World

PEOPLE = ("ann", "ben", "cat", "dan")
GRANTS = (None, "contributor", "reviewer", "maintainer", "owner")
RANK = {None: 1, "contributor": 1, "reviewer": 2, "maintainer": 3, "owner": 4}
BASE = "sha256:" + "b" * 64
ENDS = {"withdraw": "withdrawn", "reject": "rejected", "yank": "yanked", "unyank": "accepted", "propose": "proposed"}
STARTS = {
    "propose": {"draft", "changes_requested"},
    "withdraw": {"draft", "proposed", "changes_requested"},
    "reject": {"proposed", "changes_requested"},
    "yank": {"accepted"},
    "unyank": {"yanked"},
}
people = strategies.sampled_from(PEOPLE)
whoever = strategies.sampled_from((*PEOPLE, "author", "author", "author", "maintainer", "maintainer"))
smallest = strategies.integers(1, 4)


class Lives(RuleBasedStateMachine):
    """Users with changing roles, on a new model for each example."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.roles: dict[str, str | None] = dict.fromkeys(PEOPLE)
        self.name = f"owner/{uuid.uuid4().hex[:12]}"
        secrets = {user: world.token(user, admin=user == "chief") for user in ("owner", "chief", *PEOPLE)}
        with world.database.write() as session:
            self.actors: dict[str, Actor] = {user: authenticate(session, secret) for user, secret in secrets.items()}
            space = session.scalars(select(Namespace).where(Namespace.name == "owner")).one()
            row = Model(
                namespace_id=space.id,
                name=self.name.partition("/")[2],
                creator_id=self.actors["owner"].user_id,
                state="ready",
                base_digest=BASE,
                base_commit="b" * 40,
                license="apache-2.0",
                size=1,
            )
            session.add(row)
            session.flush()
            self.model_id = row.id

    def teardown(self) -> None:
        with self.world.database.read() as session:
            assert list(check_chain(session)) == []

    def add_blob(self, session: Any, user: str) -> str:
        """Add a blob as if uploaded; its bytes do not matter here."""
        sha256 = hashlib.sha256(uuid.uuid4().bytes).hexdigest()
        space = session.scalars(select(Namespace.id).where(Namespace.name == user)).one()
        session.add(Blob(sha256=sha256, size=1))
        session.flush()
        upload = UploadSession(
            user_id=self.actors[user].user_id, namespace_id=space, sha256=sha256, size=1, part_size=1
        )
        upload.state, upload.expires_at = "done", now() + timedelta(hours=1)
        session.add(upload)
        session.flush()
        return sha256

    def add_patch(self, session: Any, user: str, state: str = "draft") -> int:
        """Add a checked patch, as after a push and its check."""
        model = session.get_one(Model, self.model_id)
        model.patch_count += 1
        patch = Patch(model_id=model.id, number=model.patch_count, author_id=self.actors[user].user_id, state=state)
        session.add(patch)
        session.flush()
        self.add_revision(session, patch, 1, self.add_blob(session, user))
        number: int = patch.number
        return number

    def add_revision(self, session: Any, patch: Patch, number: int, sha256: str) -> None:
        session.add(
            PatchRevision(
                patch_id=patch.id,
                number=number,
                state="checked",
                title="t",
                message="",
                base_digest=BASE,
                sha256=sha256,
                blob_sha256=sha256,
                size=1,
            )
        )
        session.flush()

    def attempt(
        self,
        expected: type[BreadcrumbError] | None,
        user: str,
        action: str,
        do: Callable[[Any, Actor], Any],
        number: int | None = None,
    ) -> None:
        """Do something as a route would; a refusal must be the expected one, and must change nothing."""
        namespace, _, name = self.name.partition("/")
        path = {"namespace": namespace, "name": name, "number": number}
        serial = self.serial()
        refused: type[BreadcrumbError] | None = None
        try:
            with self.world.database.write() as session:
                access.admit(session, self.actors[user], action, path)
                do(session, self.actors[user])
        except BreadcrumbError as error:
            refused = type(error)
            assert expected is not None, error
        assert refused is expected or (refused and expected and issubclass(refused, expected))
        if refused is not None:
            assert self.serial() == serial

    def serial(self) -> int:
        with self.world.database.read() as session:
            return session.get_one(AuditHead, 1).serial

    def may(self, user: str, role: str) -> bool:
        return user == "chief" or RANK[self.roles[user]] >= RANK[role]

    @rule(user=people, role=strategies.sampled_from(GRANTS))
    def grant(self, user: str, role: str | None) -> None:
        if role != self.roles[user]:
            with self.world.database.write() as session:
                models.set_member(session, self.actors["owner"], self.name, user, role)
            self.roles[user] = role


class PatchLives(Lives):
    """Patches of four users, who review, decide and change their minds."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.needed = 1
        self.patches: dict[int, dict[str, Any]] = {}
        for user, role in (("ann", "maintainer"), ("ben", "reviewer"), ("cat", "reviewer")):
            self.grant(user, role)
        self.push("ann")
        self.push("dan")

    def pick(self, number: int) -> int:
        """Choose one of the patches."""
        return 1 + number % len(self.patches)

    def check(self) -> None:
        """Compare the rows with the model, and the verdicts that count with those that may."""
        with self.world.database.read() as session:
            model = session.get_one(Model, self.model_id)
            for row in session.scalars(select(Patch).where(Patch.model_id == self.model_id)):
                told = self.patches[row.number]
                assert (row.state, row.revision) == (told["state"], told["revision"])
                assert (row.superseded_by, row.quarantined_at is not None) == (told["superseded"], told["quarantined"])
                assert (row.reason is not None) == (row.state in ("withdrawn", "rejected", "yanked"))
                verdicts = session.query(Review).join(PatchRevision).filter(PatchRevision.patch_id == row.id)
                assert verdicts.count() == told["said"]
                revision = patches.find(session, model.full_name, row.number)
                approvers = reviews.approvers(session, model, revision)
                assert approvers == sorted(self.approving(row.number))
                assert told["author"] not in approvers

    def approving(self, number: int) -> set[str]:
        told = self.patches[number]
        verdicts = told["verdicts"].get(told["revision"], {})
        return {user for user, verdict in verdicts.items() if verdict == "approve" and self.may(user, "reviewer")}

    @rule(user=people)
    def push(self, user: str) -> None:
        with self.world.database.write() as session:
            number = self.add_patch(session, user)
        self.patches[number] = {
            "author": user,
            "state": "draft",
            "revision": 1,
            "superseded": None,
            "quarantined": False,
            "verdicts": {},
            "said": 0,
        }

    def who(self, user: str, author: str) -> str:
        """Choose a user: most often one who is allowed."""
        if user == "maintainer":
            return next((one for one in PEOPLE if self.may(one, "maintainer")), "ann")
        return author if user == "author" else user

    @rule(number=smallest, user=whoever, verb=strategies.sampled_from(sorted(STARTS)))
    def step(self, number: int, user: str, verb: str) -> None:
        number = self.pick(number)
        told = self.patches[number]
        user = self.who(user, told["author"])
        author = told["author"] == user
        allowed = {
            "propose": author,
            "withdraw": author,
            "reject": self.may(user, "maintainer"),
            "yank": author or self.may(user, "maintainer"),
            "unyank": author or self.may(user, "maintainer"),
        }[verb]
        expected = None if told["state"] in STARTS[verb] else WrongState
        self.attempt(
            expected if allowed else Forbidden,
            user,
            f"patch.{'yank' if verb == 'unyank' else verb}",
            lambda session, actor: reviews.move(session, actor, self.name, number, verb, "because"),
            number,
        )
        if allowed and expected is None:
            told["state"] = ENDS[verb]
        self.check()

    @rule(number=smallest)
    def ask(self, number: int) -> None:
        """Have a patch proposed, and approved by everybody who may, so that it can be decided."""
        self.step(number, "author", "propose")
        for user in PEOPLE:
            self.review(number, user, 0, "approve")

    @rule(
        number=smallest,
        change=strategies.sampled_from((None, None, None, "demote", "revise")),
        then=strategies.sampled_from((None, "yank", "yank", "revise")),
    )
    def decide(self, number: int, change: str | None, then: str | None) -> None:
        """Go the whole way to a decision, while something may change before and after it."""
        self.ask(number)
        if change == "demote":
            self.grant("ben", None)
            self.grant("cat", "contributor")
        elif change == "revise":
            self.revise(number, "author")
        self.accept(number, "maintainer", 0, [])
        if then == "yank":
            self.step(number, "author", "yank")
            self.step(number, "author", "unyank")
        elif then == "revise":
            self.revise(number, "author")

    @rule(number=smallest, user=whoever)
    def revise(self, number: int, user: str) -> None:
        number = self.pick(number)
        told = self.patches[number]
        user = self.who(user, told["author"])
        with self.world.database.write() as session:
            sha256 = self.add_blob(session, user)

        def do(session: Any, actor: Actor) -> None:
            row, _ = revisions.revise(session, actor, self.name, number, revisions.Contribution(sha256, "t", ""))
            row.state = "checked"

        expected: type[BreadcrumbError] | None = None
        if told["state"] not in ("draft", "proposed", "changes_requested"):
            expected = WrongState
        if told["author"] != user:
            expected = Forbidden
        self.attempt(expected, user, "patch.revise", do, number)
        if expected is None:
            told["revision"] += 1
        self.check()

    @rule(
        number=smallest,
        user=people,
        late=strategies.sampled_from((0, 0, 0, 1, -1)),
        verdict=strategies.sampled_from(("approve", "approve", "approve", "request_changes")),
    )
    def review(self, number: int, user: str, late: int, verdict: str) -> None:
        number = self.pick(number)
        told = self.patches[number]
        seen = told["revision"] - late
        expected: type[BreadcrumbError] | None = None
        if not self.may(user, "reviewer") or told["author"] == user:
            expected = Forbidden
        elif late or told["state"] != "proposed":
            expected = WrongState
        self.attempt(
            expected,
            user,
            "patch.review",
            lambda session, actor: reviews.review(session, actor, self.name, number, seen, verdict, ""),
            number,
        )
        if expected is None:
            told["verdicts"].setdefault(told["revision"], {})[user] = verdict
            told["said"] += 1
            if verdict == "request_changes":
                told["state"] = "changes_requested"
        self.check()

    @rule(
        number=smallest,
        user=whoever,
        late=strategies.sampled_from((None, None, 0, 0, 0, 1)),
        older=strategies.lists(smallest, max_size=1),
    )
    def accept(self, number: int, user: str, late: int | None, older: list[int]) -> None:
        number, older = self.pick(number), [self.pick(one) for one in older]
        told = self.patches[number]
        user = self.who(user, told["author"])
        seen = None if late is None else told["revision"] - late
        expected: type[BreadcrumbError] | None = None
        lacking = len(self.approving(number)) < self.needed or told["quarantined"]
        if not self.may(user, "maintainer"):
            expected = Forbidden
        elif late or told["state"] != "proposed" or lacking:
            expected = WrongState
        elif number in older:
            expected = InvalidRequest
        elif any(self.patches[one]["state"] != "accepted" for one in older):
            expected = WrongState
        self.attempt(
            expected,
            user,
            "patch.accept",
            lambda session, actor: reviews.accept(session, actor, self.name, number, "", seen, older),
            number,
        )
        if expected is None:
            told["state"] = "accepted"
            for one in older:
                self.patches[one] |= {"state": "superseded", "superseded": number}
        self.check()

    @rule(needed=strategies.integers(0, 2))
    def need(self, needed: int) -> None:
        with self.world.database.write() as session:
            models.update(session, self.actors["owner"], self.name, {"min_approvals": needed})
        self.needed = needed

    @rule(number=smallest, user=strategies.sampled_from((*PEOPLE, "chief", "chief")), on=strategies.booleans())
    def quarantine(self, number: int, user: str, on: bool) -> None:
        number = self.pick(number)
        told = self.patches[number]
        reason = "odd" if on else None
        self.attempt(
            None if user == "chief" else Forbidden,
            user,
            "patch.quarantine",
            lambda session, actor: reviews.quarantine(session, actor, self.name, number, reason),
            number,
        )
        if user == "chief":
            told["quarantined"] = on
        self.check()

    @rule(number=smallest)
    def compose(self, number: int) -> None:
        """Whether a patch can be composed depends only on its state and quarantine."""
        number = self.pick(number)
        told = self.patches[number]
        with self.world.database.read() as session:
            model = session.get_one(Model, self.model_id)
            items = [Ingredient(number)]
            for allow in (False, True):
                refused = told["quarantined"] or (told["state"] == "yanked" and not allow)
                try:
                    mixes.choose(session, model, Mix(items, allow_yanked=allow))
                    assert not refused
                except InvalidRecipe:
                    assert refused


VERSIONS = ("1.0.0", "1.0.1", "1.1.0", "2.0.0")
CHANNELS = ("stable", "beta")
CLOSED = {"state", "yank_reason", "yanked_at"}  # what may still change of what is published


def core(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


class ReleaseLives(Lives):
    """Releases of four accepted patches and two channels, by four users."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.releases: dict[str, dict[str, Any]] = {}
        self.yanked: set[int] = set()
        self.built: dict[str, dict[str, str]] = {}  # recipe -> builder -> weights
        self.published: dict[str, dict[str, Any]] = {}  # version -> what its rows were
        self.moves: dict[str, list[tuple[str, str, str]]] = {}  # channel -> kind, version, who
        self.rules_of: dict[str, dict[str, Any]] = {}
        self.votes: dict[str, dict[str, str]] = {}  # channel -> who -> version
        with world.database.write() as session:
            for _ in range(4):
                self.add_patch(session, "owner", "accepted")
            self.config = hashlib.sha256(b"{}").hexdigest()
            if session.get(Blob, self.config) is None:
                world.store.put([b"{}"], self.config)
                session.add(Blob(sha256=self.config, size=2))
                session.flush()
            session.add(BaseFile(model_id=self.model_id, path="config.json", sha256=self.config))
        for user, role in (("ann", "owner"), ("ben", "maintainer"), ("cat", "maintainer")):
            self.grant(user, role)

    def rows(self, session: Any, version: str) -> dict[str, Any]:
        row = session.scalars(
            select(Release).where(Release.model_id == self.model_id, Release.version == version)
        ).one()
        files = session.scalars(select(ReleaseFile).where(ReleaseFile.release_id == row.id))
        columns = {column.name: getattr(row, column.name) for column in Release.__table__.columns}
        return columns | {"files": {file.path: file.sha256 for file in files}}

    def check(self) -> None:
        with self.world.database.read() as session:
            found = session.scalars(select(Release).where(Release.model_id == self.model_id))
            assert {row.version: row.state for row in found} == {
                version: told["state"] for version, told in self.releases.items()
            }
            for version, before in self.published.items():
                after = self.rows(session, version)
                assert {name for name in before if before[name] != after[name]} <= CLOSED
            for row in session.scalars(select(Channel).where(Channel.model_id == self.model_id)):
                told = self.moves[row.name]
                query = select(ChannelMove, Release.version).join(Release, Release.id == ChannelMove.release_id)
                query = query.where(ChannelMove.channel_id == row.id).order_by(ChannelMove.number)
                history = session.execute(query).all()
                assert [(move.kind, version) for move, version in history] == [(kind, to) for kind, to, _ in told]
                assert [move.number for move, _ in history] == list(range(1, len(told) + 1))
                assert row.release_id == (history[-1][0].release_id if history else None)
                assert channels.pending_moves(session, row) == self.asked(row.name)

    def asked(self, channel: str) -> dict[str, list[str]]:
        votes = self.votes.get(channel, {})
        return {version: sorted(u for u in votes if votes[u] == version) for version in sorted(set(votes.values()))}

    def before(self, version: str) -> str | None:
        out = [one for one, told in self.releases.items() if told["state"] in ("published", "yanked")]
        return max((one for one in out if core(one) < core(version)), key=core, default=None)

    @rule(
        user=people,
        version=strategies.sampled_from(VERSIONS),
        numbers=strategies.sets(smallest, min_size=1, max_size=3),
        allow=strategies.booleans(),
    )
    def cut(self, user: str, version: str, numbers: set[int], allow: bool) -> None:
        told, before = self.releases.get(version), self.before(version)
        expected: type[BreadcrumbError] | None = None
        if not self.may(user, "maintainer"):
            expected = Forbidden
        elif numbers & self.yanked and not allow:
            expected = InvalidRecipe
        elif before is not None and self.too_small(version, before, numbers):
            expected = InvalidRequest
        elif told is not None and told["state"] in ("published", "yanked"):
            expected = WrongState
        made: list[str] = []

        def do(session: Any, actor: Actor) -> None:
            items = [Ingredient(number) for number in sorted(numbers)]
            given = cutting.Cut(version, items, alpha="0.3", allow_yanked=allow)
            row, _ = cutting.cut(session, actor, self.name, given)
            made.extend([row.recipe_digest, row.state])

        self.attempt(expected, user, "release.cut", do)
        if expected is None:
            digest, state = made
            assert state == ("candidate" if digest in self.built else "building")
            self.releases[version] = {
                "state": state,
                "recipe": digest,
                "numbers": numbers,
                "allow": allow,
                "before": before,
            }
        self.check()

    def too_small(self, version: str, before: str, numbers: set[int]) -> bool:
        old = self.releases[before]["numbers"]
        major, minor, patch = core(before)
        return core(version) < ((major, minor + 1, 0) if numbers - old else (major, minor, patch + 1))

    @rule(works=strategies.sampled_from((True, True, True, False)))
    def compose(self, works: bool) -> None:
        """Do a worker's part for every composition that is waited for."""
        for told in self.releases.values():
            if told["state"] != "building":
                continue
            digest = told["recipe"]
            with self.world.database.write() as session:
                model = session.get_one(Model, self.model_id)
                if works:
                    args = (session, model, digest, self.weights(digest), "cpu", 0.1, {"config.json": self.config})
                    compositions.finish(*args, "host:1:first", None)
                    releases.composed(session, model, digest)
                else:
                    releases.failed(session, model, digest)
            for one in self.releases.values():
                if (one["recipe"], one["state"]) == (digest, "building"):
                    one["state"] = "candidate" if works else "draft"
            if works:
                self.built[digest] = {"host:1:first": self.weights(digest)}
        self.check()

    def weights(self, digest: str, right: bool = True) -> str:
        return "sha256:" + hashlib.sha256(f"{digest} {right}".encode()).hexdigest()

    @rule(
        version=strategies.sampled_from(VERSIONS),
        who=strategies.sampled_from(("host:2:second", *PEOPLE)),
        right=strategies.sampled_from((True,) * 9 + (False,)),
    )
    def build(self, version: str, who: str, right: bool) -> None:
        told = self.releases.get(version)
        if told is None or told["recipe"] not in self.built:
            return
        digest, made = told["recipe"], self.built[told["recipe"]]
        builder = f"user:{who}" if who in PEOPLE else who
        weights = self.weights(digest, right)
        expected: type[BreadcrumbError] | None = None
        if who in PEOPLE and not self.may(who, "maintainer"):
            expected = Forbidden
        elif made.get(builder, weights) != weights:
            expected = WrongState

        def do(session: Any, actor: Actor) -> None:
            model = session.get_one(Model, self.model_id)
            if who in PEOPLE:
                builds.attest(session, actor, model, digest, weights, "cpu")
            else:
                builds.add_rebuild(session, model, digest, who, weights, "cpu")

        self.attempt(expected, who if who in PEOPLE else "chief", "build.report", do)
        if expected is None:
            made[builder] = weights
        self.check()

    @rule(user=people, version=strategies.sampled_from(VERSIONS))
    def publish(self, user: str, version: str) -> None:
        told = self.releases.get(version)
        expected: type[BreadcrumbError] | None = None
        if not self.may(user, "maintainer"):
            expected = Forbidden
        elif told is None:
            expected = NotFound
        elif told["state"] != "published":
            made = self.built.get(told["recipe"], {})
            sound = told["state"] == "candidate" and len(made) >= 2 and len(set(made.values())) == 1
            sound = sound and (told["allow"] or not told["numbers"] & self.yanked)
            sound = sound and told["before"] == self.before(version)
            expected = None if sound else WrongState
        self.attempt(
            expected,
            user,
            "release.publish",
            lambda session, actor: publishing.publish(session, self.world.store, actor, self.name, version),
        )
        if expected is None and told is not None and told["state"] != "published":
            told["state"] = "published"
            with self.world.database.read() as session:
                agreeing = select(Build.weights_digest).where(Build.recipe_digest == told["recipe"])
                found = list(session.scalars(agreeing))
                assert len(found) >= 2 and len(set(found)) == 1
                self.published[version] = self.rows(session, version)
        self.check()

    @rule(user=people, version=strategies.sampled_from(VERSIONS))
    def yank(self, user: str, version: str) -> None:
        told = self.releases.get(version)
        expected: type[BreadcrumbError] | None = None
        if not self.may(user, "maintainer"):
            expected = Forbidden
        elif told is None:
            expected = NotFound
        elif told["state"] != "published":
            expected = WrongState
        self.attempt(
            expected,
            user,
            "release.yank",
            lambda session, actor: releases.yank(session, actor, self.name, version, "it forgets"),
        )
        if expected is None and told is not None:
            told["state"] = "yanked"
        self.check()

    @rule(number=smallest)
    def yank_patch(self, number: int) -> None:
        verb = "unyank" if number in self.yanked else "yank"
        with self.world.database.write() as session:
            reviews.move(session, self.actors["owner"], self.name, number, verb, "it forgets")
        self.yanked ^= {number}
        self.check()

    def ruling(self, channel: str) -> dict[str, Any]:
        return self.rules_of.get(channel, {"role": "maintainer", "approvals": 1, "allow": False})

    def trail(self, channel: str) -> list[str]:
        trail: list[str] = []
        for kind, version, _ in self.moves.get(channel, []):
            trail = [*trail, version] if kind == "move" else trail[:-1]
        return trail

    def refusal(self, user: str, channel: str, version: str) -> type[BreadcrumbError] | None:
        """Return the refusal of a move, if it must be refused."""
        ruling, told = self.ruling(channel), self.releases[version]
        if not self.may(user, ruling["role"]):
            return Forbidden
        if told["state"] != "published" or (told["numbers"] & self.yanked and not ruling["allow"]):
            return WrongState
        return None

    def went(self, user: str, channel: str, version: str, kind: str) -> None:
        """Count a vote, and move once enough users with the role have voted."""
        ruling = self.ruling(channel)
        votes = self.votes.setdefault(channel, {})
        if ruling["approvals"] > 1:
            votes[user] = version
            if sum(votes[one] == version and self.may(one, ruling["role"]) for one in votes) < ruling["approvals"]:
                return
        self.moves.setdefault(channel, []).append((kind, version, user))
        votes.clear()

    @rule(user=people, channel=strategies.sampled_from(CHANNELS), version=strategies.sampled_from(VERSIONS))
    def move(self, user: str, channel: str, version: str) -> None:
        expected: type[BreadcrumbError] | None = None
        there = self.trail(channel)[-1:] == [version]
        if not self.may(user, "maintainer"):
            expected = Forbidden
        elif version not in self.releases:
            expected = NotFound
        elif not there:
            expected = self.refusal(user, channel, version)
        self.attempt(
            expected,
            user,
            "channel.move",
            lambda session, actor: channels.move(session, actor, self.name, channel, version, "why"),
        )
        if expected is None and not there:
            self.moves.setdefault(channel, [])
            self.went(user, channel, version, "move")
        self.check()

    @rule(user=people, channel=strategies.sampled_from(CHANNELS))
    def rollback(self, user: str, channel: str) -> None:
        trail = self.trail(channel)
        expected: type[BreadcrumbError] | None = None
        if not self.may(user, "maintainer"):
            expected = Forbidden
        elif channel not in self.moves:
            expected = NotFound
        elif len(trail) < 2:
            expected = WrongState
        else:
            expected = self.refusal(user, channel, trail[-2])
        self.attempt(
            expected,
            user,
            "channel.move",
            lambda session, actor: channels.rollback(session, actor, self.name, channel, "why"),
        )
        if expected is None:
            self.went(user, channel, trail[-2], "rollback")
        self.check()

    @rule(
        user=people,
        channel=strategies.sampled_from(CHANNELS),
        role=strategies.sampled_from(("maintainer", "owner")),
        approvals=strategies.integers(1, 2),
        allow=strategies.booleans(),
    )
    def protect(self, user: str, channel: str, role: str, approvals: int, allow: bool) -> None:
        expected = None if self.may(user, "owner") else Forbidden
        self.attempt(
            expected,
            user,
            "channel.protect",
            lambda session, actor: channels.protect(session, actor, self.name, channel, role, approvals, allow),
        )
        if expected is None:
            self.rules_of[channel] = {"role": role, "approvals": approvals, "allow": allow}
            self.moves.setdefault(channel, [])
        self.check()

    @rule(version=strategies.sampled_from(VERSIONS), numbers=strategies.sets(smallest, min_size=1, max_size=2))
    def ship(self, version: str, numbers: set[int]) -> None:
        """Go the whole way to a published release, so that it can be yanked and moved to."""
        if self.releases.get(version, {}).get("state") in ("published", "yanked"):
            return
        self.cut("ann", version, numbers, True)
        self.compose(True)
        self.build(version, "host:2:second", True)
        self.publish("ann", version)


@pytest.fixture
def quick(world: World) -> World:
    """A registry that need not survive a power cut."""

    def forget(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        lite = world.database.engine.dialect.name == "sqlite"
        cursor.execute("PRAGMA synchronous=OFF" if lite else "SET synchronous_commit TO OFF")
        cursor.close()
        if not lite:
            connection.commit()

    world.database.engine.dispose()
    sqlalchemy.event.listen(world.database.engine, "connect", forget)
    for user in ("owner", "chief", *PEOPLE):
        world.token(user, admin=user == "chief")
    with world.database.read() as session:
        assert session.query(User).count() == 6
    return world


LENGTH = settings(max_examples=25, stateful_step_count=25)


@pytest.mark.slow
def test_a_patch_lives_as_the_rules_say_whatever_people_try(quick: World) -> None:
    run_state_machine_as_test(lambda: PatchLives(quick), settings=LENGTH)


@pytest.mark.heavy
def test_releases_and_channels_live_as_the_rules_say_whatever_people_try(quick: World) -> None:
    run_state_machine_as_test(lambda: ReleaseLives(quick), settings=LENGTH)
