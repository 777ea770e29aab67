"""Evaluations: measured numbers of a base, patch revision, release or recipe, and which required ones are missing."""

import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, select, tuple_
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Evaluation, Model, PatchRevision, Release, after
from registry.errors import InvalidRequest
from registry.services.catalog import models, patches
from registry.services.composing import builds, snapshots
from registry.services.people import paging
from registry.services.people.actors import Actor, record

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
PATCH = re.compile(r"#?([0-9]{1,9})(?:\.([0-9]{1,9}))?")
Key = tuple[uuid.UUID | None, uuid.UUID | None, str | None]
Name = tuple[str, str, str]
NAME = Evaluation.task, Evaluation.dataset, Evaluation.metric
SUBJECT = Evaluation.revision_id, Evaluation.release_id, Evaluation.recipe_digest


@dataclass(frozen=True)
class NewEvaluation:
    """One measured number, in the terms of the Hub's evaluation results."""

    task: str
    dataset: str
    metric: str
    value: float
    higher_is_better: bool = True
    stderr: float | None = None
    source: str | None = None
    command: str | None = None
    tried: int | None = None

    @property
    def name(self) -> Name:
        """What was measured."""
        return self.task, self.dataset, self.metric

    @property
    def result(self) -> tuple[float, float | None, bool]:
        """What came out."""
        return self.value, self.stderr, self.higher_is_better


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
    (row,) = _add(session, actor, model, subject, [evaluation])
    return row, subject


def add_new(
    session: Session, actor: Actor, full_name: str, ref: str, evaluations: Sequence[NewEvaluation]
) -> tuple[list[Evaluation], list[Evaluation], Subject]:
    """Add those evaluations whose newest numbers by the caller are not the same already.

    Returns:
        Those that were added, those that were there, and what they are of.

    Raises:
        NotFound, InvalidRequest: As of `add`; or two evaluations have the same task, dataset and metric.
    """
    model = models.ready(session, full_name)
    subject = find_subject(session, actor, model, ref)
    twice = next((name for name, count in Counter(one.name for one in evaluations).items() if count > 1), None)
    if twice:
        raise InvalidRequest(f"{' / '.join(twice)} is there twice; give each metric of a task once.", field="scores")
    names = {one.name for one in evaluations}
    mine = is_of(subject.key), Evaluation.user_id == actor.user_id, tuple_(*NAME).in_(names)
    newest = {(row.task, row.dataset, row.metric): row for row in session.scalars(newest_of_each(model, and_(*mine)))}
    known = [row for one in evaluations if (row := newest.get(one.name)) and _result(row) == one.result]
    there = {(row.task, row.dataset, row.metric) for row in known}
    new = [one for one in evaluations if one.name not in there]
    return _add(session, actor, model, subject, new) if new else [], known, subject


def _add(
    session: Session, actor: Actor, model: Model, subject: Subject, evaluations: Sequence[NewEvaluation]
) -> list[Evaluation]:
    for one in evaluations:
        for field in ("task", "dataset", "metric"):  # a manifest holds them, and no control characters
            if CONTROLS.search(getattr(one, field)):
                raise InvalidRequest(
                    f"The {field} of an evaluation is one line without control characters.", field=field
                )
        if one.tried is not None and subject.recipe is None:
            raise InvalidRequest(
                f"{subject.name} is not a recipe, and only a recipe is chosen among tried ones; leave `tried` out.",
                field="tried",
            )
    at = session.scalar(of_subject(select(func.max(Evaluation.created_at)), model, subject))
    key = dict(zip((column.key for column in SUBJECT), subject.key, strict=True))
    rows = []
    for one in evaluations:
        at = after(at)
        rows.append(Evaluation(model_id=model.id, user_id=actor.user_id, created_at=at, **key, **vars(one)))
    session.add_all(rows)
    session.flush()
    first = evaluations[0]
    told = {"dataset": first.dataset, "metric": first.metric, "value": first.value}
    where = model.full_name + (subject.name if subject.revision else f"@{subject.name}")
    record(session, actor, "evaluation.add", where, model, after=told if len(rows) == 1 else {"count": len(rows)})
    return rows


def _result(row: Evaluation) -> tuple[float, float | None, bool]:
    return row.value, row.stderr, row.higher_is_better


def newest_of_each(model: Model, chosen: ColumnElement[bool]) -> Select[Evaluation]:
    """Return the query for the newest of the chosen evaluations of each metric of each subject."""
    newest_first = Evaluation.created_at.desc(), Evaluation.id.desc()
    place = func.row_number().over(partition_by=(*SUBJECT, *NAME), order_by=newest_first)
    ranked = select(Evaluation.id, place.label("place")).where(Evaluation.model_id == model.id, chosen).subquery()
    return (
        select(Evaluation)
        .join(ranked, and_(Evaluation.id == ranked.c.id, ranked.c.place == 1))
        .options(joinedload(Evaluation.user))
    )


def find_subject(session: Session, actor: Actor | None, model: Model, ref: str) -> Subject:
    """Return what `ref` of an evaluation stands for; 8 digits or more without # are those of a recipe."""
    if (match := PATCH.fullmatch(ref)) and not snapshots.PREFIX.fullmatch(ref):
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
    return and_(*(column == value for column, value in zip(SUBJECT, subject, strict=True)))  # == None is IS NULL


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
