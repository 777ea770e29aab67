"""Views of conflict analysis: where the patches of a model meet, as pairs and as a set."""

from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Model, PatchRevision
from registry.server.views import jobs as job_views
from registry.services.composing import conflict_sums, conflicts
from registry.services.composing.conflicts import KnownConflicts
from registry.services.people.actors import Actor

MOST = conflicts.MOST_PATCHES  # patches that are compared at once
Ref = tuple[int, int | None]


def patch_name(row: PatchRevision) -> schemas.PatchName:
    """Return a patch in a few words."""
    return schemas.PatchName(
        number=row.patch.number,
        revision=row.number,
        title=row.title,
        author=row.patch.author.name,
        state=row.patch.state,
    )


def pair(
    first: PatchRevision, second: PatchRevision, whole: object, tensors: Mapping[str, object] | None = None
) -> schemas.ConflictPair:
    """Return the shape of the conflicts of two patches."""
    by_tensor = None if tensors is None else {tensor: overlap(sums) for tensor, sums in tensors.items()}
    return schemas.ConflictPair(
        first=patch_name(first), second=patch_name(second), whole=overlap(whole), tensors=by_tensor
    )


def overlap(sums: object) -> schemas.Overlap:
    """Return sums over the weights of two patches, and the metrics that follow from them."""
    return schemas.Overlap.model_validate(sums)


def conflicts_among(known: KnownConflicts) -> schemas.Conflicts:
    """Return the shape of the known conflicts among patches."""
    return schemas.Conflicts(
        patches=[patch_name(row) for row in known.revisions],
        source=known.source,
        pairs=[pair(*found) for found in known.pairs],
        missing=known.missing,
        census=known.touched,
        tensors=known.census,
        energy=known.energy,
        job=job_views.job(known.job) if known.job else None,
    )


def choose(
    session: Session, actor: Actor | None, model: Model, refs: Sequence[Ref]
) -> tuple[list[PatchRevision], str | None]:
    """Return the rows of the patches to compare, for other views, and where they come from if none are named."""
    return conflicts.choose(session, actor, model, refs)


def known_conflicts(
    session: Session, model: Model, rows: Sequence[PatchRevision], source: str | None = None
) -> schemas.Conflicts:
    """Return the known conflicts among patches, and the job that computes the others."""
    return conflicts_among(conflicts.known_conflicts(session, model, rows, source))


def squares(session: Session, rows: Sequence[PatchRevision]) -> dict[str, list[float]]:
    """Return the squared norm of each patch, tensor by tensor."""
    return conflict_sums.squares(session, rows)


def show_pair(session: Session, actor: Actor | None, model: Model, first: Ref, second: Ref) -> schemas.ConflictPair:
    """Return the conflicts of two patches, tensor by tensor.

    Raises:
        NotFound: A patch does not exist, or the pair has not been computed.
    """
    return pair(*conflicts.pair(session, actor, model, first, second))


def pairs_of_patch(
    session: Session, actor: Actor | None, model: Model, row: PatchRevision, limit: int
) -> list[schemas.ConflictPair]:
    """Return the known conflicts of a patch with others of its model, the newest patches first."""
    found = conflicts.conflicts_of_patch(session, actor, model, row, limit)
    return [pair(row, other, sums) for other, sums in found]
