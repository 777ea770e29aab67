"""Models: a name pinned to one base, whose files are checked by a worker before anything can be built on them."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session, joinedload, selectinload

from registry.db.models import BaseFile, BaseTensor, Job, Model, User
from registry.errors import Conflict, Forbidden, InvalidRequest, NotFound
from registry.services import blobs, jobs
from registry.services.actors import Actor, check_name, record
from registry.store import Store

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".msgpack")
CARD_BYTES = 2**20


def create(
    session: Session, actor: Actor, full_name: str, files: Sequence[tuple[str, str]]
) -> tuple[Model, Job | None]:
    """Create a model from (path, sha256) pairs of bytes the user has uploaded or could download.

    Returns:
        The model and its import job; no job when the same model is there already.

    Raises:
        Forbidden: the namespace is somebody else's.
        Conflict: the name is taken.
        InvalidRequest: a name, a path or a digest is not acceptable; names it.
    """
    namespace, _, name = full_name.partition("/")
    check_name(namespace, "name")
    check_name(name, "name")
    if namespace != actor.name and not actor.admin:
        raise Forbidden(f"The namespace '{namespace}' is not yours; create the model as {actor.name}/{name}.")
    check_paths([path for path, _ in files])
    session.get(User, actor.user_id, with_for_update=True)
    found = session.scalar(
        select(Model)
        .where(Model.namespace == namespace, Model.name == name)
        .options(selectinload(Model.files), joinedload(Model.owner))
    )
    if found is not None:
        same = {(file.path, file.sha256) for file in found.files} == set(files)
        if found.owner_id != actor.user_id or not same:
            raise Conflict(f"There is a model {full_name} already; choose another name.", field="name")
        return found, import_job(session, found)
    sizes = blobs.readable(session, actor.user_id, [sha256 for _, sha256 in files])
    for path, sha256 in files:
        if sha256 not in sizes:
            raise InvalidRequest(f"The bytes of {path} are not here; upload them first.", field=path)
    model = Model(
        namespace=namespace,
        name=name,
        owner_id=actor.user_id,
        state="importing",
        patch_count=0,
        size=sum(sizes[sha256] for _, sha256 in files),
        files=[BaseFile(path=path, sha256=sha256) for path, sha256 in sorted(files)],
    )
    session.add(model)
    session.flush()
    job = jobs.enqueue(session, actor, "import", f"import:{model.id}", full_name, "base", {"model_id": str(model.id)})
    record(session, actor, "model.create", full_name)
    return find(session, full_name), job


def check_paths(paths: Sequence[str]) -> None:
    """Refuse paths that could leave a folder, hide, collide, or name a pickle.

    Raises:
        InvalidRequest: names the path and the rule.
    """
    seen: set[str] = set()
    for path in paths:
        parts = path.split("/")
        if not path.isascii() or not path.isprintable() or set(path) & set('\\:*?"<>|%#'):
            raise InvalidRequest(f"The path {path!r} has a character that not every system can store.", field=path)
        if any(part != part.strip(" ") or part.startswith(".") or part.endswith(".") or not part for part in parts):
            raise InvalidRequest(f"The path {path!r} is not a plain relative path to a visible file.", field=path)
        if PurePosixPath(path).suffix.lower() in PICKLES:
            raise InvalidRequest(
                f"{path} may hold a pickle, which runs code when opened; convert the weights to safetensors.",
                field=path,
            )
        if path.casefold() in seen:
            raise InvalidRequest(f"Two files are called {path} (upper and lower case count as the same).", field=path)
        seen.add(path.casefold())
    for path in paths:
        if any(str(parent).casefold() in seen for parent in PurePosixPath(path).parents):
            raise InvalidRequest(f"The path {path!r} lies inside another file.", field=path)
    if not any(is_weights(path) for path in paths):
        raise InvalidRequest("A base needs at least one .safetensors file at its top level.", field="files")


def is_weights(path: str) -> bool:
    """Say whether a path of a base holds weights: a safetensors file at the top level."""
    return "/" not in path and path.endswith(".safetensors")


def import_job(session: Session, model: Model) -> Job | None:
    """Return the job that imports a model, while there is one."""
    return jobs.active(session, f"import:{model.id}") if model.state == "importing" else None


def find(session: Session, full_name: str, *, lock: bool = False) -> Model:
    """Return a model with its owner.

    Args:
        session: A transaction.
        full_name: `namespace/name`.
        lock: Whether others who ask for the lock wait until the transaction ends.

    Raises:
        NotFound: there is none.
    """
    namespace, _, name = full_name.partition("/")
    query = select(Model).where(Model.namespace == namespace, Model.name == name).options(joinedload(Model.owner))
    model = session.scalar(query.with_for_update(of=Model) if lock else query)
    if model is None:
        raise NotFound(f"There is no model {full_name}.")
    return model


def ready(session: Session, full_name: str, *, lock: bool = False) -> Model:
    """Return a model whose base has been checked.

    Raises:
        NotFound: there is no such model.
        Conflict: its base is still being checked.
    """
    model = find(session, full_name, lock=lock)
    if model.state != "ready":
        raise Conflict(f"The base of {full_name} is still being checked; try again in a moment.")
    return model


def listing(
    session: Session, search: str | None, author: str | None, after: str | None, limit: int
) -> tuple[list[Model], str | None]:
    """Return a page of models by name and the cursor of the next page."""
    query = select(Model).options(joinedload(Model.owner)).order_by(Model.namespace, Model.name)
    if search:
        query = query.where(func.lower(Model.namespace + "/" + Model.name).contains(search.lower(), autoescape=True))
    if author:
        query = query.where(Model.namespace == author)
    if after:
        namespace, _, name = after.partition("/")
        query = query.where(or_(Model.namespace > namespace, and_(Model.namespace == namespace, Model.name > name)))
    found = list(session.scalars(query.limit(limit + 1)))
    return found[:limit], found[limit - 1].full_name if len(found) > limit else None


def base_files(session: Session, model: Model) -> list[BaseFile]:
    """Return the files of a base with their blobs, by path."""
    return list(
        session.scalars(
            select(BaseFile)
            .where(BaseFile.model_id == model.id)
            .options(joinedload(BaseFile.blob))
            .order_by(BaseFile.path)
        )
    )


def base_tensors(session: Session, model: Model) -> list[BaseTensor]:
    """Return the tensors of a base, in name order."""
    return list(
        session.scalars(select(BaseTensor).where(BaseTensor.model_id == model.id).order_by(BaseTensor.position))
    )


def read_card(store: Store, files: Mapping[str, str]) -> str | None:
    """Return the text of README.md among (path -> sha256) files, if there is one of at most 1 MiB of UTF-8."""
    if "README.md" not in files:
        return None
    with store.open(files["README.md"]) as file:
        raw = file.read(CARD_BYTES + 1)
    return None if len(raw) > CARD_BYTES else raw.decode("utf-8", "replace").replace("\0", "\ufffd")


def finish_import(session: Session, model: Model, report: dict[str, Any], card: str | None) -> None:
    """Write down what a worker found in the files, and open the model for patches."""
    for position, (name, dtype, shape, sha256) in enumerate(report["tensors"]):
        session.add(
            BaseTensor(model_id=model.id, name=name, position=position, dtype=dtype, shape=shape, sha256=sha256)
        )
    model.base_digest, model.parameters = report["weights_digest"], report["parameters"]
    model.card, model.state = card, "ready"
    session.flush()
    record(session, None, "model.ready", model.full_name, base=model.base_digest)


def refuse_import(session: Session, model: Model, error: str) -> None:
    """Forget a model whose files are no sound base; the job keeps the reason."""
    record(session, None, "model.refuse", model.full_name, error=error)
    session.delete(model)
    session.flush()
