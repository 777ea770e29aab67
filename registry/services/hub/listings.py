"""Lists of models as the Hub gives them: found by words and tags, in one of a few orders, by pages."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from registry.db.tables import Model, ModelTag
from registry.errors import InvalidRequest
from registry.services.hub import downloads
from registry.services.people import access
from registry.services.people.actors import Actor

MOST = 200
ORDERS = {
    "downloads": "downloads",
    "likes": "downloads",  # nobody can like anything here, and a client's order must not fail
    "trendingScore": "downloads",
    "trending_score": "downloads",
    "createdAt": "created_at",
    "created_at": "created_at",
    "lastModified": "modified_at",
    "last_modified": "modified_at",
}


@dataclass(frozen=True)
class Listing:
    """What is listed, and how."""

    search: str | None = None
    author: str | None = None
    tags: tuple[str, ...] = ()
    sort: str = "modified_at"
    descending: bool = True


def order(name: str | None) -> str:
    """Return which order a name of the Hub means.

    Raises:
        InvalidRequest: there is none of that name.
    """
    if name is None:
        return "modified_at"
    if name not in ORDERS:
        raise InvalidRequest("Models are sorted by downloads, createdAt or lastModified.", field="sort")
    return ORDERS[name]


def page(
    session: Session, actor: Actor | None, asked: Listing, after: list[Any] | None, limit: int
) -> tuple[list[Model], list[Any] | None]:
    """Return a page of the models that somebody may see, and where the next one begins.

    Args:
        session: A transaction.
        actor: Who asks.
        asked: What for.
        after: The end of the page before.
        limit: Most models on a page.
    """
    key: ColumnElement[Any] = downloads.recent() if asked.sort == "downloads" else getattr(Model, asked.sort)
    query = select(Model, key).where(access.visible(actor), Model.state == "ready")
    if asked.search:
        name = func.lower(Model.namespace + "/" + Model.name)
        for word in asked.search.lower().split():
            query = query.where(name.contains(word, autoescape=True))
    if asked.author:
        query = query.where(Model.namespace == asked.author)
    for tag in asked.tags:
        query = query.where(Model.id.in_(select(ModelTag.model_id).where(ModelTag.tag == tag)))
    if after is not None:
        value, last = read_end(after, asked.sort)
        beyond = (key < value, Model.id < last) if asked.descending else (key > value, Model.id > last)
        query = query.where(or_(beyond[0], and_(key == value, beyond[1])))
    ends = (key.desc(), Model.id.desc()) if asked.descending else (key, Model.id)
    found = session.execute(query.order_by(*ends).limit(limit + 1)).all()
    rows = [row for row, _ in found[:limit]]
    if len(found) <= limit:
        return rows, None
    end = found[limit - 1][1]
    return rows, [end.isoformat() if isinstance(end, datetime) else int(end), str(rows[-1].id)]


def read_end(after: list[Any], sort: str) -> tuple[Any, uuid.UUID]:
    """Return the value and the id at which a page has ended.

    Raises:
        InvalidRequest: it is no end of such a page.
    """
    try:
        value, last = after
        at = int(value) if sort == "downloads" else datetime.fromisoformat(value)
        if isinstance(at, datetime):
            at.astimezone(UTC)  # which the first and the last day may not have
        if (isinstance(at, datetime) and at.tzinfo is None) or (isinstance(at, int) and abs(at) > 2**62):
            raise ValueError
        return at, uuid.UUID(last)
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise InvalidRequest("This is no cursor of a page before.", field="cursor") from None
