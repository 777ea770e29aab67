"""Comments on patches and cards: added, edited by their author, deleted by them or a maintainer, hidden by maintainers.

The texts that an edited comment had before are kept, for whoever may read it. A deleted comment loses all of them for
good; a hidden one keeps it, for maintainers alone. Who did it, when and why stays in the place of either.
"""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete as delete_from
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Comment, CommentEdit, Model, Patch, User, now
from registry.errors import Forbidden, InvalidRequest, NotFound, WrongState
from registry.services.catalog import models, patches
from registry.services.curation import cards, moderating, news, remarks
from registry.services.people import access, paging
from registry.services.people.actors import Actor, record
from registry.services.people.rules import RULES, Role

MOST_EDITS = 100  # of one comment


def add(
    session: Session,
    actor: Actor,
    full_name: str,
    number: int,
    revision: int | None,
    message: str,
    about: Sequence[str] = (),
) -> Comment:
    """Comment on a patch, or on one revision of it, or on a proposal of a card.

    Args:
        session: A writing transaction.
        actor: The author.
        full_name: `namespace/name`.
        number: The number of the patch or card.
        revision: The revision; None for all, or the newest if the comment is about tensors.
        message: The text.
        about: Names and globs of tensors of the revision that it refers to.

    Raises:
        NotFound: There is no such patch, card or revision.
        InvalidRecipe: A glob is malformed.
        InvalidRequest: A name or glob is of no tensor that the revision changes.
    """
    model = models.find(session, full_name)
    if revision is None and not about:
        patch = find_thread(session, model, number)
    else:
        found = patches.find_in(session, model, number, revision)
        patch, revision = found.patch, found.number
        remarks.require_tensors(session, found, f"{full_name}#{number}", about)
    author = session.get_one(User, actor.user_id)
    row = Comment(patch_id=patch.id, revision=revision, author=author, message=message, deleted_by=None, hidden_by=None)
    if about:
        row.about = list(about)
    session.add(row)
    session.flush()
    news.mention(session, actor, model, patch, message)
    record(session, actor, "patch.comment", f"{full_name}#{number}", model, after={"comment": str(row.id)})
    return row


def find_thread(session: Session, model: Model, number: int) -> Patch:
    """Return a patch that people may talk about, whatever its revision, or that proposes a card; with its author.

    Raises:
        NotFound: No such patch exists, or nothing was made of what was pushed for it.
    """
    own = Patch.model_id == model.id, Patch.number == number
    query = select(Patch).where(*own, or_(Patch.revision > 0, cards.is_card())).options(joinedload(Patch.author))
    found: Patch | None = session.scalar(query)
    if found is None:
        raise NotFound(f"There is no patch {model.full_name}#{number}; see `crumb log {model.full_name}`.")
    return found


def edit(session: Session, actor: Actor, full_name: str, number: int, comment_id: uuid.UUID, message: str) -> Comment:
    """Give a comment of the caller's another text; the one before is kept. Does nothing if it has that text already.

    Whoever only the new text names is told of it.

    Raises:
        NotFound: The patch has no such comment.
        Forbidden: The comment is somebody else's.
        WrongState: The comment is deleted or hidden, or was edited as often as it may be.
    """
    row = find(session, full_name, number, comment_id)
    if row.author_id != actor.user_id:
        raise Forbidden("Only its author may edit a comment; a maintainer may hide it.")
    if row.deleted_at is not None or row.hidden_at is not None:
        raise WrongState(f"This comment is {'deleted' if row.deleted_at else 'hidden'}; write another one.")
    if row.message == message:
        return row
    count = session.scalar(select(func.count()).where(CommentEdit.comment_id == row.id)) or 0
    if count >= MOST_EDITS:
        raise WrongState(f"This comment was edited {MOST_EDITS} times, the most that one may be; write another one.")
    before = row.message
    session.add(CommentEdit(comment_id=row.id, message=before, written_at=row.edited_at or row.created_at))
    row.message, row.edited_at = message, now()
    session.flush()
    model = models.find(session, full_name)
    news.mention(session, actor, model, session.get_one(Patch, row.patch_id), message, before)
    record(session, actor, "patch.edit_comment", f"{full_name}#{number}", model, after={"comment": str(row.id)})
    return row


def edits(
    session: Session, actor: Actor | None, full_name: str, number: int, comment_id: uuid.UUID
) -> tuple[Comment, Sequence[CommentEdit]]:
    """Return a comment, and the texts that it had before, oldest first.

    Raises:
        NotFound: The patch has no such comment, or the caller may not read it.
    """
    model = models.find(session, full_name)
    row = find(session, full_name, number, comment_id, lock=False)
    if row.deleted_at is not None or (row.hidden_at is not None and not sees_hidden(session, actor, model)):
        raise NotFound(f"This comment on {full_name}#{number} cannot be read any more.")
    query = select(CommentEdit).where(CommentEdit.comment_id == row.id)
    return row, session.scalars(query.order_by(CommentEdit.written_at, CommentEdit.id)).all()


def delete(session: Session, actor: Actor, full_name: str, number: int, comment_id: uuid.UUID, reason: str) -> Comment:
    """Delete the text of a comment; who deleted it, when and why stay. Does nothing if it is deleted already.

    Raises:
        NotFound: The patch has no such comment.
        Forbidden: The comment is somebody else's, and the caller is not a maintainer.
        InvalidRequest: The comment is somebody else's, and there is no reason.
    """
    row = find(session, full_name, number, comment_id)
    model = models.find(session, full_name)
    if row.author_id != actor.user_id:
        if access.role_on(session, actor, model) < Role.MAINTAINER:
            raise Forbidden(f"Only its author or a maintainer of {full_name} may delete a comment.")
        if not reason:
            raise InvalidRequest("Say why this comment is deleted; its author will see it.", field="message")
    if row.deleted_at is not None:
        return row
    row.message, row.deleted_by_id, row.deleted_at, row.deletion_reason = "", actor.user_id, now(), reason
    session.execute(delete_from(CommentEdit).where(CommentEdit.comment_id == row.id))
    session.flush()
    session.refresh(row, ["deleted_by"])
    before = {"comment": str(row.id), "author": row.author.name}
    subject = f"{full_name}#{number}"
    record(session, actor, "patch.delete_comment", subject, model, before=before, after={"reason": reason})
    return row


def hide(
    session: Session, actor: Actor, full_name: str, number: int, comment_id: uuid.UUID, reason: str | None
) -> Comment:
    """Hide a comment from all but maintainers, or (None) show it again. Does nothing if that is already so.

    Raises:
        NotFound: The patch has no such comment.
        WrongState: The comment is deleted.
    """
    row = find(session, full_name, number, comment_id)
    if row.deleted_at is not None:
        raise WrongState("This comment is deleted, so there is no text left to hide or to show.")
    if (row.hiding_reason, row.hidden_at is not None) == (reason, reason is not None):
        return row
    before = {"comment": str(row.id), "author": row.author.name, "hidden": row.hiding_reason}
    model = models.find(session, full_name)
    if reason is not None:
        moderating.remember(session, model, row)
        row.hiding_reason, row.hidden_by_id, row.hidden_at = reason, actor.user_id, now()
    elif not moderating.restore(session, model, row):
        row.hiding_reason, row.hidden_by_id, row.hidden_at = None, None, None
    session.flush()
    session.refresh(row, ["hidden_by"])
    verb = "patch.unhide_comment" if reason is None else "patch.hide_comment"
    record(session, actor, verb, f"{full_name}#{number}", model, before=before, after={"hidden": row.hiding_reason})
    return row


def sees_hidden(session: Session, actor: Actor | None, model: Model) -> bool:
    """Say whether somebody sees the text of hidden comments: whoever may hide them."""
    return access.role_on(session, actor, model) >= RULES["comment.hide"].role


def find(session: Session, full_name: str, number: int, comment_id: uuid.UUID, *, lock: bool = True) -> Comment:
    """Return a comment on a patch, locked unless that is not asked for.

    Raises:
        NotFound: The patch has no such comment.
    """
    patch = find_thread(session, models.find(session, full_name), number)
    query = loaded().where(Comment.id == comment_id, Comment.patch_id == patch.id)
    row: Comment | None = session.scalar(query.with_for_update(of=Comment) if lock else query)
    if row is None:
        raise NotFound(f"There is no such comment on {full_name}#{number}; see `crumb review {full_name} {number}`.")
    return row


def listing(session: Session, patch: Patch, before: str | None, limit: int) -> tuple[list[Comment], str | None]:
    """Return a page of the comments on a patch, newest first, and the cursor of the next page."""
    query = loaded().where(Comment.patch_id == patch.id)
    rows = session.scalars(paging.newest(query, Comment.created_at, Comment.id, before, limit)).all()
    return paging.cut(rows, limit, lambda row: paging.write(row.created_at, row.id))


def loaded() -> Any:
    """Return a query for comments, each with its author and who deleted or hid it."""
    people = (Comment.author, Comment.deleted_by, Comment.hidden_by)
    return select(Comment).options(*(joinedload(person) for person in people))
