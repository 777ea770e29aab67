"""Fetches: copies on their way from a bucket, of blobs or parts of them, each by a thread of its own, whoever waits.

A job waits as long as it takes, and renews its lease meanwhile. A reader waits for a moment: then it is asked to come
back, the copy comes nevertheless, and the threads that answer others stay free.
"""

import hashlib
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from typing import Generic, TypeVar

from registry.errors import NotFound, TooMany
from registry.files.copying import write_at
from registry.files.hashing import Extent, find_missing
from registry.files.threads import call_each
from registry.storage.bucket import Bucket
from registry.storage.cache import Cache
from registry.storage.pieces import Beat, Excerpt, cut, join
from registry.storage.store import damaged

MOST_FETCHED = 16  # copies on their way at a time
MOST_REQUESTS = 4  # for one excerpt at a time
MOST_FAILED = 64  # errors that are kept for whoever asks next
MOST_WAITING = 8  # readers that wait; of the threads that answer, most stay free
LOOK_SECONDS = 1.0  # after which a job that waits renews its lease
SECONDS_TO_RETRY = 2
Key = TypeVar("Key", bound=Hashable)


class Fetches(Generic[Key]):
    """The copies that this process fetches, of blobs or of excerpts of them.

    Args:
        fetch: Brings the copy of one, or raises.
    """

    def __init__(self, fetch: Callable[[Key], None]) -> None:
        self.fetch = fetch
        self.lock = threading.Lock()
        self.running: dict[Key, Future[None]] = {}
        self.asked: set[Key] = set()  # those of `running` that somebody asks for again
        self.failed: dict[Key, BaseException] = {}
        self.places = threading.Semaphore(MOST_WAITING)

    def wait(self, wanted: Key, beat: Beat) -> None:
        """Bring a copy, and call `beat` meanwhile; whatever that raises ends the waiting, and not the fetch."""
        while (future := self._begin(wanted)) is None:
            with self.lock:
                others = list(self.running.values())
            wait(others, LOOK_SECONDS, FIRST_COMPLETED)
            beat()
        while not wait([future], LOOK_SECONDS).done:
            beat()
        future.result()

    def wait_briefly(self, wanted: Key, seconds: float) -> None:
        """Bring a copy, if that is done soon.

        Raises:
            TooMany: It takes longer, or too many readers wait already.
        """
        slow = TooMany("The bucket is slow to send this file; try again in a moment.", retry_after=SECONDS_TO_RETRY)
        if not self.places.acquire(blocking=False):
            raise slow
        try:
            future = self._begin(wanted)
            if future is None or not wait([future], seconds).done:
                raise slow
            future.result()
        finally:
            self.places.release()

    def ask(self, wanted: Key) -> None:
        """Begin to bring a copy, or raise why the last try failed; too many at a time are left for the next time."""
        with self.lock:
            error = self.failed.pop(wanted, None)
        if error is not None:
            raise error
        self._begin(wanted, asked=True)

    def _begin(self, wanted: Key, *, asked: bool = False) -> "Future[None] | None":
        """Return the fetch of a copy, which begins if it has not; None if too many are under way."""
        with self.lock:
            future = self.running.get(wanted)
            if future is None and len(self.running) < MOST_FETCHED:
                future = Future()
                threading.Thread(target=self._run, args=(wanted, future), name="fetch", daemon=True).start()
                self.running[wanted] = future  # the thread waits for the lock before it looks for it
            if asked and future is not None:
                self.asked.add(wanted)
            return future

    def _run(self, wanted: Key, future: "Future[None]") -> None:
        error: BaseException | None = None
        try:
            self.fetch(wanted)
        except BaseException as why:
            error = why
        with self.lock:
            del self.running[wanted]
            asked = wanted in self.asked
            self.asked.discard(wanted)
            self.failed.pop(wanted, None)
            if error is not None and asked:
                while len(self.failed) >= MOST_FAILED:
                    del self.failed[next(iter(self.failed))]
                self.failed[wanted] = error
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def fetch_excerpt(bucket: Bucket, cache: Cache, excerpt: Excerpt) -> None:
    """Fetch what the cache lacks of an excerpt of a blob; each extent is hashed on the way.

    Only extents that are not here are written to, by one process at a time: whoever reads others is not disturbed.

    Raises:
        BlobDamaged: The object is missing, or holds other bytes.
        Unranged: The bucket sends objects whole alone.
        StorageFull, StorageFailed: The disk has no room, or the bucket did not send it.
    """
    some = cache.path_of_some(excerpt.sha256).name
    with cache.partial(some), ExitStack() as stack:
        try:
            file = cache.hold_some(stack, excerpt.sha256, excerpt.size)
            runs = list(join(find_missing(file, excerpt.extents)))

            def fetch(number: int) -> None:
                fetch_run(bucket, cache, excerpt.sha256, runs[number], file)

            call_each(fetch, range(len(runs)), MOST_REQUESTS, "fetch")
        except NotFound:
            raise damaged(excerpt.sha256) from None
        finally:
            cache.discard(some)


def fetch_run(bucket: Bucket, cache: Cache, sha256: str, run: Sequence[Extent], file: int) -> None:
    """Fetch neighbouring extents of a blob, by one request, into a file that is given by its descriptor."""
    start, hasher = run[0].start, hashlib.sha256()
    for extent, at, view in cut(bucket.read(sha256, start, run[-1].stop), start, run):
        cache.make_room(len(view), "the cache")
        hasher.update(view)
        write_at(file, view, at)
        if at + len(view) == extent.stop:
            if hasher.hexdigest() != extent.sha256:
                raise damaged(sha256)
            hasher = hashlib.sha256()
