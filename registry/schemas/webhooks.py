"""Schemas of webhooks and their deliveries."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.schemas.wire import Answer, Wire

EventPattern = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z]{1,20}\.(\*|[a-z_]{1,40}))$")]


class WebhookRequest(Wire):
    """Send a model's events to an address."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[!-~]+$")] = Field(
        examples=["https://hooks.example.org/crumbs"]
    )
    events: list[EventPattern] = Field(
        default_factory=lambda: ["*"],
        min_length=1,
        max_length=50,
        description="'*', or actions like 'release.publish' and 'patch.*'",
    )


class WebhookUpdate(Wire):
    """Turn a webhook on or off."""

    active: bool


class Webhook(Answer):
    """An address that gets a model's events, without its secret."""

    id: str
    url: str
    events: list[str]
    active: bool
    creator: str
    created_at: datetime


class NewWebhook(Webhook):
    """A webhook with its secret, which is shown once: it signs what is sent."""

    secret: str


class WebhookDelivery(Answer):
    """An event on its way to a webhook; `id` is the `webhook-id` of all its attempts."""

    id: str
    event: str
    serial: int
    subject: str
    replay: int = Field(description="0 for the first delivery; repeats count from 1")
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    due_at: datetime | None = Field(description="time of the next attempt, while pending")
    status: int | None = Field(description="HTTP status of the last attempt, if it was answered")
    answer: str | None = Field(description="the beginning of the answer, or why there was none")
    created_at: datetime
    delivered_at: datetime | None


class WebhookDeliveryPage(Answer):
    """Deliveries, newest first; `next` is the `before` of the next page."""

    items: list[WebhookDelivery]
    next: str | None
