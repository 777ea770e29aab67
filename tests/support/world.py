"""A registry in this process: real database, store and worker; requests go through the whole ASGI app."""

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from fastapi.routing import _IncludedRouter
from sqlalchemy import Engine, event, select
from starlette.testclient import TestClient

from registry.db.session import Database, migrate
from registry.db.tables import Job, Model, Namespace, User
from registry.errors import WrongState
from registry.logs import configure_logs
from registry.server.app import close_app, create_app
from registry.services.blobs import uploads
from registry.services.catalog import search
from registry.services.people import actors
from registry.services.people.tokens import create_token
from registry.services.queue import jobs
from registry.settings import Settings
from registry.storage.store import Store
from registry.worker.worker import Worker
from tests.support.callers import Caller

_routes: list[Any] = []
_engines: dict[str, Engine] = {}
_settings: dict[str, Settings] = {}


@dataclass
class World:
    settings: Settings
    app: FastAPI
    database: Database
    store: Store
    worker: Worker
    portal: BlockingPortal
    tokens: dict[str, str] = field(default_factory=dict)

    def token(self, user: str, *, admin: bool = False, expires_days: float | None = None) -> str:
        if user not in self.tokens:
            with self.database.write() as session:
                self.tokens[user], _ = create_token(session, user, admin=admin, expires_days=expires_days)
        return self.tokens[user]

    def client(self, user: str | None = "alice", *, admin: bool = False) -> TestClient:
        headers = {"Authorization": f"Bearer {self.token(user, admin=admin)}"} if user else {}
        return Caller(self.app, self.portal, headers)

    def browser(self, **how: Any) -> TestClient:
        """Return a client of nobody's that keeps cookies and follows no redirect."""
        return Caller(self.app, self.portal, {}, follow_redirects=False, **how)

    def work(self) -> None:
        """Run jobs until there are none."""
        while self.worker.step():
            pass


@contextmanager
def open_world(folder: Path, database_url: str, **settings: Any) -> Iterator[World]:
    defaults = {"part_bytes": 1000, "lease_seconds": 5, "rate_address": "", "rate_token": "", "counts_seconds": 0}
    defaults |= {"rate_strangers": "", "rate_asking": ""}
    made = read_settings(folder, database_url, {**defaults, **settings})
    made.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    configure_logs("text")
    try:
        app = create_app(made)
    except WrongState:  # not a copy of a database that the migrations built
        migrate(made.database)
        app = create_app(made)
    share_routes(app)
    share_statements(app.state.context.database.engine)
    context = app.state.context
    worker = Worker(made, context.database, context.store)
    try:
        with start_blocking_portal() as portal:  # the event loop of all clients; each would start its own for a request
            yield World(made, app, context.database, context.store, worker, portal)
    finally:
        close_app(app)


def read_settings(folder: Path, database_url: str, given: dict[str, Any]) -> Settings:
    """Return settings as a server reads them, once for all worlds with the same: it takes as long as all the rest."""
    around = {name: value for name, value in os.environ.items() if name.startswith("REGISTRY_")}
    key = repr((sorted(given.items()), sorted(around.items())))
    if key not in _settings:
        _settings[key] = Settings(data=folder, database_url=database_url, **given)
    return _settings[key].model_copy(update={"data": folder, "database_url": database_url})


def share_routes(app: FastAPI) -> None:
    """Give an app the routes of the first one: FastAPI takes a quarter of a second to work them out for each."""
    if not _routes:
        _routes.extend(app.router.routes)
    for place, (route, first) in enumerate(zip(app.router.routes, _routes, strict=True)):
        if isinstance(route, _IncludedRouter):
            assert route.original_router is first.original_router
            app.router.routes[place] = first


def share_statements(engine: Engine) -> None:
    """Give an engine the dialect and the compiled statements of the first of its kind, instead of compiling its own."""
    first = _engines.setdefault(engine.dialect.name, engine)
    engine.dialect = engine.pool._dialect = first.dialect
    engine._compiled_cache = first._compiled_cache


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def content_digest(data: bytes) -> dict[str, str]:
    return {"Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"}


def announce(client: TestClient, data: bytes) -> dict[str, Any]:
    answer = client.post("/api/v1/uploads", json={"sha256": digest(data), "size": len(data)})
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def put_part(client: TestClient, upload: dict[str, Any], data: bytes, number: int) -> Any:
    size = upload["part_size"]
    part = data[number * size : (number + 1) * size]
    return client.put(f"/api/v1/uploads/{upload['id']}/parts/{number}", content=part, headers=content_digest(part))


def upload(client: TestClient, data: bytes) -> str:
    """Send bytes as a client would; return their digest."""
    session = announce(client, data)
    for number in session["missing"]:
        assert put_part(client, session, data, number).status_code == 200
    if session["state"] == "open":
        assert client.post(f"/api/v1/uploads/{session['id']}/complete").status_code == 200
    return digest(data)


def store(world: World, user: str, data: bytes) -> str:
    """Keep bytes as a user's upload without the many requests of one; return their digest."""
    context, secret = world.app.state.context, world.token(user)
    with world.database.write() as session:
        actor = actors.authenticate(session, secret)
        return uploads.put(session, world.store, actor, data, context.upload_limits)


def create_model(world: World, name: str, folder: Path, user: str | None = None) -> dict[str, Any]:
    """Create a model from a folder and let the worker import it."""
    user = user or name.split("/")[0]
    client = world.client(user)
    files = [
        {"path": str(path.relative_to(folder)), "sha256": store(world, user, path.read_bytes())}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    answer = client.post("/api/v1/models", json={"name": name, "files": files})
    assert answer.status_code == 202, answer.text
    world.work()
    return client.get(f"/api/v1/models/{name}").json()


def push_patch(world: World, name: str, file: Path, user: str = "bob", **words: Any) -> dict[str, Any]:
    """Push a patch and let the worker check it."""
    client = world.client(user)
    body = {"sha256": store(world, user, file.read_bytes()), "title": "a patch", **words}
    answer = client.post(f"/api/v1/models/{name}/patches", json=body)
    assert answer.status_code in (200, 202), answer.text
    world.work()
    return client.get(f"/api/v1/models/{name}/patches/{answer.json()['number']}").json()


def add_model(world: World, name: str = "m", visibility: str = "public") -> None:
    """Add a model of alice's that has no files."""
    world.token("alice")
    with world.database.write() as session:
        alice = session.scalars(select(User).where(User.name == "alice")).one()
        space = session.scalars(select(Namespace).where(Namespace.name == "alice")).one()
        model = Model(namespace_id=space.id, name=name, creator_id=alice.id, size=0, visibility=visibility)
        session.add(model)
        session.flush()
        session.refresh(model, ["namespace"])
        search.write(session, model)


@contextmanager
def statements(world: World) -> Iterator[list[str]]:
    """Write down what is asked of the database."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(world.database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(world.database.engine, "before_cursor_execute", note)


def enqueue(world: World, count: int = 1, kind: str = "compose", user: str = "alice") -> list[Job]:
    """Add jobs of a user's, about a model of alice's without files."""
    world.token("alice")
    world.token(user)
    with world.database.write() as session:
        people = {name: session.scalars(select(User).where(User.name == name)).one() for name in {"alice", user}}
        space = session.scalars(select(Namespace).where(Namespace.name == "alice")).one()
        model = session.scalar(select(Model).where(Model.name == "m"))
        if model is None:
            model = Model(namespace_id=space.id, name="m", creator_id=people["alice"].id, size=0)
            session.add(model)
            session.flush()
            session.refresh(model, ["namespace"])
        prefix = "" if user == "alice" else f"{user} "
        return [
            jobs.enqueue(session, people[user].id, kind, f"{prefix}key {n}", model, f"#{n}", {"recipe": "0" * 64})
            for n in range(count)
        ]
