"""Norms: whether a patch is unusually large or small for its model. A warning with the numbers, never a verdict.

The norm of a patch is compared with those of the model's accepted patches, on a logarithmic scale, by the median and
the median absolute deviation (MAD), which a few outliers among them do not move.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.breadcrumbs.comparing.hints import Hint, hints_of_patch
from registry.db.tables import Model, Patch, PatchRevision, PatchTensor

LEAST_PATCHES = 3  # accepted ones, with fewer of which nothing is compared
OUTLIER_DEVIATIONS = 4.0  # from the median, from which on a norm is worth a warning
LEAST_SPREAD = 0.1  # of natural logarithms, so that near-equal patches do not flag each other
MOST_NAMED = 5  # outliers of one summary
MOST_COMPARED = 200  # accepted patches with which a patch is compared, the newest ones
MOST_ROWS = 1_000_000  # tensors of them whose norms are read; of a patch of 70,000 tensors, those of 14 others


def check(session: Session, model: Model, revision: PatchRevision, tensors: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare the norms of a patch with those of the model's accepted patches, as a whole and tensor by tensor.

    Returns:
        `name`, `status` (pass or warn) and `summary`, like the other checks.
    """
    newest = (
        select(PatchRevision.id)
        .join(Patch, (Patch.id == PatchRevision.patch_id) & (Patch.revision == PatchRevision.number))
        .where(Patch.model_id == model.id, Patch.state == "accepted", PatchRevision.id != revision.id)
        .order_by(Patch.number.desc())
        .limit(max(LEAST_PATCHES, min(MOST_COMPARED, MOST_ROWS // max(1, len(tensors)))))
    )
    accepted = select(PatchTensor.name, PatchTensor.revision_id, PatchTensor.l2).where(
        PatchTensor.revision_id.in_(session.scalars(newest).all())
    )
    whole: dict[Any, float] = {}
    by_tensor: dict[str, list[float]] = {}
    for name, revision_id, l2 in session.execute(accepted):
        whole[revision_id] = whole.get(revision_id, 0.0) + l2 * l2
        by_tensor.setdefault(name, []).append(l2)
    if len(whole) < LEAST_PATCHES:
        summary = f"Not compared: {model.full_name} has {len(whole)} accepted patches, and {LEAST_PATCHES} are needed."
        return {"name": "norms", "status": "pass", "summary": summary}
    size = math.sqrt(sum(tensor["l2"] ** 2 for tensor in tensors))
    odd = [outlier_warning("the whole patch", size, [math.sqrt(square) for square in whole.values()])]
    odd += [
        outlier_warning(tensor["name"], tensor["l2"], by_tensor[tensor["name"]])
        for tensor in tensors
        if len(by_tensor.get(tensor["name"], ())) >= LEAST_PATCHES
    ]
    named = [text for text in odd if text]
    if not named:
        summary = f"L2 norm {size:.4g}, ordinary among {len(whole)} accepted patches."
        return {"name": "norms", "status": "pass", "summary": summary}
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return {"name": "norms", "status": "warn", "summary": "; ".join(named[:MOST_NAMED]) + more + "."}


def hints(session: Session, model: Model, revision: PatchRevision) -> list[Hint]:
    """Return the hints about a checked revision, which is compared with the newest of the model's accepted patches."""
    if revision.norm is None:
        return []
    query = (
        select(PatchRevision.norm)
        .join(Patch, (Patch.id == PatchRevision.patch_id) & (Patch.revision == PatchRevision.number))
        .where(Patch.model_id == model.id, Patch.state == "accepted", Patch.id != revision.patch_id)
        .order_by(Patch.number.desc())
        .limit(MOST_COMPARED)
    )
    name = str(revision.patch.number) + (f".{revision.number}" if revision.number != revision.patch.revision else "")
    others = [norm for norm in session.scalars(query) if norm is not None]
    return hints_of_patch(name, revision.norm, others, revision.rounding)


def outlier_warning(what: str, size: float, others: Sequence[float]) -> str | None:
    """Say how far a norm is from the median of others; None if it is not an outlier."""
    logs = [math.log(other) for other in others if other > 0]
    if size <= 0 or len(logs) < LEAST_PATCHES:
        return None
    middle = statistics.median(logs)
    spread = max(LEAST_SPREAD, 1.4826 * statistics.median(abs(log - middle) for log in logs))
    deviations = (math.log(size) - middle) / spread
    if abs(deviations) < OUTLIER_DEVIATIONS:
        return None
    return f"{what} has L2 norm {size:.4g}, {abs(deviations):.1f} deviations from the median {math.exp(middle):.4g}"
