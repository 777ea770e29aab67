"""The runner: runs a job's task in a sandbox, with heartbeats meanwhile, and fetches the base if needed.

claim ── sandbox ── heartbeat every second ── result
             │            └─ cancelled, hung, or the lease is lost: kill the sandbox
             └─ crashed or refused: an error with one sentence
"""

import contextlib
import errno
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy.orm import Session

from registry import tracing
from registry.db.session import Database
from registry.db.tables import Model
from registry.errors import (
    BlobDamaged,
    BreadcrumbError,
    JobCancelled,
    JobFailed,
    StorageFailed,
    StorageFull,
    Unavailable,
)
from registry.files.folders import concerns_weights
from registry.sandboxes.sandbox import Sandbox
from registry.services.catalog import hub_bases, models
from registry.services.queue import jobs, workers
from registry.services.queue.abilities import Ability
from registry.settings import Settings
from registry.storage.cache import Cache
from registry.storage.pieces import Beat, Excerpt
from registry.storage.store import Store
from registry.worker.metrics import WorkerMetrics

log = structlog.get_logger()
HEARTBEAT_EVERY = 1.0  # seconds
SEEN_EVERY = 15.0  # seconds; a worker that was not seen for four times as long counts as dead
IS_FENCED = "registry.sandboxes.sandbox:is_fenced"
NO_FENCE = (
    "Processes that read strangers' files can reach the network, since the kernel gives this user no namespaces; "
    "allow them (on Linux: sysctl user.max_user_namespaces, and AppArmor's rules), or let a firewall fence them in."
)
MOST_BASES = 16  # that a worker remembers
VERIFIED_FOR = 60.0  # seconds after which a job hashes its patches again: disks lose bits, and it may take hours
MOST_FETCHES = 3  # of a base, if the cache drops fetched files before they are used


class Stopped(Exception):
    """The worker was asked to stop."""


class Postponed(Exception):
    """The job cannot be done here now, which is no fault of its own: somebody tries it again later."""


class Hung(Exception):
    """The process of a job stood still for too long."""


def fails_for_all(error: Exception) -> bool:
    """Say whether the disk failed, so that any job would: it is no fault of this one, and does not count as a death."""
    if isinstance(error, BreadcrumbError):
        return isinstance(error, StorageFull | StorageFailed) and not isinstance(error, BlobDamaged)
    return isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EIO, errno.ENOSPC, errno.EDQUOT)


def fails_in_bucket(error: Exception, store: Store) -> bool:
    """Say whether a bucket failed: perhaps on one object alone, so that other jobs are to be tried before this one."""
    return store.kind == "bucket" and isinstance(error, StorageFailed) and not isinstance(error, BlobDamaged)


def concerning(files: dict[str, str]) -> set[str]:
    """Return the digests of the files that hold or describe the weights; see `Runner.readable`."""
    return {sha256 for path, sha256 in files.items() if concerns_weights(path)}


class Stillness:
    """Notices when what is looked at has not changed for some time.

    Args:
        seconds: How long; 0 for ever.
        clock: Returns the time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self.last: object = None
        self.since = clock()

    def look(self, activity: object) -> bool:
        """Say whether the activity has been the same for too long; None counts as a change."""
        if activity is None or activity != self.last:
            self.last, self.since = activity, self.clock()
        return 0 < self.seconds <= self.clock() - self.since


class Runner:
    """Runs tasks for a worker, which records their results."""

    def __init__(
        self, settings: Settings, database: Database, store: Store, metrics: WorkerMetrics | None = None
    ) -> None:
        self.metrics = metrics or WorkerMetrics()
        self.settings, self.database, self.store = settings, database, store
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.lease = timedelta(seconds=settings.lease_seconds)
        self.stopping = threading.Event()
        self.news = threading.Event()  # there may be a job
        self.cache = Cache(store)
        self.device: str = settings.device  # where it composes
        self.seen = float("-inf")  # when it was last marked as seen
        self.kept: Sandbox | None = None  # a process that has composed on the GPU and keeps a base there
        self.unfenced: set[str] = set()  # nodes of a cluster of which the log was told that they have no fence
        self.ability = Ability()
        self.bases: dict[
            str, set[str]
        ] = {}  # that it has worked on, the last one last, with the digests of their files

    def stop(self) -> None:
        """Have this worker end soon, and give back the job that is running then."""
        self.stopping.set()
        self.news.set()

    @property
    def is_unseen(self) -> bool:
        """Whether this worker was not marked as seen for some seconds."""
        return time.monotonic() - self.seen >= SEEN_EVERY

    def be_seen(self, session: Session) -> None:
        """Mark this worker as seen, every few seconds."""
        if self.is_unseen:
            workers.mark_seen(session, self.name, self.device, self.ability.kinds, self.ability.most_bytes)
            self.seen = time.monotonic()

    def can_now(self) -> Ability:
        """Return what this worker can do, with the bases that it has worked on and that are still here."""
        here = (base for base, files in self.bases.items() if all(self.cache.locate(file).is_file() for file in files))
        return replace(self.ability, bases=frozenset(here))

    def model(self, session: Session, claim: jobs.Claim) -> Model:
        """Return the model that a job is about."""
        return session.get_one(Model, uuid.UUID(claim.payload["model_id"]))

    def in_sandbox(
        self,
        claim: jobs.Claim,
        function: str,
        *,
        keep: bool = False,
        network: bool = False,
        grows: bool = False,
        done: tuple[float, float] = (0.0, 1.0),
        **kwargs: Any,
    ) -> Any:
        """Run a task in a process of its own, with heartbeats.

        Args:
            claim: The job.
            function: `module:name`.
            keep: Whether to use the process that the last task that was kept has left, and to leave it for the next.
            network: Whether the process may reach other machines; if not, the kernel prevents it where it can.
            grows: Whether the process writes much, so that it is ended when the disk has no room beside the reserve.
            done: The share of the job that is done before the task, and the share that the task does.
            kwargs: Arguments of the function.

        Raises:
            JobCancelled, LeaseLost, Stopped, Hung: The process was killed.
            StorageFull: The process was killed, since it left no room on the disk.
            BreadcrumbError: The task raised it; JobFailed when the process crashed.
        """
        with tracing.span(f"process {function.rpartition(':')[2]}"):
            sandbox = self.take_kept(function, kwargs) if keep else None
            sandbox = sandbox or Sandbox(function, kwargs, self.settings.job_memory, keep, network)
            ended = False
            try:
                result = self.await_result(claim, sandbox, done, grows=grows)
                ended = True
            finally:
                if keep and ended:
                    self.kept = sandbox
                else:
                    sandbox.kill()
            return result

    def await_result(self, claim: jobs.Claim, sandbox: Sandbox, done: tuple[float, float], *, grows: bool) -> Any:
        """Wait for the result of a process; see `in_sandbox`."""
        stillness = Stillness(self.settings.job_still_seconds)

        def progress() -> float:
            return done[0] + done[1] * sandbox.progress

        beat = self.beating(claim, progress)
        try:
            while (result := sandbox.wait(0.25)) is None:
                if grows:
                    self.store.require_room(1, "what this job writes")
                if beat() and stillness.look(sandbox.activity):
                    raise Hung(
                        f"Its process neither progressed nor used a processor for {stillness.seconds:g} seconds, "
                        f"at {progress():.0%}."
                    )
        except JobFailed:
            if self.stopping.wait(0.5):  # what stops this worker may have stopped the process, too
                raise Stopped from None
            raise
        for stage in sandbox.stages:
            tracing.add(*stage)
        return result

    def beating(self, claim: jobs.Claim, progress: Callable[[], float] = lambda: 1.0) -> Beat:
        """Return what keeps a job's lease, if it is called often; called, it says whether it has written a heartbeat.

        Args:
            claim: The job.
            progress: Returns the share of the job that is done.

        Raises (when called):
            JobCancelled, LeaseLost, Stopped: The work is to be given up.
        """
        last = time.monotonic()

        def beat() -> bool:
            nonlocal last
            if self.stopping.is_set():
                raise Stopped
            if time.monotonic() - last < min(HEARTBEAT_EVERY, self.settings.lease_seconds / 4):
                return False
            last = time.monotonic()
            with self.database.write() as session:
                self.be_seen(session)
                if jobs.heartbeat(session, claim, progress(), self.lease):
                    raise JobCancelled("The job was cancelled.")
            return True

        return beat

    @contextlib.contextmanager
    def here(
        self, claim: jobs.Claim, digests: Collection[str], excerpts: Collection[Excerpt] = ()
    ) -> Iterator[dict[str, str]]:
        """Keep blobs, and excerpts of others, on this machine for a while, whatever they are stored in.

        Yields:
            Where they are: the path of each file, by the sha256 of its blob.
        """
        beat = self.beating(claim)
        with contextlib.ExitStack() as stack:
            self.store.hold(stack, digests, beat)
            parts = {excerpt.sha256: self.store.hold_excerpt(stack, excerpt, beat) for excerpt in excerpts}
            paths = {sha256: self.store.path(sha256) for sha256 in digests} | parts
            yield {sha256: str(path) for sha256, path in paths.items()}

    def look_at_fence(self) -> None:
        """Say in the log if jobs that read strangers' bytes can reach other machines here."""
        sandbox, fenced = Sandbox(IS_FENCED, {}, self.settings.job_memory), None
        try:
            while fenced is None and not self.stopping.is_set():
                fenced = sandbox.wait(0.25)
        except JobFailed as error:
            log.warning("worker.no_sandbox", error=str(error))
        finally:
            sandbox.kill()
        if fenced is False:
            log.warning("worker.no_fence", hint=NO_FENCE)

    def take_kept(self, function: str, kwargs: dict[str, Any]) -> Sandbox | None:
        """Call a task in the process that was kept; None if there is none, or it has died since."""
        kept, self.kept = self.kept, None
        if kept is None:
            return None
        try:
            kept.again(kwargs, function)
        except OSError:
            kept.kill()
            return None
        return kept

    @contextlib.contextmanager
    def fetched(
        self, claim: jobs.Claim, source: str, files: Sequence[hub_bases.HubFile], *, mirrored: bool = False
    ) -> Iterator[list[hub_bases.HubFile]]:
        """Keep files of a base here for a while, fetching them from the Hub if needed; yield them by their sha256.

        `mirrored` says that another registry has named the source.

        Raises:
            JobFailed: The Hub no longer has these bytes.
            Unavailable: The Hub does not send the bytes now, or the cache has no room beside what other jobs use.
        """
        current = list(files)
        for _ in range(MOST_FETCHES):
            with contextlib.ExitStack() as stack:
                known = {file.name for file in current if len(file.name) == 64}
                stored = {sha256 for sha256 in known if self.store.exists(sha256)}
                self.store.hold(stack, stored, self.beating(claim))
                missing = self.cache.hold(stack, known - stored)
                wanted = {file.name: file for file in current if file.name in missing or file.name not in known}
                if not wanted:
                    yield current
                    break
                brought = self.in_sandbox(
                    claim,
                    "registry.sandboxes.tasks:fetch",
                    network=True,
                    grows=True,
                    hub=self.settings.hub_of_mirrored if mirrored else self.settings.hub,
                    source=source,
                    files=[(file.path, file.size, file.name) for file in wanted.values()],
                    data=str(self.store.root),
                    reserve=self.store.reserve,
                )
                current = [replace(file, name=brought.get(file.name, file.name)) for file in current]
        else:
            raise Unavailable(f"The cache has no room for {source} beside what other jobs use; try again later.")
        if current:
            self.cache.trim(self.settings.cache_bytes)

    @contextlib.contextmanager
    def base_here(self, claim: jobs.Claim) -> Iterator[None]:
        """Keep all files of a model's base here for a while."""
        with self.database.read() as session:
            model = self.model(session, claim)
            remote, mirrored = hub_bases.remote(session, model), model.primary is not None
            files = {file.path: file.sha256 for file in models.base_files(session, model)}
        with self.fetched(claim, model.source or "", remote, mirrored=mirrored):
            yield
        if model.base_digest is not None:
            self.bases.pop(model.base_digest, None)
            self.bases[model.base_digest] = concerning(files)
            while len(self.bases) > MOST_BASES:
                del self.bases[next(iter(self.bases))]

    def readable(self, files: dict[str, str]) -> dict[str, str]:
        """Return the paths of the files that hold or describe the weights: safetensors, indexes, components, config."""
        return {path: str(self.cache.locate(sha256)) for path, sha256 in files.items() if concerns_weights(path)}

    def pair(self, sha256: str, base: str | None) -> tuple[str, str | None]:
        """Return the path of a file that came with a patch, and of the base's, if that has it here."""
        theirs = str(self.store.path(base)) if base is not None and self.store.exists(base) else None
        return str(self.store.path(sha256)), theirs
