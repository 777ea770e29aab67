"""Lists of models as the Hub gives them: filtered by words and tags, sorted, in pages."""

from dataclasses import dataclass
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
    session: Session, actor: Actor | None, wanted: Listing, after: str | None, limit: int
) -> tuple[list[Model], str | None]:
    """Return a page of the models that the caller may see, and the cursor of the next page.

    Args:
        session: A transaction.
        actor: The caller.
        wanted: The filters and the order.
        after: The cursor, as the previous page returned it.
        limit: Most models of a page.

    Raises:
        InvalidRequest: The cursor is not valid.
    """
    key: ColumnElement[Any] = getattr(Model, wanted.sort)
    query = select(Model, key).where(access.visible(actor), Model.state == "ready")
    if wanted.filters.words:
        query = query.join(Namespace, Namespace.id == Model.namespace_id)
    query = query.where(*conditions(wanted.filters))
    if after is not None:
        value, last = (paging.read_number if wanted.sort == "downloads_30d" else paging.read)(after)
        beyond = (key < value, Model.id < last) if wanted.descending else (key > value, Model.id > last)
        query = query.where(or_(beyond[0], and_(key == value, beyond[1])))
    ends = (key.desc(), Model.id.desc()) if wanted.descending else (key, Model.id)
    found = session.execute(query.order_by(*ends).limit(limit + 1)).all()
    results, cursor = paging.cut(found, limit, lambda result: paging.write(result[1], result[0].id))
    return [model for model, _ in results], cursor
