"""Evaluations: measured numbers of a base, patch revision, release or recipe, and which required ones are missing."""

import re
import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, tuple_
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Evaluation, Model, PatchRevision, Release, after
from registry.errors import InvalidRequest
from registry.services.catalog import models, patches
from registry.services.composing import builds, snapshots
from registry.services.people import paging
from registry.services.people.actors import Actor, record

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
PATCH = re.compile(r"#([0-9]{1,9})(?:\.([0-9]{1,9}))?")
SUBJECT = Evaluation.revision_id, Evaluation.release_id, Evaluation.recipe_digest


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
    tried: int | None = None


Key = tuple[uuid.UUID | None, uuid.UUID | None, str | None]


@dataclass(frozen=True)
class Subject:
    """What was measured: a patch revision, a release, a recipe by its digest, or the base if none is given."""

    revision: PatchRevision | None = None
    release: Release | None = None
    recipe: str | None = None

    @property
    def name(self) -> str:
        """`base`, `#12.2`, `1.2.0` or the digest of a recipe."""
        if self.revision is not None:
            return f"#{self.revision.patch.number}.{self.revision.number}"
        return self.release.version if self.release is not None else self.recipe or "base"

    @property
    def key(self) -> Key:
        """The columns SUBJECT of its evaluations."""
        return (
            self.revision.id if self.revision is not None else None,
            self.release.id if self.release is not None else None,
            self.recipe,
        )


def add(
    session: Session, actor: Actor, full_name: str, ref: str, evaluation: NewEvaluation
) -> tuple[Evaluation, Subject]:
    """Add an evaluation by the caller.

    Raises:
        NotFound: No such patch, release or channel exists, or the recipe was never composed.
        InvalidRequest: A name has control characters, or `tried` is given for what is not a recipe.
    """
    model = models.ready(session, full_name)
    subject = find_subject(session, actor, model, ref)
    for name in ("task", "dataset", "metric"):  # a manifest holds them, and no control characters
        if CONTROLS.search(getattr(evaluation, name)):
            raise InvalidRequest(f"The {name} of an evaluation is one line without control characters.", field=name)
    if evaluation.tried is not None and subject.recipe is None:
        raise InvalidRequest(
            f"{subject.name} is not a recipe, and only a recipe is chosen among tried ones; leave `tried` out.",
            field="tried",
        )
    revision_id, release_id, recipe_digest = subject.key
    row = Evaluation(
        model_id=model.id,
        revision_id=revision_id,
        release_id=release_id,
        recipe_digest=recipe_digest,
        user_id=actor.user_id,
        **vars(evaluation),
    )
    same = [getattr(Evaluation, name) == getattr(evaluation, name) for name in ("task", "dataset", "metric")]
    newest = of_subject(select(func.max(Evaluation.created_at)).where(*same), model, subject)
    row.created_at = after(session.scalar(newest))
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
    if (prefix := snapshots.PREFIX.fullmatch(ref)) and (digest := builds.find_recipe(session, model, prefix[1])):
        return Subject(recipe=digest)  # also one whose composition was deleted
    snapshot = snapshots.find(session, actor, model, ref)
    if snapshot.release_id is not None:
        return Subject(release=session.get(Release, snapshot.release_id))
    return Subject(recipe=snapshot.recipe_digest)


def evaluations_of(session: Session, model: Model, subject: Subject, newest: int | None = None) -> Sequence[Evaluation]:
    """Return all evaluations of a subject, or so many of the newest, oldest first."""
    query = of_subject(select(Evaluation), model, subject).options(joinedload(Evaluation.user))
    order = Evaluation.created_at.desc(), Evaluation.id.desc()
    return session.scalars(query.order_by(*order).limit(newest)).all()[::-1]


def of_subject(query: Any, model: Model, subject: Subject) -> Any:
    """Restrict a query for evaluations to those of a subject."""
    return query.where(Evaluation.model_id == model.id, is_of(subject.key))


def is_of(subject: Key) -> ColumnElement[bool]:
    """Return the condition for the evaluations of a subject."""
    return and_(*(column.is_not_distinct_from(value) for column, value in zip(SUBJECT, subject, strict=True)))


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
    releases: dict[uuid.UUID | None, Release] = {
        release.id: release
        for release in session.scalars(
            select(Release).where(Release.id.in_({row.release_id for row in rows if row.release_id}))
        )
    }
    return [(row, Subject(row.revision, releases.get(row.release_id), row.recipe_digest)) for row in rows], cursor


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


def compare_subjects(session: Session, model: Model, subjects: Sequence[Subject]) -> list[MetricRow]:
    """Return the evaluations of some subjects, by dataset and metric.

    Whether higher is better is taken from the newest evaluation.
    """
    keys = [subject.key for subject in subjects]
    query = select(Evaluation).where(Evaluation.model_id == model.id, or_(False, *map(is_of, keys)))
    newest = query.order_by(Evaluation.created_at.desc(), Evaluation.id.desc()).limit(MOST_COMPARED)
    by_metric: dict[tuple[str, str, str], dict[Key, Evaluation]] = {}
    for row in session.scalars(newest.options(joinedload(Evaluation.user))):
        by_subject = by_metric.setdefault((row.dataset, row.metric, row.task), {})
        by_subject.setdefault((row.revision_id, row.release_id, row.recipe_digest), row)
    return [
        MetricRow(
            task,
            dataset,
            metric,
            next(iter(by_subject.values())).higher_is_better,
            tuple(by_subject.get(key) for key in keys),
        )
        for (dataset, metric, task), by_subject in sorted(by_metric.items())
    ]
