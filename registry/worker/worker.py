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
from pathlib import Path
from typing import Any

import structlog

from registry import tracing
from registry.db.notifications import Watch, watching
from registry.db.tables import Model, Recipe
from registry.documents.composed_card import CardItem, render_card
from registry.errors import BlobDamaged, BreadcrumbError, InvalidInput, JobCancelled, JobFailed, NotFinite
from registry.files.folders import CONFIG, carried, is_weights, left_out
from registry.files.hashing import hash_file
from registry.sandboxes.sandbox import warm_up
from registry.services.blobs import blobs, damage
from registry.services.catalog import beside, hub_bases, models, patches
from registry.services.composing import builds, compositions, holding
from registry.services.queue import jobs
from registry.services.releasing import releases
from registry.worker import comparing, diffing
from registry.worker.runner import Hung, Stopped, concerning, fails_for_all, fails_in_bucket
from registry.worker.upkeep import Upkeep

log = structlog.get_logger()
SWEEP_EVERY = 600.0  # seconds
BUCKET_REST = timedelta(seconds=30)  # until a job is tried again that lacks an object; others go first
DISK_REST = 10.0  # seconds of a worker whose disk fails, before it tries again
MOST_IMPORTS = 4  # attempts of an import whose Hub does not answer: a minute at most, and somebody waits
MOST_HANGS = 3  # attempts of a job that hangs: each takes a worker for as long as it may stand still


class Worker(Upkeep):
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
        if orphans := blobs.adopt_orphans(self.database, self.store, strays):
            log.info("worker.orphans", blobs=orphans)
        if self.store.kind == "bucket":  # a folder would say the same of all blobs while it is not mounted
            lost = [sha256 for sha256 in missing if damage.examine(self.database, self.store, sha256)]
            if lost:
                log.error("worker.lost", blobs=len(lost), first=lost[0])
        self.sweep()

    def step(self) -> bool:
        """Run the next job, if there is one; return whether there was."""
        with self.database.read() as session:
            if not self.is_unseen and not jobs.any_claimable(session, self.name, self.lease):
                return False
        with self.database.write() as session:
            self.be_seen(session)
            claim = jobs.claim(session, self.name, self.lease)
        if claim is None:
            return False
        began = time.monotonic()
        carried = claim.payload.get("traceparent")
        with tracing.span(f"job {claim.kind}", "consumer", carried, crumb__job=str(claim.job_id)) as span:
            outcome = self.attempt(claim)
            span.set_attribute("crumb.outcome", outcome)
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
                "check": self.check_patch,
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
                patches.refuse(session, self.model(session, claim), revision, claim.model + claim.subject, refusal)
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
        card = models.read_card(self.store, files)
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
                models.finish_import(session, model, contents, models.read_card(self.store, named))
                jobs.end(session, claim, "done")

    def check_patch(self, claim: jobs.Claim) -> None:
        """Check a pushed file against its model's base and record its statistics."""
        revision_id = uuid.UUID(claim.payload["revision_id"])
        with self.database.read() as session:
            model = self.model(session, claim)
            revision = patches.by_id(session, revision_id)
            tensors = models.base_tensors(session, model)
            files = {file.path: file.sha256 for file in models.base_files(session, model)}
            offered = {file.path: file.sha256 for file in beside.files_of(session, revision)}
        damage.require_sound(self.database, self.store, [revision.sha256, *offered.values(), *files.values()])
        needed = {
            revision.sha256,
            *offered.values(),
            *concerning(files),
            *(files[path] for path in offered if path in files),
        }
        with self.base_here(claim), self.here(claim, needed):
            contents = self.in_sandbox(
                claim,
                "registry.sandboxes.tasks:check_patch",
                path=str(self.store.path(revision.sha256)),
                sha256=revision.sha256,
                base=model.base_digest,
                tensors=tensors,
                files=self.readable(files),
                beside={path: self.pair(sha256, files.get(path)) for path, sha256 in offered.items()},
            )
        with self.database.write() as session:
            revision, subject = patches.by_id(session, revision_id), claim.model + claim.subject
            patches.finish_check(session, self.model(session, claim), revision, subject, contents)
            jobs.end(session, claim, "done")

    def compose(self, claim: jobs.Claim) -> None:
        """Compose a recipe and record the composition; its files are stored if there is room, else only their digests.

        One that is recorded already gets its files again: they were damaged, or are to be held.
        """
        with self.database.read() as session:
            model, recipe = self.model(session, claim), compositions.load(session, claim.payload["recipe"])
            compositions.require_ingredients(session, model, recipe)
            files_of_base = models.base_files(session, model)
            base = {file.path: file.sha256 for file in files_of_base}
            named = compositions.described(session, model, recipe)
            size = sum(file.blob.size for file in files_of_base if is_weights(file.path))
            known = compositions.composition_of(session, model, recipe.digest)
        repaired = known is not None and known.held
        held = repaired or holding.make_room(self.database, self.store, size, self.settings.composed_bytes)
        if known is not None and not held and not compositions.is_damaged(known):
            with self.base_here(claim), self.database.write() as session:  # a reader may wait for a base from the Hub
                jobs.end(session, claim, "done")
            return
        with self.database.read() as session:
            result = compositions.reusable(session, model, recipe.digest, held=held)
        with self.store.folder(f"job-{claim.job_id.hex}-{claim.attempt}") as folder:
            if result is None:
                result = self.compose_into(folder if held else None, claim, base, recipe) | {"builder": self.name}
            others = {path: base[path] for path in carried(base, result["files"])}
            card = render_card(
                model.full_name,
                model.full_name,
                compositions.to_recipe(recipe),
                result["weights_digest"],
                [CardItem(item.sha256, revision.patch.number, revision.title) for item, revision in named if revision],
                models.read_card(self.store, base),
                left_out(base, result["files"]),
            )
            (folder / "README.md").write_text(card)
            files = {**others, **result["files"], "README.md": hash_file(folder / "README.md")}
            made = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
            for name, file in made.items():
                self.store.send_ahead(file, files[name], self.beating(claim))
            with self.database.write() as session:
                job = jobs.hold(session, claim)
                for name in sorted(result.get("sizes", {}) | made, key=lambda name: files[name]):  # one order
                    if (path := made.get(name)) is not None:
                        blobs.register(session, self.store, path, files[name], path.stat().st_size)
                    else:
                        blobs.refer(session, files[name], result["sizes"][name], "computed")
                model = self.model(session, claim)
                if held and "sizes" not in result:  # of another model, whose composition may have been let go of since
                    weights = {sha256 for path, sha256 in files.items() if is_weights(path)}
                    held = blobs.lease(session, weights).keys() >= weights
                composition = compositions.composition_of(session, model, recipe.digest)
                if composition is not None:
                    composition.held = held
                else:
                    compositions.finish(
                        session,
                        model,
                        recipe.digest,
                        result["weights_digest"],
                        result["device"],
                        result["seconds"],
                        files,
                        result["builder"],
                        job.user_id,
                        result["warnings"],
                        held=held,
                    )
                    releases.composed(session, model, recipe.digest)
                jobs.end(session, claim, "done")

    def compose_into(
        self, folder: Path | None, claim: jobs.Claim, base: dict[str, str], recipe: Recipe, *, keep: bool = True
    ) -> dict[str, Any]:
        """Compose the weight files of a recipe into a folder, if there is one; else only find out their digests.

        That is done in the process that the last composition left, if any.
        """
        wanted = compositions.to_recipe(recipe)
        used = [item.sha256 for item in wanted.items]
        damage.require_sound(self.database, self.store, [*base.values(), *used])
        with self.base_here(claim), self.here(claim, {*concerning(base), *used}):
            files = self.readable(base)
            if folder is not None:
                self.store.require_room(sum(Path(file).stat().st_size for file in files.values()), "the composition")
            result: dict[str, Any] = self.in_sandbox(
                claim,
                "registry.sandboxes.tasks:compose",
                keep=keep and self.settings.device != "cpu",
                grows=folder is not None,
                base={path: (file, base[path]) for path, file in files.items()},
                patches={sha256: str(self.store.path(sha256)) for sha256 in used},
                recipe={"base": wanted.base, "alpha": wanted.alpha, "items": wanted.items, "method": wanted.method},
                out=None if folder is None else str(folder),
                device=self.settings.device,
                device_memory=self.settings.device_memory,
            )
        self.device = result["device"]
        if self.kept and result["device"] != "cuda":
            self.kept.kill()
            self.kept = None
        return result

    def rebuild(self, claim: jobs.Claim) -> None:
        """Compose a recipe that another worker has composed, and record the result as a build."""
        with self.database.read() as session:
            model, recipe = self.model(session, claim), compositions.load(session, claim.payload["recipe"])
            compositions.require_ingredients(session, model, recipe)
            base = {file.path: file.sha256 for file in models.base_files(session, model)}
        result = self.compose_into(None, claim, base, recipe, keep=False)
        with self.database.write() as session:
            jobs.hold(session, claim)
            model = self.model(session, claim)
            made = result["weights_digest"], result["device"], result["files"]
            builds.add_rebuild(session, model, recipe.digest, self.name, *made)
            jobs.end(session, claim, "done")
