"""Bases from a Hub: which of their files are taken, which are kept here, and which stay there.

    hf://org/name@revision ── listed ── chosen ── fetched ── read ──> hf://org/name@<commit>
    asked for                 by the worker                           pinned, in the commit that opens the model

The weights of a base by reference stay at the Hub: their blobs are `remote`, rows without a file. Its other files, and
all files of a base that is copied, become ordinary blobs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import BaseFile, Blob, Model, Namespace
from registry.errors import InvalidRequest, TooMany
from registry.files.folders import (
    HUB_PATTERNS,
    check_path,
    check_paths,
    is_path,
    is_pickle,
    is_pickled_weights,
    is_weights,
)
from registry.files.kinds import name_listed
from registry.services.blobs import blobs, quotas
from registry.storage.store import Store

MOST_FILES = 2000
PATH_LENGTH = 255


@dataclass(frozen=True)
class HubFile:
    """A file of a base at a Hub; `name` is the sha256 of its bytes if the Hub knows it, else their git object id."""

    path: str
    size: int
    name: str


@dataclass(frozen=True)
class BaseLimits:
    """Most bytes of a base from a Hub, of its weights in the cache, and of a namespace."""

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
        model: The model that gets this base.
        listed: (path, bytes, object) of every file at the Hub.
        limits: The most that is allowed.

    Raises:
        InvalidRequest: The files are not a base, or exceed a limit.
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
            raise InvalidRequest(
                f"{model.source} has weights at a path that no registry accepts: {path!r}; rename the file there."
            )
    files = list(chosen.values())
    if not any(is_weights(file.path) for file in files):
        if kind := name_listed([path for path, _, _ in listed], str(model.source)):
            raise InvalidRequest(kind, field="source")
        others = [path for path, _, _ in listed if is_pickle(path)]
        why = f", only files that may be pickles, which are never opened, like {min(others)}" if others else ""
        raise InvalidRequest(f"{model.source} has no .safetensors file at its top level{why}.", field="source")
    check_paths([file.path for file in files])
    size = sum(file.size for file in files)
    if len(files) > MOST_FILES or size > limits.upload_bytes:
        raise InvalidRequest(
            f"{model.source} has {len(files)} files of {size} bytes; a base has at most {MOST_FILES} of "
            f"{limits.upload_bytes}.",
            field="source",
        )
    remote_bytes = sum(file.size for file in files if stays(model, file.path))
    if remote_bytes > limits.cache_bytes:
        raise InvalidRequest(
            f"{model.source} has {remote_bytes} bytes of weights, and this registry's cache holds at most "
            f"{limits.cache_bytes}; ask the operator for a larger cache, or copy the base.",
            field="source",
        )
    return files


def pickled(listed: Sequence[tuple[str, int, str]]) -> list[str]:
    """Return the pickled weights among the files at the Hub, which are not fetched: a component may have no others."""
    return [path for path, _, _ in sorted(listed) if is_pickled_weights(path) and is_path(path)]


def require_room(session: Session, model: Model, sizes: Mapping[str, int], limits: BaseLimits) -> None:
    """Refuse bytes that the model's namespace has no room for; the namespace stays locked.

    Args:
        session: A writing transaction.
        model: The model.
        sizes: Bytes of each file to keep, by its sha256, or by its git object id while that is unknown.
        limits: The quotas of a namespace that has none of its own.

    Raises:
        InvalidRequest: The namespace has no room.
    """
    space = session.get_one(Namespace, model.namespace_id, with_for_update=True, populate_existing=True)
    used = quotas.usage(session, space, limits.quota_bytes, limits.quota_uploads)
    size = sum(size for name, size in sizes.items() if not quotas.counts_against(session, space, name))
    try:
        quotas.require_room(space, used, size, is_open=False)
    except TooMany as why:
        raise InvalidRequest(str(why), field="source") from None


def stored_files(model: Model, files: Sequence[HubFile]) -> dict[str, int]:
    """Return the sizes of those files of a base that are kept here, by name."""
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
    """Pin a model to the files that were fetched of its base.

    Args:
        session: A writing transaction.
        store: Takes the blobs.
        model: The model.
        source: `hf://org/name@<commit>`.
        files: The files, by their sha256.
        folder: Holds the files that are kept here, named by their sha256, on the store's file system.
        limits: The quotas, of which more may be used by now.

    Raises:
        InvalidRequest: The namespace has no room.
        StorageFull, StorageFailed: The disk failed; roll back.
    """
    stored = stored_files(model, files)
    require_room(session, model, stored, limits)
    sizes = {file.name: file.size for file in files}
    for sha256, size in sorted(sizes.items()):  # one order, no deadlock
        if sha256 in stored:
            blobs.register(session, store, folder / sha256, sha256, size)
        else:
            blobs.refer(session, sha256, size)
    quotas.charge(session, model.namespace_id, stored)
    session.add_all(BaseFile(model_id=model.id, path=file.path, sha256=file.name) for file in files)
    model.source, model.size = source, sum(file.size for file in files)
    session.flush()


def remote(session: Session, model: Model) -> list[HubFile]:
    """Return the files of a base whose bytes are only at the Hub, by path."""
    rows = session.execute(
        select(BaseFile.path, Blob.size, Blob.sha256)
        .join(Blob, Blob.sha256 == BaseFile.sha256)
        .where(BaseFile.model_id == model.id, Blob.state == "remote")
        .order_by(BaseFile.path)
    )
    return [HubFile(path, size, sha256) for path, size, sha256 in rows]
