"""Evaluations: measured numbers of a base, a patch revision or a release, and which required ones are missing."""

import re
import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, tuple_
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Evaluation, Model, PatchRevision, Release, after
from registry.errors import InvalidRequest
from registry.services.catalog import models, patches
from registry.services.composing import snapshots
from registry.services.people import paging
from registry.services.people.actors import Actor, record

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
PATCH = re.compile(r"#([0-9]{1,9})(?:\.([0-9]{1,9}))?")


@dataclass(frozen=True)
class NewEvaluation:
    """One measured number, in the terms of the Hub's evaluation results."""

    task: str
    dataset: str
    metric: str
    value: float
    higher_is_better: bool = True
    source: str | None = None
    command: str | None = None


@dataclass(frozen=True)
class Subject:
    """What was measured: a patch revision, a release, or the base if neither is given."""

    revision: PatchRevision | None = None
    release: Release | None = None

    @property
    def name(self) -> str:
        """`base`, `#12.2` or `1.2.0`."""
        if self.revision is not None:
            return f"#{self.revision.patch.number}.{self.revision.number}"
        return self.release.version if self.release is not None else "base"


def add(
    session: Session, actor: Actor, full_name: str, ref: str, evaluation: NewEvaluation
) -> tuple[Evaluation, Subject]:
    """Add an evaluation by the caller.

    Raises:
        NotFound: No such patch, release or channel exists.
        InvalidRequest: `ref` is a recipe that is not a release, or a name has control characters.
    """
    model = models.ready(session, full_name)
    subject = find_subject(session, actor, model, ref)
    for name in ("task", "dataset", "metric"):  # a manifest holds them, and no control characters
        if CONTROLS.search(getattr(evaluation, name)):
            raise InvalidRequest(f"The {name} of an evaluation is one line without control characters.", field=name)
    row = Evaluation(
        model_id=model.id,
        revision_id=subject.revision.id if subject.revision else None,
        release_id=subject.release.id if subject.release else None,
        user_id=actor.user_id,
        **vars(evaluation),
    )
    same = [getattr(Evaluation, name) == getattr(row, name) for name in ("model_id", "revision_id", "release_id")]
    same += [getattr(Evaluation, name) == getattr(row, name) for name in ("task", "dataset", "metric")]
    row.created_at = after(session.scalar(select(func.max(Evaluation.created_at)).where(*same)))
    session.add(row)
    session.flush()
    where = full_name + (subject.name if subject.revision else f"@{subject.name}")
    told = {"dataset": evaluation.dataset, "metric": evaluation.metric, "value": evaluation.value}
    record(session, actor, "evaluation.add", where, model, after=told)
    return row, subject


def find_subject(session: Session, actor: Actor | None, model: Model, ref: str) -> Subject:
    """Return what `ref` of an evaluation stands for."""
    if match := PATCH.fullmatch(ref):
        number, revision = int(match[1]), int(match[2]) if match[2] else None
        return Subject(revision=patches.find(session, model.full_name, number, revision))
    if snapshots.VERSION.fullmatch(ref):  # also one that is not composed yet: it may be measured elsewhere
        return Subject(release=snapshots.find_release(session, model, ref))
    snapshot = snapshots.find(session, actor, model, ref)
    if snapshot.recipe_digest is not None and snapshot.release_id is None:
        raise InvalidRequest(
            f"{ref} is a recipe, not a release; name base, a patch like #12, a version or a channel.", field="ref"
        )
    return Subject(release=session.get(Release, snapshot.release_id) if snapshot.release_id else None)


def evaluations_of(session: Session, model: Model, subject: Subject, newest: int | None = None) -> Sequence[Evaluation]:
    """Return all evaluations of a subject, or so many of the newest, oldest first."""
    query = of_subject(select(Evaluation), model, subject).options(joinedload(Evaluation.user))
    order = Evaluation.created_at.desc(), Evaluation.id.desc()
    return session.scalars(query.order_by(*order).limit(newest)).all()[::-1]


def of_subject(query: Any, model: Model, subject: Subject) -> Any:
    """Restrict a query for evaluations to those of a subject."""
    return query.where(
        Evaluation.model_id == model.id,
        Evaluation.revision_id.is_not_distinct_from(subject.revision and subject.revision.id),
        Evaluation.release_id.is_not_distinct_from(subject.release and subject.release.id),
    )


def listing(
    session: Session, model: Model, subject: Subject | None, after: uuid.UUID | None, limit: int
) -> tuple[list[tuple[Evaluation, Subject]], str | None]:
    """Return a page of a subject's evaluations by time or (None) a model's by key, and the cursor of the next page."""
    query = (
        select(Evaluation)
        .where(Evaluation.model_id == model.id)
        .options(joinedload(Evaluation.user), joinedload(Evaluation.revision).joinedload(PatchRevision.patch))
    )
    order = (Evaluation.id,) if subject is None else (Evaluation.created_at, Evaluation.id)
    if subject is not None:
        query = of_subject(query, model, subject)
    if after is not None:
        last = [select(column).where(Evaluation.id == after).scalar_subquery() for column in order[:-1]]
        query = query.where(tuple_(*order) > tuple_(*last, after))
    query = query.order_by(*order)
    rows, cursor = paging.cut(session.scalars(query.limit(limit + 1)).all(), limit, lambda row: str(row.id))
    releases = {
        release.id: release
        for release in session.scalars(
            select(Release).where(Release.id.in_({row.release_id for row in rows if row.release_id}))
        )
    }
    page = [(row, Subject(row.revision, releases[row.release_id] if row.release_id else None)) for row in rows]
    return page, cursor


def missing(
    session: Session, model: Model, *, revision: PatchRevision | None = None, release: Release | None = None
) -> list[str]:
    """Return a sentence for each required evaluation (`dataset:metric`) that a revision or release is missing."""
    if not model.required_evaluations:
        return []
    names = of_subject(select(Evaluation.dataset, Evaluation.metric), model, Subject(revision, release)).distinct()
    return missing_among(model, {f"{dataset}:{metric}" for dataset, metric in session.execute(names)})


def recorded(session: Session, query: Select[*tuple[Any, ...]]) -> dict[uuid.UUID, set[str]]:
    """Return the evaluations (`dataset:metric`) by subject, given a query for the subject's key, dataset and metric."""
    by_subject: dict[uuid.UUID, set[str]] = defaultdict(set)
    for key, dataset, metric in session.execute(query):
        by_subject[key].add(f"{dataset}:{metric}")
    return by_subject


def missing_among(model: Model, recorded: Collection[str]) -> list[str]:
    """Return a sentence for each evaluation (`dataset:metric`) that a model requires and that is not recorded."""
    return [f"The evaluation {name} is missing." for name in model.required_evaluations if name not in recorded]


MOST_COMPARED = 1000  # evaluations, the newest


@dataclass(frozen=True)
class MetricRow:
    """One metric, and the newest evaluation of each subject, in their order; None where there is none."""

    task: str
    dataset: str
    metric: str
    higher_is_better: bool
    found: tuple[Evaluation | None, ...]


def compare_subjects(session: Session, model: Model, subjects: Sequence[Subject | None]) -> list[MetricRow]:
    """Return the evaluations of some subjects, by dataset and metric; there are none of a subject that is None.

    Whether higher is better is taken from the newest evaluation.
    """
    columns = Evaluation.revision_id, Evaluation.release_id
    keys = [
        (s.revision.id if s.revision else None, s.release.id if s.release else None) if s else None for s in subjects
    ]
    wanted = [
        and_(columns[0].is_not_distinct_from(a), columns[1].is_not_distinct_from(b)) for a, b in filter(None, keys)
    ]
    query = select(Evaluation).where(Evaluation.model_id == model.id, or_(False, *wanted))
    newest = query.order_by(Evaluation.created_at.desc(), Evaluation.id.desc()).limit(MOST_COMPARED)
    by_metric: dict[tuple[str, str, str], dict[tuple[object, object], Evaluation]] = {}
    for row in session.scalars(newest.options(joinedload(Evaluation.user))):
        by_subject = by_metric.setdefault((row.dataset, row.metric, row.task), {})
        by_subject.setdefault((row.revision_id, row.release_id), row)
    return [
        MetricRow(
            task,
            dataset,
            metric,
            next(iter(by_subject.values())).higher_is_better,
            tuple(by_subject.get(key) if key else None for key in keys),
        )
        for (dataset, metric, task), by_subject in sorted(by_metric.items())
    ]
