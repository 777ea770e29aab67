"""Lives: steps in any order, compared with a small model of their expected results."""

import hashlib
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, rule
from sqlalchemy import select

from registry.db.audit import check_chain
from registry.db.tables import (
    AuditHead,
    Blob,
    Model,
    Namespace,
    Patch,
    PatchRevision,
    UploadSession,
    now,
)
from registry.errors import BreadcrumbError
from registry.services.catalog import models
from registry.services.people import access
from registry.services.people.actors import Actor, authenticate
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


LENGTH = settings(max_examples=25, stateful_step_count=25)
