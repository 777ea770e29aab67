"""Nodes: what a machine of a cluster does for a worker elsewhere - it composes one weight file, in a sandbox.

The worker sends digests, and neither bytes nor credentials. What a node reads and where it writes are its own settings,
REGISTRY_* in the environment in which its Ray was started: the bucket of the registry and a folder for copies, or the
data folder itself where that is shared. It has no database. A result is in the bucket, or in the job's folder of the
shared disk, before the worker hears of it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import registry
from registry.errors import BlobDamaged, BreadcrumbError, InvalidRequest, JobFailed, WrongState
from registry.files.hashing import Extent
from registry.sandboxes.sandbox import Sandbox
from registry.settings import Settings
from registry.storage.bucket import open_bucket
from registry.storage.bucket_store import BucketStore
from registry.storage.cache import Cache
from registry.storage.pieces import Excerpt
from registry.storage.store import Store
from registry.worker.runner import IS_FENCED, VERIFIED_FOR, Hung, Stillness

TASK = "registry.sandboxes.parts:compose_files"
FENCED_WITHIN = 60.0  # seconds
OWN = "node-"  # how the names of staging folders of a node begin


class CopyDamaged(Exception):
    """The copy of a blob on this machine went bad."""


class Node:
    """This machine, for the parts that it is sent one after another.

    Args:
        settings: Where its store is, and what its processes may use.

    Raises:
        InvalidRequest: The blobs are to be in a bucket, and none is named.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.store = settings, open_node_store(settings)
        self.store.prepare()
        self.discard_left()
        self.fenced: bool | None = None  # not known yet
        self.kept: Sandbox | None = None  # it has loaded what a composition needs, and maybe holds a base on a GPU
        self.verified, self.verified_at = "", 0.0  # the job whose patches were hashed here, and when

    def compose(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Compose a weight file; return what became of it: `part`, `error`, or `lost` if it is to be tried elsewhere.

        Args:
            ask: `path` and `sha256` of the base's weight file, and `key` of the submission. All parts of a job share
                `registry` and `version` of the worker; `job`, the name of its staging folder; `stored`, whether to keep
                the result; and arguments of the task: `tensors`, `patches` (their digests), `excerpts` (size and
                extents of those that are not needed whole), `recipe`, `device`, `device_memory`, `threads`.

        Returns:
            With a `part` also `fenced`: whether the process was kept from other machines.
        """
        try:
            return {"part": self._compose(ask), "fenced": self.is_fenced()}
        except (Hung, CopyDamaged) as why:
            return {"lost": str(why)}
        except BreadcrumbError as error:
            return {"error": {"slug": error.slug, "message": error.message, "field": error.field}}

    def _compose(self, ask: dict[str, Any]) -> dict[str, Any]:
        self.require_own(ask["registry"], ask["version"])
        path, stored, shared = ask["path"], ask["stored"], self.store.kind == "disk"
        with ExitStack() as stack:
            excerpts = [
                Excerpt(sha256, size, tuple(Extent(*extent) for extent in listed))
                for sha256, (size, listed) in ask["excerpts"].items()
            ]
            whole = {ask["sha256"], *ask["patches"]} - ask["excerpts"].keys()
            self.store.hold(stack, whole)
            patches = {sha256: str(self.store.path(sha256)) for sha256 in ask["patches"]}
            patches |= {each.sha256: str(self.store.hold_excerpt(stack, each)) for each in excerpts}
            folder = stack.enter_context(self.staging(ask["job"], ask["key"])) if stored else None
            began = time.monotonic()
            fresh = ask["job"] == self.verified and began - self.verified_at < VERIFIED_FOR
            result = self.run(
                stored,
                {
                    "base": {path: (str(Cache(self.store).locate(ask["sha256"])), ask["sha256"])},
                    "patches": patches,
                    "excerpts": {each.sha256: each.listed for each in excerpts},
                    "out": None if folder is None else str(folder),
                    "verified": fresh,
                    **{key: ask[key] for key in ("tensors", "recipe", "device", "device_memory", "threads")},
                },
            )
            if not fresh:
                self.verified, self.verified_at = ask["job"], began
            file: dict[str, Any] = result["files"][path]
            if folder is not None and not shared:
                self.store.send_ahead(folder / path, file["sha256"])
        return {"path": path, **file, "device": result["device"], "seconds": result["seconds"]}

    def is_fenced(self) -> bool:
        """Say whether processes here that read strangers' bytes are kept from other machines."""
        if self.fenced is None:
            sandbox = Sandbox(IS_FENCED, {}, self.settings.job_memory)
            try:
                self.fenced = bool(sandbox.wait(FENCED_WITHIN))
            except JobFailed:  # it has crashed
                self.fenced = False
            finally:
                sandbox.kill()
        return self.fenced

    @contextmanager
    def staging(self, job: str, key: str) -> Iterator[Path]:
        """Create the folder of a submission: in the job's, where the worker sees it, or for as long as this runs.

        No other submission writes there, so what a lost one leaves is taken for no result.
        """
        if self.store.kind == "disk":
            folder = self.store.staging / job / key
            with self.store.writing("a staging folder"):
                folder.mkdir()
            yield folder
            return
        with self.store.folder(f"{OWN}{key}") as folder:
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH)  # the system lets go of it if this process is killed
                yield folder
            finally:
                os.close(handle)

    def discard_left(self) -> None:
        """Discard what processes of this node that were killed have left in its own folder."""
        for folder in self.store.staging.glob(f"{OWN}*"):
            with suppress(OSError):
                handle = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self.store.discard(folder)
                finally:
                    os.close(handle)

    def require_own(self, registry_id: str, version: str) -> None:
        """Refuse work that this machine would do with other bytes or by another program.

        Raises:
            WrongState: It has another version, or the store of another registry.
        """
        if version != registry.version():
            raise WrongState(f"A node has version {registry.version()}, and the worker {version}; install the same.")
        if (owner := self.store.owner()) != registry_id:
            raise WrongState(
                f"{self.store.place}, which a node names in its settings, belongs to the registry {owner}, and the "
                f"worker to {registry_id}. Set REGISTRY_DATA, REGISTRY_STORE and REGISTRY_BUCKET where its Ray is "
                "started as for the worker."
            )

    def run(self, grows: bool, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Run the task in the process that was kept, or in a new one, which is kept if it ends well.

        Raises:
            Hung: It stood still for too long.
            StorageFull: It left no room on the disk.
            BreadcrumbError: The task raised it; JobFailed when the process crashed.
        """
        sandbox, self.kept = self.kept, None
        if sandbox is not None and sandbox.alive:
            sandbox.again(kwargs)
        else:
            sandbox = Sandbox(TASK, kwargs, self.settings.job_memory, keep=True)
        stillness = Stillness(self.settings.job_still_seconds)
        try:
            while (result := sandbox.wait(0.25)) is None:
                if grows:
                    self.store.require_room(1, "what this job writes")
                if stillness.look(sandbox.activity):
                    raise Hung(f"Its process stood still for {stillness.seconds:g} seconds.")
            self.kept = sandbox
            return dict(result)
        except BlobDamaged as error:
            if self.store.kind == "disk" or not error.field:
                raise
            self.store.distrust(error.field)  # it was hashed when it came; if the object is bad, fetching it says so
            raise CopyDamaged(str(error)) from None
        finally:
            if self.kept is None:
                sandbox.kill()


def open_node_store(settings: Settings) -> Store:
    """Return the store of a node's settings, for one that has no database and deletes nothing.

    Raises:
        InvalidRequest: The blobs are to be in a bucket, and none is named.
    """
    if settings.store == "disk":
        return Store(Path(settings.data), settings.reserve_bytes)
    bucket = open_bucket(settings.bucket, **settings.bucket_access)
    if bucket is None:
        raise InvalidRequest("REGISTRY_STORE=bucket needs REGISTRY_BUCKET, like s3://name/prefix.", field="store")
    return BucketStore(settings.data, settings.reserve_bytes, bucket=bucket, most=settings.cache_bytes)
