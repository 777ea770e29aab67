"""Patches to choose from for a recipe: those that can be composed, accepted ones first."""

import re
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import and_, case, or_
from sqlalchemy.orm import Session

from registry.db.tables import Model, Patch, PatchRevision, User
from registry.errors import InvalidRequest
from registry.services.catalog import patches

CURSOR = re.compile(r"([01])-([0-9]{1,9})")  # whether the last one was not accepted, and its number


def page(
    session: Session, model: Model, *, words: str, without: Collection[int], before: str | None, limit: int
) -> tuple[Sequence[PatchRevision], str | None]:
    """Return a page of the newest revisions that can be composed, accepted patches first, then the newest.

    Args:
        session: A transaction.
        model: Whose patches.
        words: Only those whose title, author or task contains this, whatever the case; `#12` is one patch.
        without: Numbers of patches that are left out.
        before: The cursor of the page before.
        limit: Most patches.

    Returns:
        The revisions, and the cursor of the next page.

    Raises:
        InvalidRequest: the cursor is none.
    """
    rank = case((Patch.state == "accepted", 0), else_=1)
    query = (
        patches.current()
        .join(User, User.id == Patch.author_id)
        .where(Patch.model_id == model.id, Patch.quarantined_at.is_(None), PatchRevision.state == "checked")
        .order_by(rank, Patch.number.desc())
        .limit(limit + 1)
    )
    if without:
        query = query.where(Patch.number.not_in(without))
    if (number := re.fullmatch(r"#([0-9]{1,9})", words)) is not None:
        query = query.where(Patch.number == int(number[1]))
    elif words:
        columns = (PatchRevision.title, User.name, Patch.task)
        query = query.where(or_(*(column.icontains(words, autoescape=True) for column in columns)))
    if before is not None:
        if (cursor := CURSOR.fullmatch(before)) is None:
            raise InvalidRequest("A page begins before what the last one gave as `next`.", field="before")
        last = int(cursor[1])
        query = query.where(or_(rank > last, and_(rank == last, Patch.number < int(cursor[2]))))
    found = list(session.scalars(query))
    if len(found) <= limit:
        return found, None
    end = found[limit - 1].patch
    return found[:limit], f"{int(end.state != 'accepted')}-{end.number}"


def named(session: Session, model: Model, wanted: Mapping[int, int | None]) -> Sequence[PatchRevision]:
    """Return revisions of patches by number, the newest where None is said; what is not there is left out."""
    query = patches.revisions().where(Patch.model_id == model.id, Patch.number.in_(wanted)).order_by(Patch.number)
    newest = [number for number, revision in wanted.items() if revision is None]
    pairs = [and_(Patch.number.in_(newest), PatchRevision.number == Patch.revision)]
    pairs += [
        and_(Patch.number == number, PatchRevision.number == revision)
        for number, revision in wanted.items()
        if revision is not None
    ]
    found: Sequence[PatchRevision] = session.scalars(query.where(or_(*pairs))).all()
    return found
