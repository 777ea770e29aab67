"""Choices: the patches to choose from for a recipe, which can be composed; accepted ones first."""

import re
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import and_, or_
from sqlalchemy.orm import Session

from registry.db.tables import Model, Patch, PatchRevision, User
from registry.errors import InvalidRequest
from registry.services.catalog import patches
from registry.services.people import paging

CURSOR = re.compile(r"([01])-([0-9]{1,9})")  # 1 if the last patch was not accepted, else 0; and its number


def page(
    session: Session, model: Model, *, words: str, without: Collection[int], before: str | None, limit: int
) -> tuple[Sequence[PatchRevision], str | None]:
    """Return a page of the newest revisions that can be composed, accepted patches first, then the newest.

    Words are looked for patch by patch, so a page with words goes through a bounded number of patches: it may have few
    items, or none, and still be followed by another.

    Args:
        session: A transaction.
        model: Whose patches.
        words: Only those whose title, author or task contains this, ignoring case; `#12` is one patch.
        without: Numbers of patches to leave out.
        before: The cursor of the previous page.
        limit: Most patches of a page.

    Returns:
        The revisions, and the cursor of the next page.

    Raises:
        InvalidRequest: The cursor is not valid.
    """
    query = (
        patches.current()
        .join(User, User.id == Patch.author_id)
        .where(Patch.model_id == model.id, Patch.quarantined_at.is_(None), PatchRevision.state == "checked")
        .order_by(Patch.number.desc())
    )
    if without:
        query = query.where(Patch.number.not_in(without))
    looking = False
    if (number := re.fullmatch(r"#([0-9]{1,9})", words)) is not None:
        query = query.where(Patch.number == int(number[1]))
    elif words:
        columns, looking = (PatchRevision.title, User.name, Patch.task), True
        query = query.where(or_(*(column.icontains(words, autoescape=True) for column in columns)))
    rank, last = read_cursor(before)
    beyond = model.patch_count + 1
    first = beyond if last is None else min(last, beyond)
    rows: list[PatchRevision] = []
    for accepted in (True, False)[rank:]:
        state = Patch.state == "accepted" if accepted else Patch.state != "accepted"
        some, end, left = query.where(state), 1, limit - len(rows)
        if looking:
            more, end = paging.rows_within(session, some, Patch.number, first, left)
            rows += more
        else:
            rows += session.scalars(some.where(Patch.number < first).limit(left + 1))
        if len(rows) > limit:
            return paging.cut(rows, limit, lambda row: f"{int(row.patch.state != 'accepted')}-{row.patch.number}")
        if end > 1:
            return rows, f"{int(not accepted)}-{end}"
        first = beyond
    return rows, None


def read_cursor(before: str | None) -> tuple[int, int | None]:
    """Return whether the last patch of a page was not accepted, as 0 or 1, and its number; 0 and None without a page.

    Raises:
        InvalidRequest: The cursor is not valid.
    """
    if before is None:
        return 0, None
    if (cursor := CURSOR.fullmatch(before)) is None:
        raise InvalidRequest(
            "This is not a valid cursor; give what the previous page returned as `next`.", field="before"
        )
    return int(cursor[1]), int(cursor[2])


def named(session: Session, model: Model, wanted: Mapping[int, int | None]) -> Sequence[PatchRevision]:
    """Return revisions of patches by number, the newest where the revision is None; skip those that do not exist."""
    query = patches.revisions().where(patches.numbered(session, model, wanted)).order_by(Patch.number)
    newest = [number for number, revision in wanted.items() if revision is None]
    pairs = [and_(Patch.number.in_(newest), PatchRevision.number == Patch.revision)]
    pairs += [
        and_(Patch.number == number, PatchRevision.number == revision)
        for number, revision in wanted.items()
        if revision is not None
    ]
    rows: Sequence[PatchRevision] = session.scalars(query.where(or_(*pairs))).all()
    return rows
