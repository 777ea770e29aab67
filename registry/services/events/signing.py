"""The signature of a webhook's delivery, and the other headers that it is sent with."""

import hashlib
import hmac
from collections.abc import Mapping

import registry
from registry.services.events.deliveries import DueDelivery


def headers(delivery: DueDelivery, body: bytes, at: int) -> Mapping[str, str]:
    """Return the headers of a delivery's request, with its signature.

    The signature is an HMAC-SHA256, keyed by the webhook's secret, of `<delivery id>.<seconds since 1970>.<body>`.

    Args:
        delivery: The delivery.
        body: The bytes that are sent.
        at: The time of the signature, in seconds since 1970.
    """
    signed = f"{delivery.delivery_id}.{at}.".encode() + body
    signature = hmac.new(delivery.secret.encode(), signed, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "User-Agent": f"crumb-registry/{registry.version()}",
        "X-Webhook-Id": str(delivery.delivery_id),
        "X-Webhook-Timestamp": str(at),
        "X-Webhook-Signature": f"v1={signature}",
        "X-Webhook-Event": delivery.event,
        "X-Webhook-Serial": str(delivery.serial),
    }
