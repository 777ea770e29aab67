"""Comparisons of evaluations: of the base, patches alone, recipes and releases, metric by metric."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Evaluation, Model, Patch, PatchRevision, RecipeItem, Release
from registry.services.catalog import patches
from registry.services.curation.evaluations import NAME, SUBJECT, Key, Subject, find_subject, newest_of_each
from registry.services.people.actors import Actor

MOST_CHOICES = 60  # subjects that are offered, those that were measured last
MOST_SUBJECTS = 20  # that are compared, besides the base
MOST_METRICS = 500
RELEASES, RECIPES, PATCHES = 3, 3, 6  # that are compared unless some are chosen, those that were measured last


@dataclass(frozen=True)
class MetricRow:
    """One metric, and the newest evaluation of each subject, in their order; None where there is none."""

    task: str
    dataset: str
    metric: str
    higher_is_better: bool
    found: tuple[Evaluation | None, ...]

    @property
    def best(self) -> list[int]:
        """The places of the best values; empty if there is nothing to compare."""
        values = {place: row.value for place, row in enumerate(self.found) if row is not None}
        if len(values) < 2:
            return []
        best = (max if self.higher_is_better else min)(values.values())
        return [place for place, value in values.items() if value == best]


def measured_subjects(session: Session, model: Model) -> list[Subject]:
    """Return what has evaluations, those that were measured last; patches and releases that are still there."""
    last = func.max(Evaluation.created_at)
    query = select(*SUBJECT).where(Evaluation.model_id == model.id).group_by(*SUBJECT)
    keys = session.execute(query.order_by(last.desc()).limit(MOST_CHOICES)).all()
    revisions: dict[uuid.UUID | None, PatchRevision] = {
        row.id: row
        for row in session.scalars(
            select(PatchRevision)
            .where(PatchRevision.id.in_([key.revision_id for key in keys if key.revision_id]))
            .options(joinedload(PatchRevision.patch))
        )
    }
    releases: dict[uuid.UUID | None, Release] = {
        row.id: row
        for row in session.scalars(
            select(Release).where(Release.id.in_([key.release_id for key in keys if key.release_id]))
        )
    }
    return [Subject(revisions.get(one), releases.get(two), recipe) for one, two, recipe in keys]


def choose(
    session: Session, actor: Actor | None, model: Model, refs: Sequence[str], offered: Sequence[Subject]
) -> list[Subject]:
    """Return the base and the subjects that some references name, in their order and each once.

    Unless patches are among them, those patches of the named recipes and releases follow the base that were measured
    alone. Without references: the newest of each kind that were measured, each patch at one revision.

    Args:
        session: A transaction.
        actor: The caller.
        model: The model.
        refs: `#3`, `3.2`, a version, a channel, digits of a recipe.
        offered: What `measured_subjects` returns.
    """
    if refs:
        by_name = {subject.name: subject for subject in offered}
        named = [by_name.get(ref) or find_subject(session, actor, model, ref) for ref in refs]
        if not any(one.revision for one in named):
            named = _measured_alone(session, model, named) + named
    else:
        by_number = {one.revision.patch.number: one for one in reversed(offered) if one.revision}
        newest = [one for one in offered if one.revision and by_number[one.revision.patch.number] is one]
        recipes, releases = ([one for one in offered if one.recipe], [one for one in offered if one.release])
        named = sorted(newest[:PATCHES], key=lambda one: one.revision.patch.number if one.revision else 0)
        named += recipes[:RECIPES][::-1]
        named += sorted(releases[:RELEASES], key=lambda one: one.release.sort if one.release else "")
    return list({subject.key: subject for subject in (Subject(), *named)}.values())


def _measured_alone(session: Session, model: Model, wholes: Sequence[Subject]) -> list[Subject]:
    """Return the patches in recipes and releases that have evaluations of their own, by number."""
    digests = {one.release.recipe_digest if one.release else one.recipe for one in wholes} - {None}
    query = patches.revisions().where(
        Patch.model_id == model.id,
        PatchRevision.sha256.in_(select(RecipeItem.sha256).where(RecipeItem.recipe_digest.in_(digests))),
        select(Evaluation.id).where(Evaluation.revision_id == PatchRevision.id).exists(),
    )
    rows = session.scalars(query.order_by(Patch.number, PatchRevision.number).limit(MOST_SUBJECTS))
    return [Subject(revision=row) for row in rows]


def compare(session: Session, model: Model, subjects: Sequence[Subject]) -> tuple[list[MetricRow], bool]:
    """Return the newest evaluations of some subjects, by task, dataset and metric, and whether there are more metrics.

    A release has those of its recipe, too, since its weights are the same. Whether higher is better is taken from the
    newest evaluation.
    """
    own = [_keys(subject) for subject in subjects]
    most = (MOST_METRICS + 1) * sum(map(len, own))  # so many are at least one metric more than are returned
    query = newest_of_each(model, _is_of_any(subjects)).order_by(*NAME, Evaluation.created_at.desc(), Evaluation.id)
    by_metric: dict[tuple[str, str, str], list[Evaluation]] = {}
    for row in session.scalars(query.limit(most)):
        by_metric.setdefault((row.task, row.dataset, row.metric), []).append(row)
    rows = [
        MetricRow(
            *name,
            found[0].higher_is_better,
            tuple(next((row for row in found if _key(row) in keys), None) for keys in own),
        )
        for name, found in by_metric.items()
    ]
    return rows[:MOST_METRICS], len(rows) > MOST_METRICS


def _keys(subject: Subject) -> set[Key]:
    """Return the keys of the evaluations that count for a subject."""
    return {subject.key, Subject(recipe=subject.release.recipe_digest).key} if subject.release else {subject.key}


def _key(row: Evaluation) -> Key:
    return row.revision_id, row.release_id, row.recipe_digest


def _is_of_any(subjects: Sequence[Subject]) -> ColumnElement[bool]:
    """Return the condition for the evaluations of some subjects, of which each has its index."""
    recipes = {subject.recipe for subject in subjects if subject.recipe}
    recipes |= {subject.release.recipe_digest for subject in subjects if subject.release}
    chosen: list[ColumnElement[bool]] = [
        Evaluation.revision_id.in_({subject.revision.id for subject in subjects if subject.revision}),
        Evaluation.release_id.in_({subject.release.id for subject in subjects if subject.release}),
        Evaluation.recipe_digest.in_(recipes),
    ]
    if Subject() in subjects:
        chosen.append(and_(*(column.is_(None) for column in SUBJECT)))
    return or_(*chosen)
