"""Measured numbers: of a base, of a patch revision, of a release; and whether those that a model asks for are there."""

import re
import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Evaluation, Model, PatchRevision, Release
from registry.errors import InvalidRequest
from registry.services.catalog import models, patches
from registry.services.composing import snapshots
from registry.services.people.actors import Actor, record

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
PATCH = re.compile(r"#([0-9]{1,9})(?:\.([0-9]{1,9}))?")


@dataclass(frozen=True)
class NewEvaluation:
    """One number, in the terms of the Hub's evaluation results."""

    task: str
    dataset: str
    metric: str
    value: float
    higher_is_better: bool = True
    source: str | None = None
    command: str | None = None


@dataclass(frozen=True)
class Subject:
    """What was measured: the base when neither a patch revision nor a release."""

    revision: PatchRevision | None = None
    release: Release | None = None

    @property
    def name(self) -> str:
        """`base`, `#12.2` or `1.2.0`."""
        if self.revision is not None:
            return f"#{self.revision.patch.number}.{self.revision.number}"
        return self.release.version if self.release is not None else "base"


def add(session: Session, actor: Actor, full_name: str, ref: str, given: NewEvaluation) -> tuple[Evaluation, Subject]:
    """Record a number as measured by somebody.

    Raises:
        NotFound: there is no such patch, release or channel.
        InvalidRequest: the reference stands for a recipe that is no release, or a name has control characters.
    """
    model = models.ready(session, full_name)
    subject = find_subject(session, actor, model, ref)
    for name in ("task", "dataset", "metric"):  # in the manifest of a release, which holds no controls
        if CONTROLS.search(getattr(given, name)):
            raise InvalidRequest(f"The {name} of a measurement is one line, without control characters.", field=name)
    row = Evaluation(
        model_id=model.id,
        revision_id=subject.revision.id if subject.revision else None,
        release_id=subject.release.id if subject.release else None,
        user_id=actor.user_id,
        **vars(given),
    )
    session.add(row)
    session.flush()
    where = full_name + (subject.name if subject.revision else f"@{subject.name}")
    after = {"dataset": given.dataset, "metric": given.metric, "value": given.value}
    record(session, actor, "evaluation.add", where, model, after=after)
    return row, subject


def find_subject(session: Session, actor: Actor | None, model: Model, ref: str) -> Subject:
    """Return what a reference to something measured stands for."""
    if found := PATCH.fullmatch(ref):
        number, revision = int(found[1]), int(found[2]) if found[2] else None
        return Subject(revision=patches.find(session, model.full_name, number, revision))
    if snapshots.VERSION.fullmatch(ref):  # one that is not composed yet may be measured elsewhere
        return Subject(release=snapshots.find_release(session, model, ref))
    found_revision = snapshots.find(session, actor, model, ref)
    if found_revision.recipe is not None and found_revision.release is None:
        raise InvalidRequest(
            f"{ref} is a recipe and no release; measure base, a patch like #12, a version or a channel.", field="ref"
        )
    return Subject(release=found_revision.release)


def evaluations_of(session: Session, model: Model, subject: Subject) -> Sequence[Evaluation]:
    """Return all that was measured of something, oldest first."""
    query = select(Evaluation).where(Evaluation.model_id == model.id).options(joinedload(Evaluation.user))
    if subject.revision is not None:
        query = query.where(Evaluation.revision_id == subject.revision.id)
    elif subject.release is not None:
        query = query.where(Evaluation.release_id == subject.release.id)
    else:
        query = query.where(Evaluation.revision_id.is_(None), Evaluation.release_id.is_(None))
    return session.scalars(query.order_by(Evaluation.created_at, Evaluation.id)).all()


def listing(
    session: Session, model: Model, after: uuid.UUID | None, limit: int
) -> tuple[list[tuple[Evaluation, Subject]], str | None]:
    """Return a page of all that was measured in a model, by key, and the cursor of the next page."""
    query = (
        select(Evaluation)
        .where(Evaluation.model_id == model.id)
        .options(joinedload(Evaluation.user), joinedload(Evaluation.revision).joinedload(PatchRevision.patch))
        .order_by(Evaluation.id)
    )
    if after is not None:
        query = query.where(Evaluation.id > after)
    found = list(session.scalars(query.limit(limit + 1)))
    releases = {
        release.id: release
        for release in session.scalars(
            select(Release).where(Release.id.in_({row.release_id for row in found if row.release_id}))
        )
    }
    page = [(row, Subject(row.revision, releases[row.release_id] if row.release_id else None)) for row in found[:limit]]
    return page, str(found[limit - 1].id) if len(found) > limit else None


def missing(
    session: Session, model: Model, *, revision: PatchRevision | None = None, release: Release | None = None
) -> list[str]:
    """Return a sentence for each measurement (`dataset:metric`) that the model asks for and is not there."""
    if not model.required_evaluations:
        return []
    return missing_among(
        model, {f"{row.dataset}:{row.metric}" for row in evaluations_of(session, model, Subject(revision, release))}
    )


def recorded(session: Session, query: Select[*tuple[Any, ...]]) -> dict[uuid.UUID, set[str]]:
    """Return what was measured (`dataset:metric`), by subject, given a query for the subject's key and these two."""
    found: dict[uuid.UUID, set[str]] = defaultdict(set)
    for key, dataset, metric in session.execute(query):
        found[key].add(f"{dataset}:{metric}")
    return found


def missing_among(model: Model, there: Collection[str]) -> list[str]:
    """Return a sentence for each measurement (`dataset:metric`) that a model asks for and is not among those there."""
    return [f"The evaluation {name} is not there." for name in model.required_evaluations if name not in there]


MOST_COMPARED = 1000  # evaluations that are looked at, newest first


@dataclass(frozen=True)
class MetricRow:
    """One metric, and the newest measurement of each subject, in their order; None where there is none."""

    task: str
    dataset: str
    metric: str
    higher_is_better: bool
    found: tuple[Evaluation | None, ...]


def compare_subjects(session: Session, model: Model, subjects: Sequence[Subject | None]) -> list[MetricRow]:
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
    newest = query.order_by(Evaluation.created_at.desc(), Evaluation.id.desc()).limit(MOST_COMPARED)
    found: dict[tuple[str, str, str], dict[tuple[object, object], Evaluation]] = {}
    for row in session.scalars(newest.options(joinedload(Evaluation.user))):
        by_key = found.setdefault((row.dataset, row.metric, row.task), {})
        by_key.setdefault((row.revision_id, row.release_id), row)
    return [
        MetricRow(
            task,
            dataset,
            metric,
            next(iter(by_key.values())).higher_is_better,
            tuple(by_key.get(key) if key else None for key in keys),
        )
        for (dataset, metric, task), by_key in sorted(found.items())
    ]
