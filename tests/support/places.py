"""Places: a registry with models of every kind and people in every role, and what the rules let them do."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from starlette.testclient import TestClient

from registry.db.tables import AuditEvent, Model, ModelMember, Namespace, NamespaceMember, User
from registry.services.people.rules import SCOPES, Role
from registry.services.people.tokens import create_token
from tests.support.routes import SAFE, Way
from tests.support.world import World

OPEN, SHUT, FOREIGN = "crew/open", "band/shut", "vault/secret"
ABSENT = "vault/absent"  # in a namespace that there is
NOWHERE = "nowhere/at-all"
MEMBERS = ("contributor", "reviewer", "maintainer", "owner")
ACTORS = (None, "stranger", *MEMBERS, "author", "chief", "disabled")
NONSENSE = {"nothing": "that any route knows"}  # refused by every route that reads a body, once it reads it


@dataclass
class Place:
    """A registry with a public model, a private one, and one on which only `chief` has a role."""

    world: World
    http: TestClient
    ways: list[Way]
    secrets: dict[str | None, str] = field(default_factory=dict)
    patches: dict[str, str] = field(default_factory=dict)

    def url(self, way: Way, model: str, **values: str) -> str:
        """Return the path of a route on a model; everything else that it names does not exist."""
        namespace, _, name = model.partition("/")
        anybody = {
            "namespace": namespace,
            "name": name,
            "number": "1",
            "user": "nobody-at-all",
            "ref": "base",
            "rev": "base",
            "path": "config.json",
            "recipe": "0" * 64,
            "sha256": "0" * 64,
            "version": "9.9.9",
            "channel": "nightly",
            "token_id": str(uuid.uuid4()),
            "upload_id": str(uuid.uuid4()),
            "comment_id": str(uuid.uuid4()),
            "job_id": str(uuid.uuid4()),
            "webhook_id": str(uuid.uuid4()),
            "delivery_id": str(uuid.uuid4()),
            "report_id": str(uuid.uuid4()),
            "invitation_id": str(uuid.uuid4()),
            "session_id": str(uuid.uuid4()),
            "account_id": str(uuid.uuid4()),
            "publisher_id": str(uuid.uuid4()),
            "first": "8",
            "second": "9",
        }
        return way.url(**anybody | values)

    def ask(self, way: Way, model: str, secret: str | None, **values: str) -> Any:
        """Call a route with a token and an invalid body, so that nothing changes."""
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        body = None if way.method in SAFE else NONSENSE
        return self.http.request(way.method, self.url(way, model, **values), headers=headers, json=body)

    def role(self, actor: str | None, model: str) -> Role:
        """Return an actor's role on a model, as the fixture set it."""
        if actor == "chief":
            return Role.ADMIN
        if model == FOREIGN:
            return Role.NONE
        if actor in MEMBERS:
            return Role[actor.upper()]
        if model == SHUT:
            return Role.CONTRIBUTOR if actor == "author" else Role.NONE
        return Role.CONTRIBUTOR if actor else Role.ANYONE

    def role_in(self, actor: str | None, namespace: str) -> Role:
        """Return an actor's role on a namespace: only `band` has members."""
        if actor == "chief":
            return Role.ADMIN
        return Role[actor.upper()] if actor in MEMBERS and namespace == "band" else Role.CONTRIBUTOR

    def token(self, user: str, scopes: tuple[str, ...] = SCOPES, model: str | None = None, days: float = 1) -> str:
        """Create another token."""
        with self.world.database.write() as session:
            secret, row = create_token(session, user, scopes=scopes, expires_days=days)
            if model:
                namespace, _, name = model.partition("/")
                row.model_id = session.scalars(
                    select(Model.id).where(Model.namespace == namespace, Model.name == name)
                ).one()
        return secret


def member(session: Any, where: str, user: str, role: str) -> None:
    """Give a role on a model or in a namespace."""
    user_id = session.scalars(select(User.id).where(User.name == user)).one()
    namespace, _, name = where.partition("/")
    if name:
        model_id = session.scalars(select(Model.id).where(Model.namespace == namespace, Model.name == name)).one()
        session.merge(ModelMember(model_id=model_id, user_id=user_id, role=role))
    else:
        space = session.scalars(select(Namespace.id).where(Namespace.name == namespace)).one()
        session.merge(NamespaceMember(namespace_id=space, user_id=user_id, role=role))


def no_model(answer: Any, model: str, method: str = "GET", *, hub: bool = False) -> bool:
    """Say whether an answer means that there is no such model."""
    if hub:
        return answer.headers.get("x-error-code") == "RepoNotFound" and answer.status_code in (401, 404)
    if method == "HEAD":
        return answer.status_code == 404
    detail = f"There is no model {model}; `crumb model list` shows those that you may see."
    return answer.status_code == 404 and answer.json()["detail"] == detail


def expected(place: Place, way: Way, actor: str | None, model: str) -> str:
    """Return what the table of rules requires: 401, 403, 404 or `in`."""
    rule, namespace = way.rule, model.partition("/")[0]
    if actor == "disabled" and way.lenient:
        actor = None
    if actor == "disabled" or (actor is None and rule.role > Role.ANYONE):
        return "401"
    if way.about_a_model:
        role = place.role(actor, model)
        if role is Role.NONE:
            return "404"
        return "in" if role >= rule.role or (rule.author and actor == "author") else "403"
    if rule.on == "namespace" and "namespace" in way.parameters:
        return "in" if place.role_in(actor, namespace) >= rule.role else "403"
    return "403" if rule.role is Role.ADMIN and actor != "chief" else "in"


def found(answer: Any, way: Way, model: str) -> str:
    """Return what a route did: 401, 403, 404 (no such model), or `in`."""
    if way.about_a_model and no_model(answer, model, way.method, hub=way.lenient):
        return "404"
    if answer.status_code in (401, 403):
        return str(answer.status_code)
    return "in" if answer.status_code < 500 else f"broke: {answer.status_code}"


def sentence(answer: Any) -> str:
    """Return the message of a refusal."""
    body = answer.json()
    return str(body["detail"] if "detail" in body else body["error"])


def anonymous(answer: Any) -> str:
    """Return the text of an answer without the id of its request."""
    return str(answer.text.replace(answer.headers["x-request-id"], "ID"))


def events(place: Place) -> int:
    """Count the rows of the audit log."""
    with place.world.database.read() as session:
        return session.scalars(select(func.count()).select_from(AuditEvent)).one()


def way_of(place: Place, method: str, path: str) -> Way:
    """Return a way by its name."""
    return next(way for way in place.ways if (way.method, way.path) == (method, path))


def bearer(place: Place, user: str) -> dict[str, str]:
    """Return the headers of an actor."""
    return {"Authorization": f"Bearer {place.secrets[user]}"}
