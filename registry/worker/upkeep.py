"""Upkeep: what a worker does beside its jobs - it sweeps, reads blobs again, and copies them into the bucket."""

import threading
from collections.abc import Callable
from datetime import timedelta

import structlog

from registry.db import statistics
from registry.db.session import Database
from registry.errors import StorageFailed
from registry.services.blobs import bucket_copies, garbage, scrubbing
from registry.services.catalog import models, publishers
from registry.services.composing import holding, parts
from registry.services.hub import downloads
from registry.services.people import sign_ins, tokens
from registry.services.people.joining import devices, invitations
from registry.services.queue import workers
from registry.settings import Settings
from registry.storage.bucket import open_bucket
from registry.storage.store import Store
from registry.worker.metrics import WorkerMetrics
from registry.worker.runner import Runner

log = structlog.get_logger()


class Upkeep(Runner):
    """Keeps a registry in order, for a worker that says when."""

    def __init__(
        self, settings: Settings, database: Database, store: Store, metrics: WorkerMetrics | None = None
    ) -> None:
        super().__init__(settings, database, store, metrics)
        self.bucket = open_bucket(settings.copies, **settings.bucket_access)
        self.compared = False  # whether this worker has seen if the bucket has what the database says
        self.fresh = threading.Event()  # there may be something to copy into the bucket
        self.swept = threading.Event()  # there may be blobs to read again

    def sweep(self) -> None:
        """Remove what nothing needs any more, and renew the counts and statistics that reads rely on.

        Removed are expired uploads, abandoned staging files, bytes that nothing refers to, those of compositions that
        are more than may be held, models that nobody has given a base, workers of long ago, and
        what nobody can come in by any more: sessions, tokens of browsers and workflows, codes, invitations.
        """
        grace = timedelta(hours=self.settings.upload_hours)
        lent = timedelta(seconds=self.settings.bucket_seconds)
        collected = garbage.run(self.database, self.store, grace, orphans=False, bucket=self.bucket, lent=lent)
        parts.forget(self.database, self.store)
        holding.make_room(self.database, self.store, 0, self.settings.composed_bytes)
        holding.reclaim(self.database, self.store)
        if collected.problem:
            log.warning("bucket.failed", error=collected.problem)
        with self.database.write() as session:
            models.forget_empty(session)
            workers.forget(session)
        with self.database.write() as session:
            sign_ins.drop_ended(session)
            tokens.drop_ended(session, "publisher")
            publishers.drop_used(session)
            devices.drop_expired(session)
            invitations.drop_expired(session)
        downloads.renew(self.database)
        statistics.refresh(self.database)
        self.fresh.set()
        self.swept.set()

    def beside(self, event: threading.Event, work: Callable[[], None]) -> None:
        """Work in a thread whenever an event is set, since a job must not wait for the reading of a large file.

        What failed is tried again after the next job, or the next sweep.
        """
        while not self.stopping.is_set():
            if event.wait(self.settings.poll_seconds) and not self.stopping.is_set():
                event.clear()
                try:
                    work()
                except Exception:  # the database does not answer, say
                    log.exception("worker.error")

    def scrub(self) -> None:
        """Read the blobs that are due again, until all are read or the worker stops; mark and repair damaged ones."""
        if self.settings.scrub_days:
            period = timedelta(days=self.settings.scrub_days)
            for found in scrubbing.run(self.database, self.store, period, self.stopping, self.bucket):
                tell = log.info if found.repaired else log.error
                event = "blob.repaired" if found.repaired else "blob.damaged"
                tell(event, sha256=found.sha256, problem=found.problem)

    def offload(self) -> None:
        """Copy blobs into the bucket, one at a time, until all are there, the bucket fails, or the worker stops.

        The first time, see first what the bucket has lost: it may be older than the database.
        """
        if self.bucket is None:
            return
        smallest, stopping = self.settings.bucket_least, self.stopping.is_set
        if not self.compared:
            try:
                lost = bucket_copies.find_lost(self.database, self.store, self.bucket, stopping)
            except StorageFailed as error:
                log.warning("bucket.failed", error=str(error))
                return
            self.compared = True
            if lost:
                log.warning("bucket.lost", blobs=len(lost))
        for outcome in bucket_copies.run(self.database, self.store, self.bucket, smallest, stopping):
            self.metrics.copies.labels("failed" if outcome.error else "copied").inc()
            if outcome.error:
                log.warning("bucket.failed", sha256=outcome.sha256, size=outcome.size, error=str(outcome.error))
            else:
                log.info("bucket.copied", sha256=outcome.sha256, size=outcome.size)
