"""Lists of models as the Hub gives them: filtered by words and tags, sorted, in pages."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from registry.db.tables import Model, Namespace
from registry.errors import InvalidRequest
from registry.services.catalog.search import Filters, conditions
from registry.services.people import access, paging
from registry.services.people.actors import Actor

MOST_MODELS = 200  # of a page
ORDERS = {
    "downloads": "downloads_30d",
    "likes": "downloads_30d",  # there are no likes here, and a client's order must not fail
    "trendingScore": "downloads_30d",
    "trending_score": "downloads_30d",
    "createdAt": "created_at",
    "created_at": "created_at",
    "lastModified": "modified_at",
    "last_modified": "modified_at",
}


@dataclass(frozen=True)
class Listing:
    """Which models are listed, and in which order."""

    filters: Filters
    sort: str = "modified_at"
    descending: bool = True


def order(name: str | None) -> str:
    """Return the order that a name of the Hub stands for.

    Raises:
        InvalidRequest: No order has this name.
    """
    if name is None:
        return "modified_at"
    if name not in ORDERS:
        raise InvalidRequest("Models are sorted by downloads, createdAt or lastModified.", field="sort")
    return ORDERS[name]


def page(
    session: Session, actor: Actor | None, wanted: Listing, after: list[Any] | None, limit: int
) -> tuple[list[Model], list[Any] | None]:
    """Return a page of the models that the caller may see, and the cursor of the next page.

    Args:
        session: A transaction.
        actor: The caller.
        wanted: The filters and the order.
        after: The cursor, as the previous page returned it.
        limit: Most models of a page.
    """
    key: ColumnElement[Any] = getattr(Model, wanted.sort)
    query = select(Model, key).where(access.visible(actor), Model.state == "ready")
    if wanted.filters.words:
        query = query.join(Namespace, Namespace.id == Model.namespace_id)
    query = query.where(*conditions(wanted.filters))
    if after is not None:
        value, last = read_end(after, wanted.sort)
        beyond = (key < value, Model.id < last) if wanted.descending else (key > value, Model.id > last)
        query = query.where(or_(beyond[0], and_(key == value, beyond[1])))
    ends = (key.desc(), Model.id.desc()) if wanted.descending else (key, Model.id)
    found = session.execute(query.order_by(*ends).limit(limit + 1)).all()
    results, cursor = paging.cut(found, limit, lambda result: write_end(result[1], result[0]))
    return [model for model, _ in results], cursor


def write_end(value: Any, model: Model) -> list[Any]:
    """Return the cursor of a page that ends with a model, which is sorted by a value."""
    return [value.isoformat() if isinstance(value, datetime) else int(value), str(model.id)]


def read_end(after: list[Any], sort: str) -> tuple[Any, uuid.UUID]:
    """Return the value and the id of the last model of a page.

    Raises:
        InvalidRequest: The cursor is not valid.
    """
    try:
        value, last = after
        at = int(value) if sort == "downloads_30d" else datetime.fromisoformat(value)
        if isinstance(at, datetime):
            at.astimezone(UTC)  # fails for the first and the last day
        if (isinstance(at, datetime) and at.tzinfo is None) or (isinstance(at, int) and abs(at) > 2**62):
            raise ValueError
        return at, uuid.UUID(last)
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise InvalidRequest(
            "This is not a valid cursor; follow the `next` link of the previous page.", field="cursor"
        ) from None
