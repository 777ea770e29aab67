"""The courier: turns events into webhook deliveries, and sends those that are due.

    collect ── claim some, one of each webhook ── send in parallel, no transaction open ── record the outcomes

Any number of couriers may run, in any processes: each claims rows under locks, which the others skip. A webhook that
fails rests for a while in this courier, so that slow receivers do not delay the others.
"""

import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import structlog

from registry.db.session import Database
from registry.db.tables import AuditEvent, now
from registry.errors import BreadcrumbError
from registry.outside.egress import Egress, Reply
from registry.services.events import deliveries, payloads, signing
from registry.settings import Settings
from registry.worker.metrics import WorkerMetrics

log = structlog.get_logger()
DELIVERIES_AT_ONCE = 8
LONGEST_REST = 300.0  # seconds
SWEEP_EVERY = 600.0  # seconds
KEPT_FOR = timedelta(days=30)  # deliveries that ended


class Courier:
    """Delivers events to webhooks until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        egress: Egress | None = None,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        self.metrics = metrics or WorkerMetrics()
        self.settings, self.database = settings, database
        self.egress = egress or Egress(private=settings.webhook_private)
        self.stopping = threading.Event()
        self.failures: dict[uuid.UUID, tuple[int, float]] = {}  # how many in a row, and until when the webhook rests

    def run(self) -> None:
        """Work until `stopping` is set, then wait for the deliveries that are being sent."""
        log.info("courier.start")
        due = 0.0
        while not self.stopping.is_set():
            try:
                if time.monotonic() >= due:
                    self.sweep()
                    due = time.monotonic() + SWEEP_EVERY
                worked = self.step()
            except Exception:  # the database does not answer, say: the next round tries again
                log.exception("courier.error")
                worked = False
            if not worked:
                self.stopping.wait(self.settings.poll_seconds)
        log.info("courier.stop")

    def sweep(self) -> None:
        """Delete deliveries that ended long ago, and hurry those that wait for a time that a wrong clock set."""
        with self.database.write() as session:
            deliveries.forget(session, now() - KEPT_FOR)
            deliveries.hurry(session)

    def step(self) -> bool:
        """Collect events and send what is due; return whether there was anything to do."""
        resting = {webhook for webhook, (_, until) in self.failures.items() if until > time.monotonic()}
        with self.database.read() as session:
            if not deliveries.waiting(session, resting):
                return False
        with self.database.write() as session:
            collected = deliveries.collect(session)
        with self.database.write() as session:
            claimed = deliveries.claim(session, resting, DELIVERIES_AT_ONCE)
        if claimed:
            with ThreadPoolExecutor(len(claimed), "courier") as pool:
                list(pool.map(self.deliver, claimed))
        return bool(collected or claimed)

    def deliver(self, claimed: deliveries.DueDelivery) -> None:
        """Send one delivery and record its outcome, which is the error if anything goes wrong."""
        bound = log.bind(delivery=str(claimed.delivery_id), webhook=str(claimed.webhook_id), event=claimed.event)
        try:
            reply = self.send(claimed)
        except BreadcrumbError as error:
            reply = Reply(0, str(error))
        except Exception:
            bound.exception("courier.error")
            reply = Reply(0, "The registry could not send this; its log says why.")
        arrived = 200 <= reply.status < 300
        self.note(claimed.webhook_id, arrived)
        self.metrics.deliveries.labels("delivered" if arrived else "failed").inc()
        try:
            with self.database.write() as session:
                state = deliveries.finish(session, claimed, reply)
            bound.info("delivery.attempt", state=state, attempt=claimed.attempt, status=reply.status or None)
        except Exception:  # it is due again when the lease ends
            bound.exception("courier.error")

    def send(self, claimed: deliveries.DueDelivery) -> Reply:
        """Build the request of a delivery, sign it and send it."""
        with self.database.read() as session:
            event = session.get_one(AuditEvent, claimed.serial)
            payload = payloads.describe(session, event, claimed.webhook_id, self.settings.public_url)
        body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        return self.egress.post(claimed.url, body, signing.headers(claimed, body, int(time.time())))

    def note(self, webhook: uuid.UUID, arrived: bool) -> None:
        """Let a failing webhook rest, longer after each failure."""
        if arrived:
            self.failures.pop(webhook, None)
            return
        count = self.failures.get(webhook, (0, 0.0))[0] + 1
        self.failures[webhook] = count, time.monotonic() + min(LONGEST_REST, 2.0 ** min(count, 10))
