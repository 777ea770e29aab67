"""The signatures of a webhook's delivery, by Standard Webhooks, and the other headers that it is sent with."""

import base64
import hashlib
import hmac
from collections.abc import Mapping

import registry
from registry.services.events.deliveries import DueDelivery

PREFIX = "whsec_"


def key(secret: str) -> bytes:
    """Return the key that a secret has in base64; older secrets have it in the alphabet of URLs, without padding."""
    return base64.b64decode(secret.removeprefix(PREFIX).translate(str.maketrans("-_", "+/")) + "==")


def headers(delivery: DueDelivery, body: bytes, at: int) -> Mapping[str, str]:
    """Return the headers of a delivery's request, with its signature by Standard Webhooks and in the older form.

    Both are an HMAC-SHA256 of `<delivery id>.<seconds since 1970>.<body>`. The key of the standard is the secret's part
    after `whsec_`, decoded; that of the older form is the whole secret as text.

    Args:
        delivery: The delivery.
        body: The bytes that are sent.
        at: The time of the signatures, in seconds since 1970.
    """
    signed = f"{delivery.delivery_id}.{at}.".encode() + body
    standard = base64.b64encode(hmac.digest(key(delivery.secret), signed, hashlib.sha256)).decode()
    older = hmac.digest(delivery.secret.encode(), signed, hashlib.sha256).hex()
    return {
        "Content-Type": "application/json",
        "User-Agent": f"crumb-registry/{registry.version()}",
        "webhook-id": str(delivery.delivery_id),
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{standard}",
        "X-Webhook-Event": delivery.event,
        "X-Webhook-Serial": str(delivery.serial),
        "X-Webhook-Id": str(delivery.delivery_id),
        "X-Webhook-Timestamp": str(at),
        "X-Webhook-Signature": f"v1={older}",
    }
