"""Shapes of what happened: for everybody, and for those who watch over a model or the server."""

from datetime import datetime
from typing import Any

from pydantic import Field

from registry.schemas.wire import Answer


class Change(Answer):
    """Something that happened to a model; `serial` grows with time."""

    serial: int
    at: datetime
    action: str
    model: str
    subject: str
    user: str | None = Field(description="none for what the registry itself did")
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class ChangePage(Answer):
    """Changes in the order in which they happened; `next` is the `since` to go on with.

    When `next` is what was asked with and there are no items, nothing is new. When it is smaller, the registry was
    restored from a backup, and a mirror begins again.
    """

    items: list[Change]
    next: int


class AuditEvent(Answer):
    """Who did what to what. `hash` is over the rest with the hash of the event before."""

    serial: int
    at: datetime
    user_id: str | None
    user: str | None
    token: str | None = Field(description="the visible prefix of the token it was done with")
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
