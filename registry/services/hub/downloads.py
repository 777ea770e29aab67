"""Download counts of models: one complete GET of the file that every download includes counts as one.

That file is config.json, or the first weight file if there is none. The Hub counts in the same way.
"""

import uuid
from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import Model, ModelDownloads, now
from registry.files.folders import is_weights
from registry.services.composing.snapshots import Snapshot

RECENT = timedelta(days=30)
RENEWED_AT_ONCE = 500  # models in one transaction


def is_counted(snapshot: Snapshot, path: str) -> bool:
    """Say whether this is the file of a snapshot whose downloads are counted."""
    paths = [file.path for file in snapshot.files]
    counted = "config.json" if "config.json" in paths else next(filter(is_weights, paths), None)
    return path == counted


def count(session: Session, model_id: uuid.UUID) -> None:
    """Count one download."""
    today = now().date()
    row = (ModelDownloads.model_id == model_id, ModelDownloads.day == today)
    step = update(ModelDownloads).where(*row).values(count=ModelDownloads.count + 1)
    if session.execute(step).rowcount == 0:  # type: ignore[attr-defined]
        try:
            with session.begin_nested():
                session.add(ModelDownloads(model_id=model_id, day=today, count=1))
        except IntegrityError:  # another request counted the first one today
            session.execute(step)


def renew(database: Database) -> None:
    """Write the downloads of the last thirty days to the models where they have changed."""
    total = select(func.coalesce(func.sum(ModelDownloads.count), 0))
    total = total.where(ModelDownloads.model_id == Model.id, ModelDownloads.day > now().date() - RECENT)
    recent = total.scalar_subquery()
    with database.read() as session:
        changed = session.execute(select(Model.id, recent).where(Model.downloads_30d != recent)).all()
    for start in range(0, len(changed), RENEWED_AT_ONCE):
        rows = [{"id": key, "downloads_30d": count} for key, count in changed[start : start + RENEWED_AT_ONCE]]
        with database.write() as session:
            session.execute(update(Model), rows)


def totals(session: Session, models: Iterable[Model]) -> dict[uuid.UUID, tuple[int, int]]:
    """Return the downloads of models, of the last thirty days and in total, by the models' ids."""
    counts = {model.id: (0, 0) for model in models}
    lately = func.sum(ModelDownloads.count).filter(ModelDownloads.day > now().date() - RECENT)
    query = (
        select(ModelDownloads.model_id, func.coalesce(lately, 0), func.sum(ModelDownloads.count))
        .where(ModelDownloads.model_id.in_(counts))
        .group_by(ModelDownloads.model_id)
    )
    return counts | {model_id: (int(few), int(all_)) for model_id, few, all_ in session.execute(query)}
