"""From rows to the shapes on the wire: where patches meet, and what a recipe would be."""

from collections.abc import Mapping

from registry import schemas
from registry.db.tables import PatchRevision
from registry.server.views import models as model_views
from registry.services.composing.conflicts import KnownConflicts
from registry.services.composing.previews import Preview


def name(row: PatchRevision) -> schemas.PatchName:
    """Show a patch in a few words."""
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
    """Show where two patches meet."""
    by_tensor = None if tensors is None else {tensor: overlap(sums) for tensor, sums in tensors.items()}
    return schemas.ConflictPair(first=name(first), second=name(second), whole=overlap(whole), tensors=by_tensor)


def overlap(sums: object) -> schemas.Overlap:
    """Show sums, and what follows from them."""
    return schemas.Overlap.model_validate(sums)


def conflicts(found: KnownConflicts) -> schemas.Conflicts:
    """Show where patches meet, each with each."""
    return schemas.Conflicts(
        patches=[name(row) for row in found.revisions],
        source=found.source,
        pairs=[pair(*known) for known in found.pairs],
        missing=found.missing,
        census=found.touched,
        tensors=found.census,
        energy=found.energy,
        job=model_views.job(found.job) if found.job else None,
    )


def preview(found: Preview) -> schemas.Preview:
    """Show what a recipe would be."""
    return schemas.Preview(
        recipe=found.recipe.digest,
        alpha=found.recipe.alpha,
        composed=found.weights_digest is not None,
        weights_digest=found.weights_digest,
        patches=[
            schemas.PreviewItem(
                sha256=row.sha256,
                weight=weight,
                number=row.patch.number,
                revision=row.number,
                title=row.title,
                author=row.patch.author.name,
                license=row.license,
                state=row.patch.state,
                size=row.size,
                warnings=warnings,
            )
            for row, weight, warnings in found.patches
        ],
        warnings=found.warnings,
        patch_bytes=sum(row.size for row, _, _ in found.patches),
        model_bytes=found.model_bytes,
        touched=found.touched,
        conflicts=conflicts(found.conflicts),
    )
