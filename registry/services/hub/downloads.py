"""How often models are downloaded: one whole GET of the one file that everybody fetches is one download.

That file is config.json, or the first weight file where there is none. The Hub counts in the same way.
"""

import uuid
from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.db.tables import Model, ModelDownloads, now
from registry.files.folders import is_weights
from registry.services.composing.snapshots import Snapshot

RECENT = timedelta(days=30)


def is_counted(snapshot: Snapshot, path: str) -> bool:
    """Say whether this is the file of a revision whose downloads are counted."""
    paths = [file.path for file in snapshot.files]
    counted = "config.json" if "config.json" in paths else next(filter(is_weights, paths), None)
    return path == counted


def count(session: Session, model_id: uuid.UUID) -> None:
    """Count one download."""
    today = now().date()
    here = (ModelDownloads.model_id == model_id, ModelDownloads.day == today)
    step = update(ModelDownloads).where(*here).values(count=ModelDownloads.count + 1)
    if session.execute(step).rowcount == 0:  # type: ignore[attr-defined]
        try:
            with session.begin_nested():
                session.add(ModelDownloads(model_id=model_id, day=today, count=1))
        except IntegrityError:  # another was first today
            session.execute(step)


def recent() -> ColumnElement[int]:
    """Return the expression for a model's downloads of the last thirty days, among models."""
    since = now().date() - RECENT
    total = select(func.coalesce(func.sum(ModelDownloads.count), 0))
    return total.where(ModelDownloads.model_id == Model.id, ModelDownloads.day > since).scalar_subquery()


def totals(session: Session, models: Iterable[Model]) -> dict[uuid.UUID, tuple[int, int]]:
    """Return the downloads of models, of the last thirty days and of all, by the models' ids."""
    found = {model.id: (0, 0) for model in models}
    lately = func.sum(ModelDownloads.count).filter(ModelDownloads.day > now().date() - RECENT)
    query = (
        select(ModelDownloads.model_id, func.coalesce(lately, 0), func.sum(ModelDownloads.count))
        .where(ModelDownloads.model_id.in_(found))
        .group_by(ModelDownloads.model_id)
    )
    return found | {model_id: (int(few), int(all_)) for model_id, few, all_ in session.execute(query)}
