"""Operations: webhooks, the change feed and the audit log."""

from collections.abc import Iterator, Sequence

from client.api.calls import Calls, name_of, part, valid
from registry import schemas


class Operations(Calls):
    """Webhooks, the change feed and the audit log."""

    def webhooks(self, model: str) -> list[schemas.Webhook]:
        """Return a model's webhooks."""
        return self._list(schemas.Webhook, _hooks(model))

    def create_webhook(self, model: str, url: str, events: Sequence[str] = ("*",)) -> schemas.NewWebhook:
        """Send a model's events to an address; only this answer holds the secret that signs them."""
        request = valid(schemas.WebhookRequest, url=url, events=list(events))
        return self._call(schemas.NewWebhook, "POST", _hooks(model), body=request)

    def update_webhook(self, model: str, webhook: str, *, active: bool) -> schemas.Webhook:
        """Turn a webhook on or off."""
        request = valid(schemas.WebhookUpdate, active=active)
        return self._call(schemas.Webhook, "PATCH", f"{_hooks(model)}/{part(webhook)}", body=request)

    def delete_webhook(self, model: str, webhook: str) -> None:
        """Remove a webhook."""
        self._send("DELETE", f"{_hooks(model)}/{part(webhook)}")

    def test_webhook(self, model: str, webhook: str) -> schemas.WebhookDelivery:
        """Send a ping to a webhook."""
        return self._call(schemas.WebhookDelivery, "POST", f"{_hooks(model)}/{part(webhook)}/test")

    def webhook_deliveries(
        self, model: str, webhook: str, *, limit: int | None = None
    ) -> Iterator[schemas.WebhookDelivery]:
        """Yield the deliveries to a webhook, newest first."""
        return self._pages(schemas.WebhookDeliveryPage, f"{_hooks(model)}/{part(webhook)}/deliveries", "before", limit)

    def replay_delivery(self, model: str, webhook: str, delivery: str) -> schemas.WebhookDelivery:
        """Send a delivery's event again."""
        path = f"{_hooks(model)}/{part(webhook)}/deliveries/{part(delivery)}/replay"
        return self._call(schemas.WebhookDelivery, "POST", path)

    def changes(self, since: int = 0, limit: int = 100, *, wait: float | None = None) -> schemas.ChangePage:
        """Return the changes after a serial, in order; `next` is the serial to continue from.

        With `wait`, as soon as there are any, or after so many seconds.
        """
        params = {"since": since, "limit": limit, "wait": wait}
        return self._call(schemas.ChangePage, "GET", "/changes", params=params)

    def recent_releases(self, limit: int | None = None) -> Iterator[schemas.RecentRelease]:
        """Yield the releases of all models, those published last first, at most `limit`."""
        return self._pages(schemas.RecentReleasePage, "/releases", "before", limit)

    def waiting_patches(self, limit: int | None = None) -> Iterator[schemas.WaitingPatch]:
        """Yield the patches of all models that wait for a review or a decision, newest first, at most `limit`."""
        return self._pages(schemas.WaitingPatchPage, "/patches", "before", limit)

    def audit(
        self,
        model: str | None = None,
        *,
        action: str | None = None,
        user: str | None = None,
        limit: int | None = None,
    ) -> Iterator[schemas.AuditEvent]:
        """Yield audit events, newest first: of one model, for its maintainers, or of the registry, for admins."""
        path = "/audit" if model is None else f"/models/{name_of(model)}/audit"

        return self._pages(schemas.AuditPage, path, "before", limit, action=action, user=user)


def _hooks(model: str) -> str:
    return f"/models/{name_of(model)}/webhooks"
