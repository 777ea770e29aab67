"""What was measured of a few things, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Evaluation, Model
from registry.services.curation.evaluations import Subject

MOST = 1000  # measurements that are looked at; the newest


@dataclass(frozen=True)
class Measure:
    """One metric, and the newest measurement of each subject, in their order; None where there is none."""

    task: str
    dataset: str
    metric: str
    higher_is_better: bool
    found: tuple[Evaluation | None, ...]


def of(session: Session, model: Model, subjects: Sequence[Subject | None]) -> list[Measure]:
    """Return all that was measured of some subjects, by dataset and metric; nothing is known of None.

    Whether higher is better is what the newest measurement says.
    """
    columns = Evaluation.revision_id, Evaluation.release_id
    keys = [
        (s.revision.id if s.revision else None, s.release.id if s.release else None) if s else None for s in subjects
    ]
    wanted = [
        and_(columns[0].is_not_distinct_from(a), columns[1].is_not_distinct_from(b)) for a, b in filter(None, keys)
    ]
    query = select(Evaluation).where(Evaluation.model_id == model.id, or_(False, *wanted))
    newest = query.order_by(Evaluation.created_at.desc(), Evaluation.id.desc()).limit(MOST)
    found: dict[tuple[str, str, str], dict[tuple[object, object], Evaluation]] = {}
    for row in session.scalars(newest.options(joinedload(Evaluation.user))):
        by_key = found.setdefault((row.dataset, row.metric, row.task), {})
        by_key.setdefault((row.revision_id, row.release_id), row)
    return [
        Measure(
            task,
            dataset,
            metric,
            next(iter(by_key.values())).higher_is_better,
            tuple(by_key.get(key) if key else None for key in keys),
        )
        for (dataset, metric, task), by_key in sorted(found.items())
    ]
