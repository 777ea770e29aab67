"""Schemas of news: mentions, and events in models that one watches."""

from datetime import datetime

from pydantic import AwareDatetime, Field

from registry.schemas.wire import Answer, Wire


class Mentioned(Answer):
    """A thread in which somebody named you."""

    model: str
    number: int
    by: str
    at: datetime


class WatchedEvent(Answer):
    """Something that happened in a model that you watch."""

    model: str
    event: str
    subject: str
    user: str | None
    at: datetime


class News(Answer):
    """What is new since you last looked: at most 50 mentions and 50 events, the newest first."""

    mentions: list[Mentioned]
    events: list[WatchedEvent]
    serial: int = Field(description="of the log; to say what you have read")
    at: datetime = Field(description="likewise")


class NewsSeen(Wire):
    """Mark as read what an answer with news held."""

    serial: int = Field(ge=0, le=2**63 - 1)
    at: AwareDatetime
