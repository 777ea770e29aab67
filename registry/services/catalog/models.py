"""Models: each is a name pinned to one base, whose files a worker checks before it can take patches."""

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, or_, select
from sqlalchemy.orm import Session, joinedload, selectinload

from registry.breadcrumbs.formats.layout import MaskParams
from registry.db.session import seen
from registry.db.tables import BaseFile, BaseTensor, Job, Model, ModelMember, Namespace, NamespaceMember, User, now
from registry.documents.commits import commit_id
from registry.documents.front_matter import card_license
from registry.errors import InvalidRequest, NotFound, WrongState
from registry.files.folders import CONFIG, check_paths
from registry.files.kinds import name_listed
from registry.services.blobs import blobs, quotas, texts
from registry.services.catalog import search, tags
from registry.services.people import access, namespaces, paging, policies
from registry.services.people.actors import Actor, record
from registry.services.people.names import check_name
from registry.services.queue import jobs
from registry.storage.store import Store

# What most requests ask, built once: building a statement takes longer than running it.
FILES = (
    select(BaseFile)
    .where(BaseFile.model_id == bindparam("model"))
    .options(joinedload(BaseFile.blob))
    .order_by(BaseFile.path)
)

RESERVED_FOR = timedelta(days=7)  # how long a name waits for its base
AT_ONCE = 1000  # names that expire in one transaction; the next takes more


def create(
    session: Session,
    actor: Actor,
    full_name: str,
    files: Sequence[tuple[str, str]],
    *,
    source: str | None = None,
    by_reference: bool = False,
    visibility: str = "public",
    license: str | None = None,
) -> tuple[Model, Job | None]:
    """Create a model from (path, sha256) pairs of bytes the user has uploaded or could download, or from a source.

    A source is `hf://org/name@revision`; then there are no pairs, and the job finds out what the files are.

    Returns:
        The model and its import job; no job if the same model exists already and is imported.

    Raises:
        NotFound: No such namespace exists.
        Forbidden: The user is not a maintainer of the namespace.
        WrongState: The name is taken.
        InvalidRequest: A name, path or digest is not valid; the message names it.
    """
    namespace, _, name = full_name.partition("/")
    check_name(name, "name")
    space = access.admit_to_namespace(session, actor, "model.create", namespace)
    if source is not None:
        source = source if "@" in source else f"{source}@main"
    else:
        if kind := name_listed([path for path, _ in files], "This base"):
            raise InvalidRequest(kind, field="files")
        check_paths([path for path, _ in files])
    existing = taken(session, space, name)
    if existing is not None and existing.state != "empty":
        if source is not None:
            same = asked_before(session, existing, source, by_reference=by_reference)
        else:
            same = {(file.path, file.sha256) for file in existing.files} == set(files)
        if not same:
            raise WrongState(f"There is a model {full_name} already; choose another name.", field="name")
        return existing, import_job(session, existing)
    if source is not None:
        policies.require_hub_model(session, source)
    if license is not None:
        policies.require_license(session, license, "The base")
    sizes = blobs.readable(session, actor, [sha256 for _, sha256 in files])
    for path, sha256 in files:
        if sha256 not in sizes:
            raise InvalidRequest(f"The bytes of {path} are missing; upload them first.", field=path)
    quotas.charge(session, space.id, sizes)
    model = existing or add(session, actor, space, name, visibility)
    if visibility == "private":
        model.visibility = visibility
    model.state, model.license, model.source, model.by_reference = "importing", license, source, by_reference
    model.size = sum(sizes[sha256] for _, sha256 in files)
    session.add_all(BaseFile(model_id=model.id, path=path, sha256=sha256) for path, sha256 in sorted(files))
    session.flush()
    job = jobs.enqueue(
        session,
        actor.user_id,
        "import",
        f"import:{model.id}",
        model,
        "base",
        {"source": source, "reserved": existing is not None},
    )
    after = {"visibility": model.visibility, "license": license} | ({"source": source} if source else {})
    record(session, actor, "model.create", full_name, model, after=after)
    return find(session, full_name), job


def create_empty(session: Session, actor: Actor, full_name: str, visibility: str) -> Model:
    """Create a model without a base, which the next push or `create` gives it.

    Raises:
        NotFound, Forbidden, InvalidRequest: As of `create`.
        WrongState: The name is taken.
    """
    namespace, _, name = full_name.partition("/")
    check_name(name, "name")
    space = access.admit_to_namespace(session, actor, "model.create", namespace)
    if taken(session, space, name) is not None:
        raise WrongState(f"There is a model {full_name} already.", field="name")
    model = add(session, actor, space, name, visibility)
    record(session, actor, "model.reserve", full_name, model, after={"visibility": visibility})
    return model


def taken(session: Session, space: Namespace, name: str) -> Model | None:
    """Return the model that has a name, with its files, and lock it and the names of its namespace."""
    session.get(Namespace, space.id, with_for_update=True)
    query = select(Model).where(Model.namespace_id == space.id, Model.name == name).options(selectinload(Model.files))
    return session.scalar(query.with_for_update(of=Model))  # or it might expire meanwhile


def add(session: Session, actor: Actor, space: Namespace, name: str, visibility: str) -> Model:
    """Add a model without a base, which can be searched for by its name."""
    model = Model(
        namespace_id=space.id, name=name, creator_id=actor.user_id, state="empty", visibility=visibility, size=0
    )
    session.add(model)
    session.flush()
    session.refresh(model, ["namespace"])
    search.write(session, model)
    return model


def asked_before(session: Session, model: Model, source: str, *, by_reference: bool) -> bool:
    """Say whether a model came from a source: as it was asked for, or as it was pinned."""
    if model.by_reference != by_reference or model.source is None:
        return False
    imports = session.scalars(select(Job).where(Job.key == f"import:{model.id}")).all()
    return source == model.source or any(job.payload.get("source") == source for job in imports)


def import_job(session: Session, model: Model) -> Job | None:
    """Return the job that imports a model, until it ends."""
    return jobs.active(session, f"import:{model.id}") if model.state == "importing" else None


def find(session: Session, full_name: str, *, lock: bool = False) -> Model:
    """Return a model; the caller has been admitted to it, and a reading transaction has seen it by then.

    Args:
        session: A transaction.
        full_name: `namespace/name`.
        lock: Whether to lock the model's row until the transaction ends.

    Raises:
        NotFound: No such model exists.
    """
    namespace, _, name = full_name.partition("/")
    model = None if lock else seen(session).get(full_name)
    if not isinstance(model, Model):
        query = access.of_name(access.ANY)
        query = query.with_for_update(of=Model) if lock else query
        model = session.scalar(query, {"namespace": namespace, "name": name})
    if model is None:
        raise access.missing(full_name)
    return model


def ready(session: Session, full_name: str, *, lock: bool = False) -> Model:
    """Return a model whose base has been checked.

    Raises:
        NotFound: No such model exists.
        WrongState: The model's base is still being checked.
    """
    model = find(session, full_name, lock=lock)
    require_ready(model)
    return model


def require_ready(model: access.AnyModel) -> None:
    """Refuse a model that has no base yet.

    Raises:
        WrongState: The message says what to do.
    """
    if model.state == "empty":
        raise WrongState(
            f"{model.full_name} has no base yet; push one with `push_to_hub` or `hf upload`, or run "
            f"`crumb model create {model.full_name} --base FOLDER`."
        )
    if model.state != "ready":
        raise WrongState(f"The base of {model.full_name} is still being checked; try again in a moment.")


def listing(
    session: Session, actor: Actor | None, wanted: search.Filters, after: str | None, limit: int
) -> tuple[list[Model], str | None]:
    """Return a page of the models that the caller may see, by name, and the cursor of the next page."""
    query = select(Model).join(Namespace, Namespace.id == Model.namespace_id).where(access.visible(actor))
    query = query.where(*search.conditions(wanted)).order_by(Namespace.name, Model.name)
    if after:
        namespace, _, name = after.partition("/")
        query = query.where(
            Namespace.name >= namespace,  # which an index can look up
            or_(Namespace.name > namespace, Model.name > name),
        )
    return paging.cut(session.scalars(query.limit(limit + 1)).all(), limit, lambda model: model.full_name)


def base_files(session: Session, model: Model) -> list[BaseFile]:
    """Return the files of a base with their blobs, by path."""
    return list(session.scalars(FILES, {"model": model.id}))


def base_tensors(session: Session, model: Model) -> list[tuple[str, str, list[int], str]]:
    """Return name, dtype, shape and sha256 of the tensors of a base, in name order."""
    query = select(BaseTensor.name, BaseTensor.dtype, BaseTensor.shape, BaseTensor.sha256)
    rows = session.execute(query.where(BaseTensor.model_id == model.id).order_by(BaseTensor.position))
    return [(name, dtype, shape, sha256) for name, dtype, shape, sha256 in rows]


def count_tensors(session: Session, model: Model) -> int:
    """Return how many tensors a base has."""
    return session.scalars(select(func.count()).where(BaseTensor.model_id == model.id)).one()


def update(session: Session, actor: Actor, full_name: str, fields: dict[str, Any]) -> Model:
    """Change a model's visibility, licence, its requirements for accepting a patch, or how patches are made.

    Raises:
        InvalidRequest: The mask would leave out everything, or the policy of admins does not allow it or the licence.
    """
    model = find(session, full_name, lock=True)
    if "mask" in fields:
        params = MaskParams(**fields["mask"])
        policies.require_mask(session, params.drop_bottom, params.drop_top, "The model's mask")
        fields = fields | {"mask": {name: getattr(params, name) for name in fields["mask"]}}
    changed = {name: value for name, value in fields.items() if getattr(model, name) != value}
    if "license" in changed:
        policies.require_license(session, changed["license"], "The model")
    if changed:
        before = {name: getattr(model, name) for name in changed}
        for name, value in changed.items():
            setattr(model, name, value)
        if "license" in changed:
            tags.relicense(session, model)
        session.flush()
        record(session, actor, "model.update", full_name, model, before=before, after=changed)
    return model


def members(session: Session, model: Model) -> list[tuple[ModelMember | NamespaceMember, str]]:
    """Return the members of a model, each with where the role is held: its namespace, or itself."""
    space = session.get_one(Namespace, model.namespace_id)
    own = session.scalars(
        select(ModelMember)
        .join(User, User.id == ModelMember.user_id)
        .where(ModelMember.model_id == model.id)
        .options(joinedload(ModelMember.user))
        .order_by(User.name)
    )
    inherited = [(row, space.name) for row in namespaces.members(session, space)]
    return [*inherited, *((row, model.full_name) for row in own)]


def set_member(session: Session, actor: Actor, full_name: str, user_name: str, role: str | None) -> None:
    """Give a user a role on a model, or take it away (None). Does nothing if the role is already set.

    Raises:
        NotFound: No such user or member exists.
    """
    model = find(session, full_name, lock=True)
    user = namespaces.find_user(session, user_name)
    row = session.get(ModelMember, (model.id, user.id))
    before = row.role if row else None
    if row is None and role is None:
        raise NotFound(f"{user_name} is not a member of {full_name} itself; see `crumb member list {full_name}`.")
    if before == role:
        return
    if row is not None and role is None:
        session.delete(row)
    elif row is not None and role is not None:
        row.role = role
    elif role is not None:
        session.add(ModelMember(model_id=model.id, user_id=user.id, role=role))
    session.flush()
    was, is_now = {"user": user_name, "role": before}, {"user": user_name, "role": role}
    record(session, actor, "model.member", full_name, model, before=was, after=is_now)


def change_card(session: Session, store: Store, model: Model, card: str) -> None:
    """Give a model another card, and the tags that follow; its licence stays, unless it has none.

    Raises:
        InvalidRequest: It would have the card's licence, which the policy of admins does not allow.
    """
    if model.license is None and (named := card_license(card)):
        policies.require_license(session, named, "The card")
    model.card, model.license, model.modified_at = card, model.license or card_license(card), now()
    digests = {file.path: file.sha256 for file in base_files(session, model)}
    config = texts.read_config(store, digests[CONFIG]) if CONFIG in digests else {}
    tags.rewrite(session, model, config.get("model_type"))
    session.flush()


def finish_import(session: Session, model: Model, contents: dict[str, Any], card: str | None) -> None:
    """Record what a worker read in the files, and open the model for patches.

    Raises:
        InvalidRequest: The policy of admins does not allow the licence, which may come from the card.
    """
    files = record_base(session, model, contents)
    model.base_digest, model.card, model.state = contents["weights_digest"], card, "ready"
    model.license = model.license or card_license(card or "")
    policies.require_license(session, model.license, "The base")
    model.modified_at = now()
    model.base_commit = commit_id({file.path: file.sha256 for file in files})
    tags.write(session, model, contents["model_type"])
    session.flush()
    record(session, None, "model.ready", model.full_name, model, after={"base": model.base_digest})


def record_base(session: Session, model: Model, contents: dict[str, Any]) -> list[BaseFile]:
    """Record the tensors that a worker read in the files of a base, and where they are; return the files."""
    columns = ("model_id", "position", "name", "dtype", "shape", "sha256", "path", "start")
    places, tensors = contents["places"], enumerate(contents["tensors"])
    rows = [dict(zip(columns, (model.id, at, *row, *places[row[0]]), strict=True)) for at, row in tensors]
    if rows:
        session.execute(insert(BaseTensor), rows)
    files = base_files(session, model)
    for file in files:
        file.header_size, file.header_sha256 = contents["headers"].get(file.path, (None, None))
    model.parameters, model.dtypes = contents["parameters"], count_dtypes(contents["tensors"])
    return files


def count_dtypes(tensors: Sequence[tuple[str, str, Sequence[int], str]]) -> dict[str, int]:
    """Return how many weights of each dtype there are, given (name, dtype, shape, sha256) of each tensor."""
    counts: dict[str, int] = {}
    for _, dtype, shape, _ in tensors:
        counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
    return counts


def refuse_import(session: Session, model: Model, error: str, *, reserved: bool = False) -> None:
    """Delete a model whose files are no sound base, or empty it if its name was `reserved`; the job has the reason."""
    quotas.locked(session, model.namespace_id)  # before the audit log, as everywhere, or two would wait for each other
    record(session, None, "model.refuse", model.full_name, model, after={"error": error})
    if reserved:  # or the next push might make it anew, and public
        session.execute(delete(BaseFile).where(BaseFile.model_id == model.id))
        model.state, model.size, model.source, model.by_reference, model.license = "empty", 0, None, False, None
        model.modified_at = now()
    else:
        session.delete(model)
    session.flush()
    quotas.recount(session, model.namespace_id)


def forget_empty(session: Session) -> None:
    """Delete public models that have waited for a base for too long, so that others may have their names.

    Private ones stay, or the next push would make the same name anew, and public.
    """
    waiting = Model.state == "empty", Model.visibility == "public", Model.modified_at < now() - RESERVED_FOR
    query = select(Model).where(*waiting).limit(AT_ONCE).with_for_update(of=Model, skip_locked=True)
    for model in session.scalars(query).all():
        record(
            session, None, "model.expire", model.full_name, model, before={"created_at": model.created_at.isoformat()}
        )
        session.delete(model)
    session.flush()
