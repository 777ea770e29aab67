"""Files beside a patch's weights: sent with a revision, fixed with it, and offered to releases."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.db.tables import BaseFile, Blob, Model, PatchRevision, RevisionFile
from registry.errors import EntryNotFound, InvalidRequest
from registry.files import beside

CHECK = "files"
"""The name of the check of these files."""


def named_once(files: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the digests of files by their paths.

    Raises:
        InvalidRequest: A path is named twice.
    """
    by_path = dict(files)
    if len(by_path) < len(files):
        twice = next(path for path, _ in files if sum(path == other for other, _ in files) > 1)
        raise InvalidRequest(f"The file {twice} is named twice.", field="files")
    return by_path


def check(session: Session, model: Model, sizes: Mapping[str, int]) -> None:
    """Refuse files, by path, that cannot come with a patch of a model.

    Raises:
        InvalidRequest: As for `registry.files.beside.check_files`.
    """
    beside.check_files(sizes, session.scalars(select(BaseFile.path).where(BaseFile.model_id == model.id)).all())


def add(session: Session, revision: PatchRevision, files: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    """Add files (path -> sha256) to a new revision; their bytes are leased, and the quota is charged."""
    session.add_all(
        RevisionFile(revision_id=revision.id, path=path, sha256=sha256, size=sizes[sha256])
        for path, sha256 in sorted(files.items())
    )
    session.flush()


def files_of(session: Session, revision: PatchRevision) -> Sequence[RevisionFile]:
    """Return the files that came with a revision, by path."""
    query = select(RevisionFile).where(RevisionFile.revision_id == revision.id)
    return session.scalars(query.order_by(RevisionFile.path)).all()


def find(session: Session, revision: PatchRevision, path: str) -> Blob:
    """Return the blob of a file that came with a revision.

    Raises:
        EntryNotFound: No such file came with it.
    """
    query = select(Blob).join(RevisionFile, RevisionFile.sha256 == Blob.sha256)
    blob = session.scalar(query.where(RevisionFile.revision_id == revision.id, RevisionFile.path == path))
    if blob is None:
        raise EntryNotFound(f"No file {path!r} came with #{revision.patch.number}.{revision.number}.")
    return blob


def finish_check(session: Session, revision: PatchRevision, found: Mapping[str, Any]) -> None:
    """Record in which keys files differ from those of the base, as a worker found them: {path: keys}."""
    for file in files_of(session, revision):
        file.keys = found.get(file.path)
    session.flush()


def let_go(session: Session, revision: PatchRevision) -> None:
    """Delete the files of a refused revision; the caller recounts the quota."""
    session.execute(delete(RevisionFile).where(RevisionFile.revision_id == revision.id))
