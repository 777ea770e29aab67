"""Schemas of threads: verdicts and comments on patches, what they refer to, and the texts that comments had."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.schemas.wire import Answer, Hex256, Message, Text, Wire

Verdict = Literal["approve", "request_changes"]
About = Annotated[
    list[Annotated[Text, StringConstraints(min_length=1, max_length=200)]],
    Field(max_length=8, description="tensors that it refers to: names, or globs like layers.0.*"),
]


class ReviewRequest(Wire):
    """A verdict on the revision that you looked at, which must still be the newest."""

    verdict: Verdict
    revision: int = Field(ge=1, le=2**31 - 1)
    message: Message = ""
    about: About = Field([])


class CommentRequest(Wire):
    """Comment on a patch, or on one revision of it."""

    message: Annotated[Message, StringConstraints(min_length=1)]
    revision: int | None = Field(None, ge=1, le=2**31 - 1)
    about: About = Field([])


class CommentEditRequest(Wire):
    """Give your comment another text; the one before is kept, for whoever may read it."""

    message: Annotated[Message, StringConstraints(min_length=1)]


class HideRequest(Wire):
    """Hide a comment from all but maintainers, or (null) show it again."""

    reason: Annotated[Message, StringConstraints(min_length=1)] | None


class Review(Answer):
    """A verdict on one revision; it counts while that revision and this verdict are the newest."""

    id: str = ""
    reviewer: str
    verdict: Verdict
    revision: int
    sha256: Hex256
    counts: bool
    message: str
    about: list[str] = Field([], description="tensors of the revision that it refers to: names and globs")
    created_at: datetime


class ReviewPage(Answer):
    """Verdicts on a patch, newest first; `next` is the cursor of the page after this one."""

    items: list[Review]
    next: str | None


class Moderation(Answer):
    """Who deleted or hid a comment, when and why."""

    user: str
    reason: str
    at: datetime


class Comment(Answer):
    """A comment on a patch; one that was deleted has no message, and one that is hidden only for its maintainers."""

    id: str
    author: str
    revision: int | None
    message: str
    about: list[str] = Field([], description="tensors of that revision that it refers to: names and globs")
    created_at: datetime
    edited_at: datetime | None = None
    deleted: Moderation | None
    hidden: Moderation | None


class CommentText(Answer):
    """A text that a comment had."""

    message: str
    written_at: datetime


class CommentHistory(Answer):
    """The texts of a comment, oldest first; the last is the one that it has."""

    id: str
    author: str
    texts: list[CommentText]


class Remark(Answer):
    """What somebody said about tensors of a patch: the first 300 characters of a comment or of a verdict's message."""

    kind: Literal["comment", "review"]
    id: str
    author: str
    revision: int | None
    about: list[str] = Field(description="names and globs")
    message: str
    created_at: datetime


class CommentPage(Answer):
    """Comments on a patch, newest first; `next` is the cursor of the page after this one."""

    items: list[Comment]
    next: str | None
