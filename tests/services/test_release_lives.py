"""The lives of releases and channels: steps in any order, compared with a small model."""

import hashlib
from typing import Any

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import rule, run_state_machine_as_test
from sqlalchemy import select

from registry.db.tables import (
    BaseFile,
    Blob,
    Build,
    Channel,
    ChannelMove,
    Model,
    Release,
    ReleaseFile,
)
from registry.errors import BreadcrumbError, Forbidden, InvalidRecipe, InvalidRequest, NotFound, WrongState
from registry.services.composing import builds, compositions
from registry.services.composing.mixes import Ingredient
from registry.services.curation import reviews
from registry.services.people.actors import Actor
from registry.services.releasing import channels, cutting, publishing, releases
from tests.support.lives import LENGTH, PEOPLE, Lives, people, smallest
from tests.support.world import World

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


@pytest.mark.heavy
def test_releases_and_channels_live_as_the_rules_say_whatever_people_try(quick: World) -> None:
    run_state_machine_as_test(lambda: ReleaseLives(quick), settings=settings(LENGTH, max_examples=15))
