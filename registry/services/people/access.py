"""Access: the role that a caller has on a model or namespace, and whether the rules allow an action.

This is decided before any of a request's body is read. A role is computed from the members of the model and of its
namespace each time; nothing is copied, so it ends with the membership. A private model on which the caller has no role
does not exist for them: they get the same 404 as for a name that nobody has.
"""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, ColumnElement, CompoundSelect, Select, and_, bindparam, exists, or_, select, true
from sqlalchemy.orm import Session

from registry.db.session import seen
from registry.db.tables import Mirror, MirroredRow, Model, ModelMember, Namespace, NamespaceMember, Patch
from registry.errors import Forbidden, NotFound, Unauthenticated
from registry.files.names import NAME
from registry.services.people.actors import Actor
from registry.services.people.rules import RULES, Role, Rule, may_be_mirrored

# Of tables and not of their classes, so that a glance is no matter of the ORM's, which takes as long again.
MODEL, NAMESPACE = Model.__table__.c, Namespace.__table__.c
MEMBER, NAMESPACE_MEMBER = ModelMember.__table__.c, NamespaceMember.__table__.c


class Glance(NamedTuple):
    """A model at a glance, in less than half of the time that a `Model` takes: what most downloads need of it.

    `more` is what an extension of the query has read along with it.
    """

    id: uuid.UUID
    namespace_id: uuid.UUID
    visibility: str
    state: str
    source: str | None
    base_digest: str | None
    base_commit: str | None
    created_at: datetime
    full_name: str
    more: Sequence[Any]


AnyModel = Model | Glance
Extension = Callable[[Select[Any]], Select[Any]]


def admit(
    session: Session, actor: Actor | None, action: str, path: Mapping[str, Any], extend: Extension | None = None
) -> None:
    """Allow an action on what the path of the request names, or refuse it.

    Args:
        session: A transaction.
        actor: The caller; None without a token.
        action: A name in RULES.
        path: `namespace` and `name` of the model, `number` of the patch, where the action is about one.
        extend: If a glance at the model is enough, what to read along with it.

    Raises:
        Unauthenticated: The action needs a token, and the request has none.
        Forbidden: The token does not have the scope or is for another model, or the role is not enough.
        NotFound: The caller may see no such model, namespace or patch.
    """
    rule = RULES[action]
    if actor is None and rule.role > Role.ANYONE:
        raise Unauthenticated("This needs a token; log in with `crumb login`.")
    if actor is not None:
        actor.require(rule.scope)
    if rule.on == "name" and is_new(session, actor, path["namespace"], path["name"]):
        check_token(actor, None, rule)
    elif rule.on in ("name", "model", "patch"):
        full_name = f"{path['namespace']}/{path['name']}"
        model: AnyModel
        model = glance(session, actor, full_name, extend) if extend else find_visible(session, actor, full_name)
        check_token(actor, model, rule)
        refuse_mirrored(session, actor, action, "model", model.id, full_name)
        if role_on(session, actor, model) < rule.role and not is_author(session, actor, model, rule, path):
            raise Forbidden(refusal(action, rule, full_name))
    elif rule.on == "namespace" and "namespace" in path:
        check_token(actor, None, rule)
        admit_to_namespace(session, actor, action, path["namespace"])
    else:
        check_token(actor, None, rule)
        if rule.role is Role.ADMIN and not (actor and actor.admin):
            raise Forbidden("Only an admin of the registry may do this.")


def is_new(session: Session, actor: Actor | None, namespace: str, name: str) -> bool:
    """Say whether nobody has a name, and the caller may create a model of that name."""
    if not (re.fullmatch(NAME, namespace) and re.fullmatch(NAME, name)):
        return False
    if actor is not None and actor.token.model_id is not None:  # to its bearer nothing else is there
        return False
    space = session.scalar(select(Namespace).where(Namespace.name == namespace))
    if space is None or role_in(session, actor, space) < RULES["model.create"].role:
        return False
    refuse_mirrored(session, actor, "model.create", "namespace", space.id, namespace)
    return session.scalar(select(Model.id).where(Model.namespace_id == space.id, Model.name == name)) is None


def admit_to_namespace(session: Session, actor: Actor | None, action: str, name: str) -> Namespace:
    """Allow an action on a namespace, or refuse it; return the namespace.

    Raises:
        NotFound: No such namespace exists.
        Forbidden: The role is not enough.
    """
    rule = RULES[action]
    space = session.scalar(select(Namespace).where(Namespace.name == name)) if re.fullmatch(NAME, name) else None
    if space is None:
        raise NotFound(f"There is no user or organisation {name}.")
    if role_in(session, actor, space) < rule.role:
        raise Forbidden(refusal(action, rule, name))
    refuse_mirrored(session, actor, action, "namespace", space.id, name)
    return space


def refuse_mirrored(
    session: Session, actor: Actor | None, action: str, kind: str, key: uuid.UUID, subject: str
) -> None:
    """Refuse to change a model or a namespace that comes from another registry, which would change it back.

    Raises:
        Forbidden: It does; the message names where it can be changed.
    """
    if may_be_mirrored(action, admin=actor is not None and actor.admin):
        return
    if (primary := primary_of(session, kind, key)) is not None:
        raise Forbidden(f"{subject} is mirrored here from {primary}, and can be changed only there ({action}).")


def primary_of(session: Session, kind: str, key: uuid.UUID) -> str | None:
    """Return the address of the registry that a model or a namespace is mirrored from; None if it is this one's."""
    return session.scalar(PRIMARY, {"kind": kind, "key": key})


def without_mirrored(session: Session, names: Sequence[str]) -> list[str]:
    """Return those names of namespaces that are not mirrored from another registry, in their order."""
    rows = select(Namespace.name).join(MirroredRow, MirroredRow.id == Namespace.id)
    mirrored = set(session.scalars(rows.where(MirroredRow.kind == "namespace", Namespace.name.in_(names))))
    return [name for name in names if name not in mirrored]


def refusal(action: str, rule: Rule, subject: str) -> str:
    """Return the sentence for a caller whose role is not enough."""
    if rule.role is Role.NOBODY:
        return f"Only the author of a patch may do this ({action} on {subject})."
    if rule.role is Role.ADMIN:
        return f"This needs an admin of the registry ({action} on {subject})."
    who = f"its author or {rule.role.one}" if rule.author else rule.role.one
    return f"This needs {who} of {subject} ({action}); ask an owner for the role."


def check_token(actor: Actor | None, model: AnyModel | None, rule: Rule) -> None:
    """Refuse a token for one model if the action is about another.

    Reading what every signed-in user may read is allowed, and so are uploads: without them it could push nothing.

    Raises:
        Forbidden: The token is for another model.
    """
    only = actor.token.model_id if actor else None
    if only is None or (model is not None and model.id == only):
        return
    if rule.on == "own" and rule.scope == "admin":
        raise Forbidden("This token is for one model; it can neither create nor revoke tokens.")
    if rule.on == "own" or (rule.scope == "read" and rule.role <= Role.CONTRIBUTOR):
        return
    raise Forbidden("This token is for another model; use a token for this model, or one for all models.")


def find_visible(session: Session, actor: Actor | None, full_name: str) -> Model:
    """Return a model that the caller may see.

    Raises:
        NotFound: The caller may see no such model.
    """
    condition, values = condition_for(actor, full_name)
    model: Model | None = session.scalar(of_name(condition), values)
    if model is None:
        raise missing(full_name)
    seen(session)[full_name] = model
    return model


def glance(session: Session, actor: Actor | None, full_name: str, extend: Extension) -> Glance:
    """Return a model that the caller may see, at a glance, and what `extend` reads along with it.

    Raises:
        NotFound: The caller may see no such model.
    """
    condition, values = condition_for(actor, full_name)
    row = session.execute(of_name(condition, extend), values).one_or_none()
    if row is None:
        raise missing(full_name)
    model = Glance._make([*row[: len(GLANCE)], full_name, row[len(GLANCE) :]])
    seen(session)[full_name] = model
    return model


def condition_for(actor: Actor | None, full_name: str) -> tuple[ColumnElement[bool], dict[str, Any]]:
    """Return the condition for the models that a caller may see, and the values to look one up by its name.

    Raises:
        NotFound: There can be no model of this name; it may hold NUL, which a database refuses.
    """
    namespace, _, name = full_name.partition("/")
    if not (re.fullmatch(NAME, namespace) and re.fullmatch(NAME, name)):
        raise missing(full_name)
    values: dict[str, Any] = {"namespace": namespace, "name": name}
    if actor is None:
        return PUBLIC, values
    if actor.admin:
        return ANY, values
    # One statement whatever the answer, so that its time tells nothing of what the caller may not see.
    values["user"] = actor.user_id
    if actor.token.model_id is None:
        return VISIBLE, values
    return VISIBLE_TO_TOKEN, {**values, "only": actor.token.model_id}


def missing(full_name: str) -> NotFound:
    """Return the error for a model that does not exist, or not for the caller."""
    return NotFound(f"There is no model {full_name}; `crumb model list` shows those that you may see.")


@cache
def of_name(condition: ColumnElement[bool], extend: Extension | None = None) -> Select[Any]:
    """Return the query for the model of a name, or for an extended glance at it.

    It is built once: building a statement takes longer than running it.
    """
    query: Select[Any] = extend(select(*GLANCE)) if extend else select(Model)
    return query.where(in_namespace(bindparam("namespace")), MODEL.name == bindparam("name"), condition)


def visible(actor: Actor | None) -> ColumnElement[bool]:
    """Return the condition for the models that a caller may see."""
    if actor is None:
        return MODEL.visibility == "public"
    return true() if actor.admin else visible_to(actor.user_id, actor.token.model_id)


def visible_to(
    user_id: uuid.UUID | BindParameter[Any], only: uuid.UUID | BindParameter[Any] | None = None
) -> ColumnElement[bool]:
    """Return the condition for the models that a user may see, with a token for one model if `only` is given."""
    of_model = exists().where(MEMBER.model_id == MODEL.id, MEMBER.user_id == user_id)
    of_namespace = exists().where(
        NAMESPACE_MEMBER.namespace_id == MODEL.namespace_id, NAMESPACE_MEMBER.user_id == user_id
    )
    member = or_(of_model, of_namespace)
    if only is not None:
        member = and_(member, MODEL.id == only)
    return or_(MODEL.visibility == "public", member)


def in_namespace(name: str | BindParameter[Any]) -> ColumnElement[bool]:
    """Return the condition for the models of a namespace; one on `Model.namespace` would look at every model."""
    return MODEL.namespace_id == select(NAMESPACE.id).where(NAMESPACE.name == name).correlate(None).scalar_subquery()


def role_on(session: Session, actor: Actor | None, model: AnyModel) -> Role:
    """Return the caller's role on a model: the greater of what model and namespace give."""
    least = Role.ANYONE if model.visibility == "public" else Role.NONE
    return least if actor is None else role_held(session, actor.user_id, model, actor.admin)


def role_held(session: Session, user_id: uuid.UUID, model: AnyModel, admin: bool) -> Role:
    """Return what a user is to a model."""
    if admin:
        return Role.ADMIN
    found, pair = seen(session), f"{user_id} on {model.id}"
    if pair not in found:
        values = {"model": model.id, "namespace": model.namespace_id, "user": user_id}
        roles = [Role[role.upper()] for role in session.scalars(ROLES, values)]
        found[pair] = max(roles, default=Role.CONTRIBUTOR if model.visibility == "public" else Role.NONE)
    held: Role = found[pair]
    return held


def members_of(session: Session, model: Model, least: Role) -> set[uuid.UUID]:
    """Return the users to whom a model or its namespace gives this role or a greater one; not the server's admins."""
    roles = [role.word for role in Role if least <= role <= Role.OWNER]
    own = select(ModelMember.user_id).where(ModelMember.model_id == model.id, ModelMember.role.in_(roles))
    inherited = select(NamespaceMember.user_id).where(
        NamespaceMember.namespace_id == model.namespace_id, NamespaceMember.role.in_(roles)
    )
    return set(session.scalars(own.union(inherited)))


def models_with(user_id: uuid.UUID, least: Role) -> CompoundSelect[uuid.UUID]:
    """Return the query for the keys of the models on which a user is a member with this role or a greater one."""
    roles = [role.word for role in Role if least <= role <= Role.OWNER]
    own = select(ModelMember.model_id).where(ModelMember.user_id == user_id, ModelMember.role.in_(roles))
    spaces = select(NamespaceMember.namespace_id).where(
        NamespaceMember.user_id == user_id, NamespaceMember.role.in_(roles)
    )
    return own.union(select(Model.id).where(Model.namespace_id.in_(spaces)))


def role_in(session: Session, actor: Actor | None, space: Namespace) -> Role:
    """Return the caller's role on a namespace; every signed-in user is a contributor to all."""
    if actor is None:
        return Role.ANYONE
    if actor.admin:
        return Role.ADMIN
    row = session.get(NamespaceMember, (space.id, actor.user_id))
    return Role[row.role.upper()] if row is not None else Role.CONTRIBUTOR


def is_author(session: Session, actor: Actor | None, model: AnyModel, rule: Rule, path: Mapping[str, Any]) -> bool:
    """Say whether the rule allows the author of the patch, and the caller is the author.

    Raises:
        NotFound: No such patch exists.
    """
    if not rule.author or actor is None:
        return False
    number = str(path["number"])
    author = None
    if number.isdecimal() and len(number) < 10:
        author = session.scalar(select(Patch.author_id).where(Patch.model_id == model.id, Patch.number == int(number)))
    if author is None:
        raise NotFound(f"There is no patch {model.full_name}#{number}; see `crumb log {model.full_name}`.")
    return author == actor.user_id


# What every request asks, built once: building a statement takes longer than running it.
PUBLIC, ANY = visible(None), true()
VISIBLE, VISIBLE_TO_TOKEN = visible_to(bindparam("user")), visible_to(bindparam("user"), bindparam("only"))
GLANCE = MODEL["id", "namespace_id", "visibility", "state", "source", "base_digest", "base_commit", "created_at"]
MIRRORED = MirroredRow.kind == bindparam("kind"), MirroredRow.id == bindparam("key")
PRIMARY = select(Mirror.url).where(select(MirroredRow.id).where(*MIRRORED).exists())
ROLES = (
    select(ModelMember.role)
    .where(ModelMember.model_id == bindparam("model"), ModelMember.user_id == bindparam("user"))
    .union_all(
        select(NamespaceMember.role).where(
            NamespaceMember.namespace_id == bindparam("namespace"), NamespaceMember.user_id == bindparam("user")
        )
    )
)
