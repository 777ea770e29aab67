"""The courier: turn events into deliveries, and send those that are due.

    collect ── claim some, one of each webhook ── send side by side, no transaction open ── write down what came of it

Any number of couriers may run, in any processes: rows are claimed under locks that others skip. A webhook that fails
rests for a while in this courier, so that slow receivers cannot keep the others waiting.
"""

import hashlib
import hmac
import json
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import structlog

import registry
from registry.db.session import Database
from registry.db.tables import AuditEvent, now
from registry.errors import BreadcrumbError
from registry.outside.egress import Egress, Reply
from registry.services.events import payloads, webhooks
from registry.settings import Settings

log = structlog.get_logger()
SENDERS = 8
LONGEST_REST = 300.0
SWEEP_EVERY = 3600.0
KEPT = timedelta(days=30)  # deliveries that ended


class Courier:
    """Tells webhooks of events until it is stopped."""

    def __init__(self, settings: Settings, database: Database, egress: Egress | None = None) -> None:
        self.settings, self.database = settings, database
        self.egress = egress or Egress(private=settings.webhook_private)
        self.stopping = threading.Event()
        self.failures: dict[uuid.UUID, tuple[int, float]] = {}  # in a row, and until when the webhook rests

    def run(self) -> None:
        """Work until `stopping` is set; what is being sent is waited for."""
        log.info("courier.start")
        due = 0.0
        while not self.stopping.is_set():
            try:
                if time.monotonic() >= due:
                    self.sweep()
                    due = time.monotonic() + SWEEP_EVERY
                worked = self.step()
            except Exception:  # the database is away, say: the next round tries again
                log.exception("courier.error")
                worked = False
            if not worked:
                self.stopping.wait(self.settings.poll_seconds)
        log.info("courier.stop")

    def sweep(self) -> None:
        """Forget deliveries that ended long ago."""
        with self.database.write() as session:
            webhooks.forget(session, now() - KEPT)

    def step(self) -> bool:
        """Collect events and send what is due; return whether there was anything to do."""
        resting = {webhook for webhook, (_, until) in self.failures.items() if until > time.monotonic()}
        with self.database.read() as session:
            if not webhooks.waiting(session, resting):
                return False
        with self.database.write() as session:
            collected = webhooks.collect(session)
        with self.database.write() as session:
            claims = webhooks.claim(session, resting, SENDERS)
        if claims:
            with ThreadPoolExecutor(len(claims), "courier") as pool:
                list(pool.map(self.deliver, claims))
        return bool(collected or claims)

    def deliver(self, claim: webhooks.DueDelivery) -> None:
        """Send one delivery and write down what came of it; whatever goes wrong is what came of it."""
        bound = log.bind(delivery=str(claim.delivery_id), webhook=str(claim.webhook_id), event=claim.event)
        try:
            reply = self.send(claim)
        except BreadcrumbError as error:
            reply = Reply(0, str(error))
        except Exception:
            bound.exception("courier.error")
            reply = Reply(0, "The registry could not send this; its log says why.")
        self.note(claim.webhook_id, 200 <= reply.status < 300)
        try:
            with self.database.write() as session:
                state = webhooks.finish(session, claim, reply)
            bound.info("delivery.attempt", state=state, attempt=claim.attempt, status=reply.status or None)
        except Exception:  # it is due again when the lease ends
            bound.exception("courier.error")

    def send(self, claim: webhooks.DueDelivery) -> Reply:
        """Make the request of a delivery, sign it and send it."""
        with self.database.read() as session:
            event = session.get_one(AuditEvent, claim.serial)
            found = payloads.describe(session, event, claim.webhook_id, self.settings.public_url)
        body = json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        return self.egress.post(claim.url, body, headers(claim, body, int(time.time())))

    def note(self, webhook: uuid.UUID, arrived: bool) -> None:
        """Let a webhook that fails rest, longer each time."""
        if arrived:
            self.failures.pop(webhook, None)
            return
        count = self.failures.get(webhook, (0, 0.0))[0] + 1
        self.failures[webhook] = count, time.monotonic() + min(LONGEST_REST, 2.0**count)


def headers(claim: webhooks.DueDelivery, body: bytes, at: int) -> Mapping[str, str]:
    """Return the headers of a delivery's request, its signature among them."""
    signed = f"{claim.delivery_id}.{at}.".encode() + body
    signature = hmac.new(claim.secret.encode(), signed, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "User-Agent": f"crumb-registry/{registry.version()}",
        "X-Webhook-Id": str(claim.delivery_id),
        "X-Webhook-Timestamp": str(at),
        "X-Webhook-Signature": f"v1={signature}",
        "X-Webhook-Event": claim.event,
        "X-Webhook-Serial": str(claim.serial),
    }
