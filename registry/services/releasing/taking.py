"""Files that releases take from their patches, in place of the base's or beside them.

They are chosen when a release is cut, and held by rows of `release_files`, so that a candidate has them as the release
will. The weights do not change by them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.db.tables import BaseFile, Blob, Model, Patch, PatchRevision, Release, ReleaseFile, RevisionFile
from registry.documents import commits
from registry.errors import InvalidRequest
from registry.files.folders import require_one_folder
from registry.services.catalog import beside, patches
from registry.services.composing import compositions

MOST_OFFERS = 100  # patches that a form offers files of
LOOKED_AT = 200  # newest accepted patches among which offers are looked for


@dataclass(frozen=True)
class TakenFile:
    """A file that a release takes, and the revision of the patch that it came with."""

    path: str
    sha256: str
    size: int
    number: int
    revision: int
    revision_id: UUID


@dataclass(frozen=True)
class Offer:
    """An accepted patch that files came with."""

    revision: PatchRevision
    paths: Sequence[str]


def choose(
    session: Session,
    model: Model,
    revisions: Mapping[int, PatchRevision],
    numbers: Sequence[int] | None,
    start: Release | None,
) -> dict[str, TakenFile]:
    """Return the files that a release takes, by path.

    Args:
        session: A transaction.
        model: The model.
        revisions: The patches of the release by their numbers.
        numbers: Those whose files are taken; None for what the release to start from took of them.
        start: The release to start from.

    Raises:
        InvalidRequest: A patch is not in the release, or no files came with it; or two patches have different bytes for
            one path.
    """
    found = inherited(session, revisions, start) if numbers is None and start is not None else []
    for number in numbers or ():
        if (revision := revisions.get(number)) is None:
            raise InvalidRequest(
                f"Patch #{number} is not in this release; files of a patch are taken together with its weights.",
                field="files_of",
            )
        files = beside.files_of(session, revision)
        if not files:
            raise InvalidRequest(f"No files came with #{number}.{revision.number}.", field="files_of")
        found += [taken(file, revision) for file in files]
    chosen: dict[str, TakenFile] = {}
    for file in found:
        other = chosen.setdefault(file.path, file)
        if other.sha256 != file.sha256:
            raise InvalidRequest(
                f"#{other.number} and #{file.number} have different files {file.path}; take those of one of them.",
                field="files_of",
            )
    base = session.scalars(select(BaseFile.path).where(BaseFile.model_id == model.id)).all()
    require_one_folder([*dict.fromkeys([*base, *chosen])])
    return chosen


def taken(file: RevisionFile, revision: PatchRevision) -> TakenFile:
    """Return a file of a revision as one that a release takes."""
    return TakenFile(file.path, file.sha256, file.size, revision.patch.number, revision.number, revision.id)


def inherited(session: Session, revisions: Mapping[int, PatchRevision], start: Release) -> list[TakenFile]:
    """Return what a release took of the revisions that another one has, too."""
    held = {revision.id for revision in revisions.values()}
    return [file for file in taken_by(session, [start])[start.id] if file.revision_id in held]


def taken_by(session: Session, releases: Sequence[Release]) -> dict[UUID, list[TakenFile]]:
    """Return the files that releases took, by release and path."""
    query = (
        select(
            ReleaseFile.release_id,
            ReleaseFile.path,
            ReleaseFile.sha256,
            Blob.size,
            Patch.number,
            PatchRevision.number,
            PatchRevision.id,
        )
        .join(Blob, Blob.sha256 == ReleaseFile.sha256)
        .join(PatchRevision, PatchRevision.id == ReleaseFile.revision_id)
        .join(Patch, Patch.id == PatchRevision.patch_id)
        .where(ReleaseFile.release_id.in_([release.id for release in releases]))
        .order_by(ReleaseFile.path)
    )
    files: dict[UUID, list[TakenFile]] = defaultdict(list)
    for release_id, path, sha256, size, number, revision, revision_id in session.execute(query):
        files[release_id].append(TakenFile(path, sha256, size, number, revision, revision_id))
    return files


def replace(session: Session, release: Release, files: Mapping[str, TakenFile]) -> None:
    """Have a release that is not published take these files, and no others."""
    session.execute(delete(ReleaseFile).where(ReleaseFile.release_id == release.id))
    session.add_all(
        ReleaseFile(release_id=release.id, path=path, sha256=file.sha256, revision_id=file.revision_id)
        for path, file in sorted(files.items())
    )
    session.flush()


def commit_of(session: Session, model: Model, release: Release) -> str | None:
    """Return the commit id of a candidate that takes files; None for one whose files are its composition's."""
    files = taken_by(session, [release])[release.id]
    composition = compositions.composition_of(session, model, release.recipe_digest) if files else None
    if composition is None:
        return None
    composed = {file.path: file.sha256 for file in composition.files}
    return commits.commit_id(composed | {file.path: file.sha256 for file in files})


def offers(session: Session, model: Model, numbers: Sequence[int] | None = None) -> list[Offer]:
    """Return those of the newest accepted patches of a model that files came with, or those among some patches."""
    having = select(RevisionFile.revision_id).where(RevisionFile.revision_id == PatchRevision.id).exists()
    accepted = Patch.model_id == model.id, Patch.state == "accepted"
    query = patches.current().where(*accepted, having)
    if numbers is not None:
        query = query.where(Patch.number.in_(numbers))
    else:
        newest = select(Patch.id).where(*accepted).order_by(Patch.number.desc()).limit(LOOKED_AT).subquery()
        query = query.where(Patch.id.in_(select(newest.c.id)))
    rows = session.scalars(query.order_by(Patch.number.desc()).limit(MOST_OFFERS)).all()
    paths: dict[UUID, list[str]] = defaultdict(list)
    listed = select(RevisionFile.revision_id, RevisionFile.path).order_by(RevisionFile.path)
    for revision_id, path in session.execute(listed.where(RevisionFile.revision_id.in_([row.id for row in rows]))):
        paths[revision_id].append(path)
    return [Offer(row, paths[row.id]) for row in rows]
