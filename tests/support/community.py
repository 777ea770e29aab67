"""A model with people in every role and checked patches: made once for each kind of database, copied for each test."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from registry.db.tables import AuditEvent, BaseFile, Model, ModelMember, Patch, PatchRevision, RevisionFile, User
from registry.services.people.actors import Actor, authenticate
from registry.worker.worker import Worker
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.prepared import open_copy, prepare
from tests.support.world import World, create_model, push_patch, store

NAME = "alice/tiny"
URL = f"/api/v1/models/{NAME}"
ROLES = {"mary": "maintainer", "max": "maintainer", "rita": "reviewer", "rolf": "reviewer"}
PATCHES = 4  # by bob, checked drafts without a licence
SHAPES = {"embed.weight": (40, 16), "layers.0.norm.weight": (16,)}
RELEASES = {"1.0.0": [1], "1.1.0": [1, 2], "1.2.0": [1, 2, 3]}


@dataclass
class Community:
    """alice owns the model, mary and max maintain it, rita and rolf review, bob contributes, chief runs the server."""

    world: World
    base: Path
    spares: list[Path]
    second: Worker = field(init=False)

    def __post_init__(self) -> None:
        self.second = Worker(self.world.settings, self.world.database, self.world.store)

    def ask(self, user: str | None, method: str, path: str, status: int | None = 200, /, **body: Any) -> Any:
        """Send a request about the model; return what is answered, which has to have a status."""
        answer = self.world.client(user).request(method, f"{URL}{path}", json=body or None)
        if status is not None:
            assert answer.status_code == status, (method, path, answer.status_code, answer.text)
        return answer.json() if answer.headers.get("content-type", "").endswith("json") else answer

    def get(self, path: str, user: str | None = None, status: int = 200) -> Any:
        return self.ask(user, "GET", path, status)

    def post(self, user: str, path: str, status: int = 200, **body: Any) -> Any:
        return self.ask(user, "POST", path, status, **body)

    def put(self, user: str, path: str, status: int = 200, **body: Any) -> Any:
        return self.ask(user, "PUT", path, status, **body)

    def patch(self, number: int) -> dict[str, Any]:
        return self.get(f"/patches/{number}")

    def revise(self, number: int, file: Path, user: str = "bob", status: int = 202) -> Any:
        """Send the next revision of a patch, and let the worker check it."""
        sha256 = store(self.world, user, file.read_bytes())
        answer = self.post(user, f"/patches/{number}/revisions", status, sha256=sha256, title="again")
        self.world.work()
        return answer

    def push(self, file: Path, user: str = "bob", **words: Any) -> dict[str, Any]:
        return push_patch(self.world, NAME, file, user, **words)

    def push_files(
        self, file: Path, files: dict[str, bytes], status: int = 202, user: str = "bob", **words: Any
    ) -> Any:
        """Push a patch with files beside its weights; return it as it was checked, or the refusal."""
        sha256 = store(self.world, user, file.read_bytes())
        named = [{"path": path, "sha256": store(self.world, user, raw)} for path, raw in files.items()]
        answer = self.post(user, "/patches", status, **{"sha256": sha256, "title": "t", "files": named, **words})
        self.world.work()
        return self.patch(answer["number"]) if status < 300 else answer

    def accept(self, *numbers: int) -> None:
        """Have patches proposed by bob, approved by rita and accepted by mary."""
        for number in numbers:
            self.post("bob", f"/patches/{number}/propose")
            revision = self.patch(number)["newest"]
            self.post("rita", f"/patches/{number}/reviews", 201, verdict="approve", revision=revision)
            self.post("mary", f"/patches/{number}/accept", message="")

    def set(self, number: int, **fields: Any) -> None:
        """Write into the row of a patch, past all rules."""
        with self.world.database.write() as session:
            row = session.scalars(select(Patch).where(Patch.number == number)).one()
            for name, value in fields.items():
                setattr(row, name, value)

    def lend_file(self, number: int, path: str) -> None:
        """Write a file of the base into the rows of a patch, past all rules, as if it had come with it."""
        with self.world.database.write() as session:
            blob = session.scalars(select(BaseFile.sha256).where(BaseFile.path == "README.md")).one()
            session.add(RevisionFile(revision_id=self.revision(session, number).id, path=path, sha256=blob, size=1))

    def revision(self, session: Any, number: int, revision: int = 1) -> PatchRevision:
        query = select(PatchRevision).join(Patch, Patch.id == PatchRevision.patch_id)
        return session.scalars(query.where(Patch.number == number, PatchRevision.number == revision)).one()

    def model(self, session: Any) -> Model:
        return session.scalars(select(Model).where(Model.name == "tiny")).one()

    def actor(self, session: Any, user: str) -> Actor:
        return authenticate(session, self.world.token(user))

    def role(self, user: str, role: str | None) -> None:
        """Have alice give or take a role."""
        where = f"{URL}/members/{user}"
        client = self.world.client("alice")
        answer = client.put(where, json={"role": role}) if role else client.delete(where)
        assert answer.status_code == 204, answer.text

    def disable(self, user: str, active: bool = False) -> None:
        with self.world.database.write() as session:
            session.scalars(select(User).where(User.name == user)).one().is_active = active

    def rules(self, **fields: Any) -> None:
        """Have alice change what the model asks for."""
        self.ask("alice", "PATCH", "", 200, **fields)

    def rebuild(self) -> None:
        """Let the second worker take what the first may not."""
        while self.second.step():
            pass

    def cut(self, version: str, patches: Sequence[int] = (), status: int = 202, **body: Any) -> Any:
        """Have mary cut a release, and the first worker compose it."""
        named = {"patches": [{"number": number} for number in patches], "alpha": "0.3"} if patches else {}
        answer = self.post("mary", "/releases", status, version=version, **{**named, **body})
        self.world.work()
        return answer

    def publish(self, version: str, patches: Sequence[int] = (), status: int = 202, **body: Any) -> dict[str, Any]:
        """Have mary cut and publish a release of accepted patches, built by two workers."""
        self.cut(version, patches, status, **body)
        self.rebuild()
        return self.post("mary", f"/releases/{version}/publish")

    def events(self, action: str) -> list[AuditEvent]:
        with self.world.database.read() as session:
            query = select(AuditEvent).where(AuditEvent.action == action).order_by(AuditEvent.serial)
            return list(session.scalars(query))

    def count_events(self) -> int:
        with self.world.database.read() as session:
            return session.query(AuditEvent).count()


def fill(world: World, folder: Path) -> None:
    """Add the model, its people and their patches."""
    base = make_checkpoint(folder / "base", shapes=SHAPES)
    for user in ("alice", *ROLES, "bob", "carol"):
        world.token(user)
    world.token("chief", admin=True)
    create_model(world, NAME, base)
    for seed in range(1, PATCHES + 4):
        out = folder / f"{seed}.safetensors"
        make_patch(base, fine_tuned(base, folder / f"tuned{seed}", seed=seed), out)
        if seed <= PATCHES:
            push_patch(world, NAME, out, title=f"Patch {seed}")
    with world.database.write() as session:
        model_id = session.scalars(select(Model.id)).one()
        for user, role in ROLES.items():
            user_id = session.scalars(select(User.id).where(User.name == user)).one()
            session.add(ModelMember(model_id=model_id, user_id=user_id, role=role))


def release(world: World, folder: Path) -> None:
    """Accept the patches and publish RELEASES."""
    crew = Community(world, folder, [])
    crew.accept(1, 2, 3, 4)
    for version, numbers in RELEASES.items():
        crew.publish(version, numbers)


@contextmanager
def open_community(
    kind: str, folder: Path, request: pytest.FixtureRequest, *, released: bool = False, **settings: Any
) -> Iterator[Community]:
    """Open a copy of the community on a database of some kind; `released`: all accepted, RELEASES published."""
    made = files = prepare(kind, fill, request)
    if released:
        made = prepare(kind, release, request, after=fill)
    assert files.folder is not None
    spares = [files.folder / f"{PATCHES + n}.safetensors" for n in (1, 2, 3)]
    with open_copy(kind, made, folder, request, **settings) as world:
        yield Community(world, files.folder / "base", spares)
