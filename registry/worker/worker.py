"""The worker: claims the next job, runs it in a sandbox, and publishes the result in one transaction.

claim ── runner.py ── publish (result and `done` in one commit, fenced by the attempt)
             ├─ cancelled, or the lease is lost: nothing is published
             ├─ hung: claimed again later, as if the worker had died
             ├─ the disk failed: given back; the worker rests and tries again
             └─ crashed or refused: the job fails with a sentence
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import structlog

from registry import tracing
from registry.db.notifications import Watch, watching
from registry.db.tables import Model
from registry.errors import BlobDamaged, BreadcrumbError, InvalidInput, JobCancelled, JobFailed, NotFinite
from registry.files.folders import CONFIG
from registry.sandboxes.sandbox import warm_up
from registry.services.blobs import blobs, damage, texts
from registry.services.catalog import hub_bases, models, patches, revisions
from registry.services.composing import parts
from registry.services.queue import jobs
from registry.services.releasing import releases
from registry.worker import checking, comparing, diffing
from registry.worker.composing import Composer
from registry.worker.runner import Hung, Postponed, Stopped, concerning, fails_for_all, fails_in_bucket

log = structlog.get_logger()
SWEEP_EVERY = 600.0  # seconds
BUCKET_REST = timedelta(seconds=30)  # until a job is tried again that lacks an object; others go first
REST = timedelta(seconds=30)  # until a job is tried again that another worker, or a cluster, has to do
DISK_REST = 10.0  # seconds of a worker whose disk fails, before it tries again
MOST_IMPORTS = 4  # attempts of an import whose Hub does not answer: a minute at most, and somebody waits
MOST_HANGS = 3  # attempts of a job that hangs: each takes a worker for as long as it may stand still


class Worker(Composer):
    """Runs jobs one at a time until it is stopped."""

    def run(self) -> None:
        """Work until `stop` is called."""
        log.info("worker.start", worker=self.name)
        threads = [threading.Thread(target=self.beside, args=(self.swept, self.scrub), name="scrub")]
        if self.bucket:
            threads.append(threading.Thread(target=self.beside, args=(self.fresh, self.offload), name="bucket"))
        for thread in threads:
            thread.start()
        with watching(self.database.notifications, self.news) as watch:
            self.work(watch)
        if self.kept:
            self.kept.kill()
        if self.cluster:
            self.cluster.close()
        for event in (self.stopping, self.swept, self.fresh):
            event.set()
        for thread in threads:
            thread.join()
        log.info("worker.stop", worker=self.name)

    def work(self, watch: Watch) -> None:
        """Do one job after the other, and sweep now and then, until `stopping` is set."""
        due = 0.0
        while not self.stopping.is_set():
            watch.begin()
            try:
                if time.monotonic() >= due:
                    self.recover() if due == 0.0 else self.sweep()
                    due = time.monotonic() + SWEEP_EVERY
                if worked := self.step():
                    self.fresh.set()
            except Stopped:
                break
            except Exception:  # the database does not answer, say: the next round tries again
                log.exception("worker.error")
                worked = False
            if not worked and not self.stopping.is_set():
                watch.wait(self.settings.poll_seconds)

    def recover(self) -> None:
        """Repair what a killed process left behind, and warm up; safe at any time."""
        warm_up()
        self.look_at_fence()
        with self.database.write() as session:
            self.be_seen(session)
        strays, missing = blobs.compare(self.database, self.store)
        if orphans := blobs.adopt_orphans(self.database.write, self.store, strays):
            log.info("worker.orphans", blobs=len(orphans))
        if self.store.kind == "bucket":  # a folder would say the same of all blobs while it is not mounted
            lost = [sha256 for sha256 in missing if damage.examine(self.database, self.store, sha256)]
            if lost:
                log.error("worker.lost", blobs=len(lost), first=lost[0])
        self.sweep()

    def step(self) -> bool:
        """Run the next job, if there is one; return whether there was."""
        with self.database.read() as session:
            if not self.is_unseen and not jobs.any_claimable(session, self.name, self.lease, self.ability):
                return False
        ability = self.can_now()  # only now, since it looks at the disk
        with self.database.write() as session:
            self.be_seen(session)
            claim = jobs.claim(session, self.name, self.lease, ability)
        if claim is None:
            return False
        began = time.monotonic()
        carried = claim.payload.get("traceparent")
        with tracing.span(f"job {claim.kind}", "consumer", carried, crumb__job=str(claim.job_id)) as span:
            outcome = self.attempt(claim)
            span.set_attribute("crumb.outcome", outcome)
            if claim.kind == "compose":
                parts.forget(self.database, self.store)
            if outcome != "done":
                tracing.fail(span, outcome)
        self.metrics.jobs.labels(claim.kind, outcome).observe(time.monotonic() - began)
        return outcome != "disk"

    def attempt(self, claim: jobs.Claim) -> str:
        """Attempt a claimed job; return the outcome: done, lost, hung, cancelled, failed, postponed or disk."""
        bound = log.bind(job=str(claim.job_id), kind=claim.kind, model=claim.model, subject=claim.subject)
        bound.info("job.start", attempt=claim.attempt)
        try:
            if claim.deaths >= self.settings.job_attempts:
                what = "attempts of this job failed" if claim.error else "workers died on this job"
                last = f" The last: {claim.error}" if claim.error else ""
                raise JobFailed(f"{claim.deaths} {what}, so it is not tried again.{last}")
            work: dict[str, Callable[[jobs.Claim], None]] = {
                "import": self.import_base,
                "check": partial(checking.check_patch, self),
                "diff": partial(diffing.diff, self),
                "compose": self.compose,
                "rebuild": self.rebuild,
                "conflicts": partial(comparing.compare, self),
            }
            work[claim.kind](claim)
            bound.info("job.done")
            return "done"
        except jobs.LeaseLost:
            bound.warning("job.lost")
            return "lost"
        except Stopped:
            with contextlib.suppress(jobs.LeaseLost), self.database.write() as session:
                jobs.release(session, claim)
            raise
        except Hung as why:
            bound.warning("job.hung", attempt=claim.attempt, error=str(why))
            if claim.deaths + 1 >= min(MOST_HANGS, self.settings.job_attempts):
                self.give_up(claim, "failed", JobFailed(f"{jobs.HUNG_AT_LAST}{claim.attempt}. {why}"))
            else:
                with contextlib.suppress(jobs.LeaseLost), self.database.write() as session:
                    jobs.postpone(session, claim, timedelta(seconds=2**claim.deaths), f"{jobs.HUNG}{why}")
            return "hung"
        except Postponed as why:
            bound.warning("job.postponed", error=str(why))
            with contextlib.suppress(jobs.LeaseLost), self.database.write() as session:
                jobs.postpone(session, claim, REST, str(why), counts=False)
            return "postponed"
        except JobCancelled:
            self.give_up(claim, "cancelled", None)
            bound.info("job.cancelled")
            return "cancelled"
        except (InvalidInput, JobFailed, NotFinite) as error:
            self.give_up(claim, "failed", error)
            bound.warning("job.failed", error=str(error))
            return "failed"
        except Exception as error:  # the database or the disk failed, not what the job is about
            if isinstance(error, BlobDamaged) and error.field:
                damage.note(self.database, self.store, error.field)
            told, repeatable = isinstance(error, BreadcrumbError), claim.kind in jobs.REPEATABLE
            in_bucket = fails_in_bucket(error, self.store)
            if in_bucket or (fails_for_all(error) and not (told and repeatable)):
                with contextlib.suppress(jobs.LeaseLost), self.database.write() as session:
                    if in_bucket:
                        jobs.postpone(session, claim, BUCKET_REST, str(error), counts=repeatable)
                    else:
                        jobs.release(session, claim)
                bound.exception("job.error")
                self.stopping.wait(DISK_REST)
                return "disk"
            tried = repeatable or (claim.kind == "import" and claim.deaths + 1 >= MOST_IMPORTS)
            if isinstance(error, BreadcrumbError) and tried:  # whoever asked can ask again
                self.give_up(claim, "failed", error)
            else:
                with contextlib.suppress(jobs.LeaseLost), self.database.write() as session:
                    delay = timedelta(seconds=2 ** min(claim.deaths, 6))
                    jobs.postpone(session, claim, delay, str(error) if told else None)
            bound.exception("job.error")
            return "failed" if told and tried else "postponed"

    def give_up(self, claim: jobs.Claim, state: str, error: BreadcrumbError | None) -> None:
        """End a job without a result, and record that on what it was about."""
        with contextlib.suppress(jobs.LeaseLost), self.database.write() as session:
            if claim.kind == "diff":  # a commit locks the model before the job
                models.find(session, self.model(session, claim).full_name, lock=True)
            jobs.end(session, claim, state, str(error) if error else None)
            if claim.kind == "import":
                reserved = claim.payload.get("reserved", False)
                models.refuse_import(session, self.model(session, claim), str(error), reserved=reserved)
            if claim.kind == "check":
                revision = patches.by_id(session, uuid.UUID(claim.payload["revision_id"]))
                refusal = str(error) if isinstance(error, InvalidInput) else f"The check itself failed: {error}"
                revisions.refuse(session, self.model(session, claim), revision, claim.model + claim.subject, refusal)
            if claim.kind == "diff":
                diffing.give_up(session, claim, str(error))
            if claim.kind == "compose":
                releases.failed(session, self.model(session, claim), claim.payload["recipe"])

    def import_base(self, claim: jobs.Claim) -> None:
        """Check a new model's files and record its tensors."""
        with self.database.read() as session:
            model = self.model(session, claim)
            files = {file.path: file.sha256 for file in models.base_files(session, model)}
        if model.source is not None and not files:
            self.import_source(claim, model, model.source)
            return
        damage.require_sound(self.database, self.store, files.values())
        with self.here(claim, concerning(files)):
            contents = self.in_sandbox(claim, "registry.sandboxes.tasks:import_base", files=self.readable(files))
        card = texts.read_card(self.store, files)
        with self.database.write() as session:
            models.finish_import(session, self.model(session, claim), contents, card)
            jobs.end(session, claim, "done")

    def import_source(self, claim: jobs.Claim, model: Model, wanted: str) -> None:
        """Fetch a new model's files from the Hub, check them, and pin the model to them."""
        limits = hub_bases.BaseLimits(
            self.settings.upload_bytes,
            self.settings.cache_bytes,
            self.settings.quota_bytes,
            self.settings.quota_uploads,
        )
        listed = self.in_sandbox(
            claim, "registry.sandboxes.tasks:list_source", network=True, hub=self.settings.hub, source=wanted
        )
        chosen = hub_bases.choose(model, [(path, size, name) for path, size, name in listed["files"]], limits)
        with self.database.write() as session:
            hub_bases.require_room(session, self.model(session, claim), hub_bases.stored_files(model, chosen), limits)
        source = f"{wanted.partition('@')[0]}@{listed['commit']}"
        with self.fetched(claim, source, [file for file in chosen if file.path == CONFIG]) as configs:
            for path in self.readable({file.path: file.name for file in configs}).values():
                self.in_sandbox(claim, "registry.sandboxes.tasks:check_config", path=path)
        with (
            self.fetched(claim, source, chosen) as files,
            self.store.folder(f"job-{claim.job_id.hex}-{claim.attempt}") as folder,
        ):
            named = {file.path: file.name for file in files}
            contents = self.in_sandbox(
                claim,
                "registry.sandboxes.tasks:import_base",
                files=self.readable(named),
                pickled=hub_bases.pickled(listed["files"]),
            )
            for sha256 in hub_bases.stored_files(model, files):
                self.cache.lend(sha256, folder)
                if (folder / sha256).exists():
                    self.store.send_ahead(folder / sha256, sha256, self.beating(claim))
            with self.database.write() as session:
                jobs.hold(session, claim)
                model = self.model(session, claim)
                hub_bases.register(session, self.store, model, source, files, folder, limits)
                models.finish_import(session, model, contents, texts.read_card(self.store, named))
                jobs.end(session, claim, "done")
