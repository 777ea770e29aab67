"""Schemas of events: the public changes, and the audit log."""

from datetime import datetime
from typing import Any

from pydantic import Field

from registry.schemas.wire import Answer


class Change(Answer):
    """A change of a model; `serial` grows with time."""

    serial: int
    at: datetime
    action: str
    model: str
    subject: str
    user: str | None = Field(description="null if the registry itself did it")
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class ChangePage(Answer):
    """Changes in the order in which they happened; `next` is the `since` of the next request.

    If `next` equals `since` and there are no items, there is nothing new. If it is smaller, the registry was restored
    from a backup, and a mirror must start again.
    """

    items: list[Change]
    next: int


class RecentRelease(Answer):
    """A release in the list of those that were published last."""

    model: str
    version: str
    publisher: str | None
    published_at: datetime


class RecentReleasePage(Answer):
    """Releases, newest first; `next` is the cursor of the page after this one, which may be short."""

    items: list[RecentRelease]
    next: str | None


class WaitingPatch(Answer):
    """A patch in the list of those that wait for a review or a decision."""

    model: str
    number: int
    revision: int
    title: str
    author: str
    task: str | None
    created_at: datetime


class WaitingPatchPage(Answer):
    """Proposed patches, newest first; `next` is the cursor of the page after this one, which may be short."""

    items: list[WaitingPatch]
    next: str | None


class AuditEvent(Answer):
    """Who did what to what. `hash` is over the rest with the hash of the event before."""

    serial: int
    at: datetime
    user_id: str | None
    user: str | None
    token: str | None = Field(description="the visible prefix of the token that was used")
    action: str
    subject: str
    model_id: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str | None
    previous_hash: str
    hash: str


class AuditPage(Answer):
    """Events, newest first; `next` is the `before` of the next page."""

    items: list[AuditEvent]
    next: int | None
