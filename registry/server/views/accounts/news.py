"""Views of news: mentions, and events in models that somebody watches."""

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.audit import newest_serial
from registry.db.tables import Model, now
from registry.services.curation import news
from registry.services.people.actors import Actor


def show(session: Session, actor: Actor) -> schemas.News:
    """Return what is new for the caller since they last looked."""
    at, serial = now(), newest_serial(session)
    return schemas.News(
        mentions=[
            schemas.Mentioned(model=row.patch.model.full_name, number=row.patch.number, by=row.by.name, at=row.at)
            for row in news.mentions(session, actor)
        ],
        events=[
            schemas.WatchedEvent(
                model=model.full_name, event=event.action, subject=event.subject, user=event.user_name, at=event.at
            )
            for event, model in news.events(session, actor)
        ],
        serial=serial,
        at=at,
    )


def watches(session: Session, actor: Actor | None, model: Model) -> bool:
    """Say whether somebody watches a model."""
    return news.watches(session, actor, model)
