"""Trusted publishing: a workflow elsewhere pushes to one model by the identity that its own service gives it.

    owner ── names the workflow: issuer and claims ──> publisher, and the program as which it acts
    workflow ── identity token ──> issuer known? ── signature, audience, times ── claims one by one ── not used before?
             <── a token for an hour, which may push to this model and nothing else

The ids that go with the names in a token (of the repository, of its owner) are kept from the first one. Who gets a name
that somebody gave up has other ids.
"""

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Model, ModelMember, Publisher, Token, UsedIdentity, User, now
from registry.errors import InvalidRequest, NotFound, Unauthenticated, WrongState
from registry.services.catalog import models
from registry.services.people import actors, namespaces, tokens
from registry.services.people.access import in_namespace
from registry.services.people.actors import Actor, record

LIFETIME = timedelta(hours=1)
LEEWAY = timedelta(minutes=2)  # for which a used identity is remembered after it ends
MOST = 20  # publishers of a model
SCOPES = ("read", "push")
ISSUERS = {"github": "https://token.actions.githubusercontent.com", "gitlab": "https://gitlab.com"}
PINNED = {"github": ("repository_id", "repository_owner_id"), "gitlab": ("project_id", "namespace_id"), "oidc": ()}
SHOWN = {  # claims that say where a patch comes from
    "github": ("repository", "job_workflow_ref", "ref", "sha", "run_id", "run_attempt", "event_name", "environment"),
    "gitlab": ("project_path", "ci_config_ref_uri", "ref", "sha", "pipeline_id", "job_id", "environment"),
    "oidc": ("sub",),
}
CLAIM_LENGTH = 300  # characters of a claim that are kept
REPOSITORY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+")
NUMBER = re.compile(r"[0-9]{1,20}")


def create(
    session: Session,
    actor: Actor,
    full_name: str,
    kind: str,
    user: str,
    issuer: str | None,
    claims: Mapping[str, str],
) -> Publisher:
    """Let a workflow push to a model. Does nothing if the same one may already.

    Args:
        session: A writing transaction.
        actor: An owner of the model.
        full_name: The model.
        kind: `github`, `gitlab` or `oidc`.
        user: The program as which it acts: a new name, or one that publishers of the same namespace act as.
        issuer: Who signs its identity tokens; None for that of the kind.
        claims: What has to be in them.

    Raises:
        WrongState: The name is taken by somebody who is not such a program, or there are too many publishers.
        InvalidRequest: The name is malformed or reserved, or the issuer has a kind of its own.
    """
    model = models.find(session, full_name, lock=True)
    known = listing(session, model)
    where = issuer or ISSUERS[kind]
    if kind == "oidc" and where.rstrip("/") in ISSUERS.values():
        raise InvalidRequest(
            "Tokens of GitHub and GitLab are checked by rules of their own; name that kind.", field="kind"
        )
    for row in known:
        if (row.kind, row.issuer, row.claims, row.user.name) == (kind, where, dict(claims), user):
            return row
    if len(known) >= MOST:
        raise WrongState(f"{full_name} has {MOST} publishers, the most that a model may have; remove one.")
    program = find_program(session, model, user)
    row = Publisher(
        model_id=model.id,
        user_id=program.id,
        kind=kind,
        issuer=where,
        claims=dict(claims),
        created_by_id=actor.user_id,
    )
    session.add(row)
    if session.get(ModelMember, (model.id, program.id)) is None:
        session.add(ModelMember(model_id=model.id, user_id=program.id, role="contributor"))
    session.flush()
    about = {"publisher": str(row.id), "user": user, "issuer": where, "claims": dict(claims)}
    record(session, actor, "publisher.create", full_name, model, after=about)
    return find(session, model, row.id)


def find_program(session: Session, model: Model, name: str) -> User:
    """Return the program of a name, which is made if nobody has the name.

    Raises:
        WrongState: Somebody else has it.
    """
    user = session.scalar(select(User).where(User.name == name).with_for_update(key_share=True))
    if user is None:
        user = namespaces.add_user(session, name)
        user.is_program, user.program_of_id = True, model.namespace_id
        session.flush()
        return user
    if not user.is_program or user.program_of_id != model.namespace_id:
        raise WrongState(f"{name} is somebody else; choose a name that nobody has, like {name}-ci.", field="user")
    return user


def remove(session: Session, actor: Actor, full_name: str, publisher_id: uuid.UUID) -> None:
    """Keep a workflow from pushing, at once: its tokens end with it.

    Raises:
        NotFound: The model has no such publisher.
    """
    model = models.find(session, full_name, lock=True)
    row = find(session, model, publisher_id)
    session.execute(delete(Token).where(Token.publisher_id == row.id))
    session.delete(row)
    session.flush()
    before = {"publisher": str(row.id), "user": row.user.name, "issuer": row.issuer, "claims": row.claims}
    record(session, actor, "publisher.remove", full_name, model, before=before)


def find(session: Session, model: Model, publisher_id: uuid.UUID) -> Publisher:
    """Return a publisher of a model.

    Raises:
        NotFound: The model has no such publisher.
    """
    row = session.scalar(loaded().where(Publisher.model_id == model.id, Publisher.id == publisher_id))
    if row is None:
        raise NotFound(f"{model.full_name} has no such publisher; see `crumb publisher list {model.full_name}`.")
    return row


def listing(session: Session, model: Model) -> Sequence[Publisher]:
    """Return the publishers of a model, oldest first."""
    query = loaded().where(Publisher.model_id == model.id).order_by(Publisher.created_at, Publisher.id)
    return session.scalars(query).all()


def loaded() -> Select[Publisher]:
    """Return a query for publishers, each with its program and who made it."""
    return select(Publisher).options(joinedload(Publisher.user), joinedload(Publisher.created_by))


def of_issuer(session: Session, full_name: str, issuer: str, *, lock: bool = False) -> Sequence[Publisher]:
    """Return the publishers of a model whose identity tokens an issuer signs, locked if asked."""
    namespace, _, name = full_name.partition("/")
    query = loaded().join(Model, Model.id == Publisher.model_id)
    query = query.where(in_namespace(namespace), Model.name == name, Publisher.issuer == issuer)
    query = query.order_by(Publisher.created_at, Publisher.id)
    return session.scalars(query.with_for_update(of=Publisher) if lock else query).all()


def is_public(session: Session, row: Publisher) -> bool:
    """Say whether everybody may know of the model of a publisher."""
    return session.get_one(Model, row.model_id).visibility == "public"


def exchange(
    session: Session, full_name: str, issuer: str, claims: Mapping[str, Any], raw: str, request_id: str
) -> tuple[str, Token]:
    """Return a token of an hour that may push to a model, for an identity token whose signature was checked.

    Args:
        session: A writing transaction.
        full_name: The model.
        issuer: Who signed it.
        claims: What it says.
        raw: The identity token.
        request_id: The request.

    Raises:
        Unauthenticated: No publisher of the model has these claims, or the token was used before.
    """
    namespace, _, name = full_name.partition("/")  # the model before its publishers, as where they are removed
    session.scalar(select(Model.id).where(in_namespace(namespace), Model.name == name).with_for_update(key_share=True))
    use_once(session, issuer, claims, raw)
    row = next((row for row in of_issuer(session, full_name, issuer, lock=True) if matches(row, claims)), None)
    if row is None:
        raise no_publisher(full_name, claims)
    pins = {name: str(claims[name])[:CLAIM_LENGTH] for name in PINNED[row.kind] if name in claims}
    row.pinned, row.used_at = row.pinned or pins, now()
    model = session.get_one(Model, row.model_id)
    label = f"{row.kind}: {claims.get('repository') or claims.get('project_path') or claims['sub']}"[:100]
    secret, token = tokens.add(session, row.user, SCOPES, label, None, model, now() + LIFETIME, kind="publisher")
    token.publisher_id, token.origin, token.user = row.id, origin(row, claims), row.user
    session.flush()
    actor = actors.speaker(token, request_id)
    about = {"publisher": str(row.id), "prefix": token.prefix, **token.origin}
    record(session, actor, "publisher.exchange", full_name, model, after=about)
    return secret, token


def use_once(session: Session, issuer: str, claims: Mapping[str, Any], raw: str) -> None:
    """Remember an identity token as used.

    Raises:
        Unauthenticated: It was used before.
    """
    name = claims.get("jti") if isinstance(claims.get("jti"), str) else raw.rpartition(".")[0]
    digest = hashlib.sha256(f"{issuer}\n{name}".encode()).hexdigest()
    ends = datetime.fromtimestamp(float(claims["exp"]), UTC) + LEEWAY
    try:
        with session.begin_nested():
            session.add(UsedIdentity(digest=digest, expires_at=ends))
    except IntegrityError:
        raise Unauthenticated("This identity token was used before; ask your build service for another.") from None


def drop_used(session: Session) -> None:
    """Forget the identity tokens that are out of date, and so are refused for that."""
    session.execute(delete(UsedIdentity).where(UsedIdentity.expires_at <= now()))


def matches(row: Publisher, claims: Mapping[str, Any]) -> bool:
    """Say whether an identity token has every claim of a publisher, and the ids of its first one."""
    if claims.get("event_name") == "pull_request_target" or claims.get("pipeline_source") == "merge_request_event":
        return False  # it runs what a stranger proposes, with the rights of the repository
    wanted = all(has(row, name, value, claims) for name, value in row.claims.items())
    return wanted and all(str(claims.get(name)) == value for name, value in row.pinned.items())


def has(row: Publisher, name: str, value: str, claims: Mapping[str, Any]) -> bool:
    """Say whether an identity token has one claim of a publisher."""
    if name == "workflow" and row.kind == "github":
        begin = f"{row.claims['repository']}/.github/workflows/{value}@"
        return str(claims.get("job_workflow_ref", "")).casefold().startswith(begin.casefold())
    if name == "workflow" and row.kind == "gitlab":
        begin = f"{row.issuer.partition('://')[2]}/{row.claims['project_path']}//{value}@"
        return str(claims.get("ci_config_ref_uri", "")).casefold().startswith(begin.casefold())
    if name == "ref" and row.kind == "gitlab":  # whose `ref` does not say whether it is a branch or a tag
        return claims.get("ref_path") == (value if value.startswith("refs/") else f"refs/heads/{value}")
    given = claims.get(name)
    if name in ("repository", "project_path"):  # which these services compare so
        return isinstance(given, str) and given.casefold() == value.casefold()
    return isinstance(given, str | int) and str(given) == value


def no_publisher(full_name: str, claims: Mapping[str, Any]) -> Unauthenticated:
    """Return the error for an identity token that no publisher has the claims of; it tells only what the token says."""
    names = ("sub", "repository", "job_workflow_ref", "project_path", "ci_config_ref_uri", "environment", "ref")
    said = ", ".join(f"{name}={str(claims[name])[:CLAIM_LENGTH]!r}" for name in names if name in claims)
    return Unauthenticated(
        f"No publisher of {full_name} is for this identity token ({said}); its owner compares that with `crumb "
        f"publisher list {full_name}`."
    )


def origin(row: Publisher, claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is shown of where a push comes from."""
    names = (*SHOWN[row.kind], *row.claims) if row.kind == "oidc" else SHOWN[row.kind]
    shown = {name: str(claims[name])[:CLAIM_LENGTH] for name in dict.fromkeys(names) if claims.get(name) is not None}
    return {"kind": row.kind, "issuer": row.issuer, "claims": shown, "url": run_address(row, shown)}


def run_address(row: Publisher, claims: Mapping[str, str]) -> str | None:
    """Return the page of the run that pushes, if its service has one."""
    kinds = {"github": ("repository", "run_id"), "gitlab": ("project_path", "job_id")}
    place, run = (claims.get(name, "") for name in kinds.get(row.kind, ("", "")))
    if not (REPOSITORY.fullmatch(place) and NUMBER.fullmatch(run)):
        return None
    if row.kind == "github":
        return f"https://github.com/{place}/actions/runs/{run}"
    return f"{row.issuer}/{place}/-/jobs/{run}"
