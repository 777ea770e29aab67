"""Bases that come from a Hub: which files are taken, what is kept of them here, and what stays there.

    hf://org/name@revision ── listed ── chosen ── fetched ── read ──> hf://org/name@<commit>
    asked for                 by the worker                           pinned, in the commit that opens the model

A base by reference has its weights at the Hub: their blobs are `remote`, rows without a file. Everything else of it,
and all of a base that is copied, becomes ordinary blobs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import BaseFile, Blob, Model, Namespace
from registry.errors import InvalidRequest, TooMany
from registry.files.folders import HUB_PATTERNS, check_path, check_paths, is_pickle, is_weights
from registry.services.blobs import blobs, quotas
from registry.storage.store import Store

MOST_FILES = 2000
PATH_LENGTH = 255


@dataclass(frozen=True)
class HubFile:
    """A file of a base at a Hub; `name` is the sha256 of its bytes where the Hub knows that, else git's id of them."""

    path: str
    size: int
    name: str


@dataclass(frozen=True)
class BaseLimits:
    """Most bytes of a base from a Hub, of the weights that may be here at a time, and of a namespace."""

    upload_bytes: int
    cache_bytes: int
    quota_bytes: int
    quota_uploads: int


def stays(model: Model, path: str) -> bool:
    """Say whether a file of a base stays at the Hub."""
    return model.by_reference and path.endswith(".safetensors")


def choose(model: Model, listed: Sequence[tuple[str, int, str]], limits: BaseLimits) -> list[HubFile]:
    """Return which files of a base are taken, by path.

    Args:
        model: Which is to have that base.
        listed: (path, bytes, object) of all there are.
        limits: What is too much.

    Raises:
        InvalidRequest: they are no base, or more than a limit.
    """
    chosen: dict[str, HubFile] = {}
    for path, size, name in sorted(listed):
        file = path.rpartition("/")[2]
        if not any(fnmatchcase(file, pattern) for pattern in HUB_PATTERNS) or path.startswith(".") or "/." in path:
            continue
        try:
            check_path(path)
            fits = len(path) <= PATH_LENGTH and path.casefold() not in chosen
        except InvalidRequest:
            fits = False
        if fits:
            chosen[path.casefold()] = HubFile(path, size, name)
        elif path.endswith(".safetensors"):
            raise InvalidRequest(f"{model.source} has weights by a path that no registry takes: {path!r}.")
    found = list(chosen.values())
    if not any(is_weights(file.path) for file in found):
        pickled = [path for path, _, _ in listed if is_pickle(path)]
        why = f", only what may be pickles, which are never opened, like {min(pickled)}" if pickled else ""
        raise InvalidRequest(f"{model.source} has no .safetensors file at its top level{why}.", field="source")
    check_paths([file.path for file in found])
    size = sum(file.size for file in found)
    if len(found) > MOST_FILES or size > limits.upload_bytes:
        raise InvalidRequest(
            f"{model.source} has {len(found)} files of {size} bytes; a base has at most {MOST_FILES} of "
            f"{limits.upload_bytes}.",
            field="source",
        )
    there = sum(file.size for file in found if stays(model, file.path))
    if there > limits.cache_bytes:
        raise InvalidRequest(
            f"{model.source} has {there} bytes of weights, and this registry holds at most {limits.cache_bytes} from "
            "a Hub at a time; ask the operator for a greater cache, or copy the base.",
            field="source",
        )
    return found


def require_room(session: Session, model: Model, sizes: Mapping[str, int], limits: BaseLimits) -> None:
    """Refuse what the namespace of a model has no room for, and hold the namespace's lock.

    Args:
        session: A writing transaction.
        model: The model.
        sizes: Bytes of what would be kept, by sha256 or by another name where that is not known yet.
        limits: Quotas of a namespace that has none of its own.

    Raises:
        InvalidRequest: there is no room.
    """
    space = session.get_one(Namespace, model.namespace_id, with_for_update=True, populate_existing=True)
    found = quotas.usage(session, space, limits.quota_bytes, limits.quota_uploads)
    size = sum(size for name, size in sizes.items() if not quotas.counts_against(session, space, name))
    try:
        quotas.require_room(space, found, size, is_open=False)
    except TooMany as why:
        raise InvalidRequest(str(why), field="source") from None


def stored_files(model: Model, files: Sequence[HubFile]) -> dict[str, int]:
    """Return the bytes of those files of a base that are kept here, by name."""
    return {file.name: file.size for file in files if not stays(model, file.path)}


def register(
    session: Session,
    store: Store,
    model: Model,
    source: str,
    files: Sequence[HubFile],
    folder: Path,
    limits: BaseLimits,
) -> None:
    """Pin a model to what was fetched of its base.

    Args:
        session: A writing transaction.
        store: Where blobs go.
        model: The model.
        source: `hf://org/name@<commit>`.
        files: The files, by their sha256.
        folder: Holds those that are kept here, by their sha256, on the store's file system.
        limits: Quotas, which others may have used meanwhile.

    Raises:
        InvalidRequest: there is no room in the namespace.
        StorageFull, StorageFailed: the disk failed; roll back.
    """
    here = stored_files(model, files)
    require_room(session, model, here, limits)
    sizes = {file.name: file.size for file in files}
    for sha256, size in sorted(sizes.items()):  # one order, no deadlock
        if sha256 in here:
            blobs.register(session, store, folder / sha256, sha256, size)
        else:
            blobs.refer(session, sha256, size)
    session.add_all(BaseFile(model_id=model.id, path=file.path, sha256=file.name) for file in files)
    model.source, model.size = source, sum(file.size for file in files)
    session.flush()


def remote(session: Session, model: Model) -> list[HubFile]:
    """Return the files of a base whose bytes are at the Hub and not here, by path."""
    rows = session.execute(
        select(BaseFile.path, Blob.size, Blob.sha256)
        .join(Blob, Blob.sha256 == BaseFile.sha256)
        .where(BaseFile.model_id == model.id, Blob.state == "remote")
        .order_by(BaseFile.path)
    )
    return [HubFile(path, size, sha256) for path, size, sha256 in rows]
