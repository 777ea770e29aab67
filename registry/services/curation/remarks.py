"""Remarks: comments and verdicts that refer to tensors of a patch, by name or by glob."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, literal, select, union_all
from sqlalchemy.orm import Session

from registry.breadcrumbs.formats.globs import check_glob, is_name, matches
from registry.db.tables import Comment, Patch, PatchRevision, PatchTensor, Review, User
from registry.errors import InvalidRequest

NEWEST = 50  # of a patch
EXCERPT = 300  # characters of a message


@dataclass(frozen=True)
class Remark:
    """What somebody said about tensors of a patch: the beginning of a comment or verdict, and names and globs."""

    kind: str
    id: uuid.UUID
    author: str
    revision: int | None
    about: list[str]
    message: str
    created_at: datetime


def require_tensors(session: Session, revision: PatchRevision, subject: str, about: Sequence[str]) -> None:
    """Refuse references to tensors that a revision does not change, since they are a mistake.

    Raises:
        InvalidRecipe: A glob is malformed.
        InvalidRequest: A name or glob is of no tensor that the revision changes.
    """
    if not about:
        return
    names = set(session.scalars(select(PatchTensor.name).where(PatchTensor.revision_id == revision.id)))
    for glob in about:
        if glob in names:
            continue
        if is_name(check_glob(glob, "about")) or not any(matches(glob, name) for name in names):
            raise InvalidRequest(
                f"{subject}.{revision.number} changes no tensor {glob!r}; `crumb show {subject}` lists those that it "
                "does.",
                field="about",
            )


def refers(about: Sequence[str], name: str) -> bool:
    """Say whether a remark is about a tensor."""
    return any(glob == name or (not is_name(glob) and matches(glob, name)) for glob in about)


def listing(session: Session, patch: Patch) -> list[Remark]:
    """Return the newest remarks on tensors of a patch, oldest first; deleted and hidden comments are left out."""
    said = select(
        literal("comment").label("kind"),
        Comment.id.label("id"),
        User.name.label("author"),
        Comment.revision.label("revision"),
        Comment.about.label("about"),
        func.substr(Comment.message, 1, EXCERPT).label("message"),
        Comment.created_at.label("at"),
    ).join(User, User.id == Comment.author_id)
    said = said.where(Comment.patch_id == patch.id, Comment.about.is_not(None))
    said = said.where(Comment.deleted_at.is_(None), Comment.hidden_at.is_(None))
    decided = (
        select(
            literal("review"),
            Review.id,
            User.name,
            PatchRevision.number,
            Review.about,
            func.substr(Review.message, 1, EXCERPT),
            Review.created_at,
        )
        .join(User, User.id == Review.reviewer_id)
        .join(PatchRevision, PatchRevision.id == Review.revision_id)
        .where(PatchRevision.patch_id == patch.id, Review.about.is_not(None))
    )
    both = union_all(said, decided).subquery()
    rows = session.execute(select(both).order_by(both.c.at.desc(), both.c.id).limit(NEWEST)).all()
    return [Remark(*row) for row in rows][::-1]
