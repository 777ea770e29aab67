"""Downloads of single files: resumed after a kill, verified while written, renamed when complete.

<folder>/.crumb/<digest>.<path digest>.part -> verified while written -> fsync -> rename

The partial file is the state: it is hashed again, and the rest is asked for from its end.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from client.api.http import Again, Connection, check_stop
from client.machine.folders import OWN, make_own
from client.machine.locks import take_lock
from registry.errors import (
    BreadcrumbError,
    DigestMismatch,
    RangeNotSatisfiable,
    StorageFailed,
    Unavailable,
    WrongState,
)
from registry.files.durable import storage_error, sync_folder
from registry.files.hashing import BLOCK, hash_file
from registry.files.progress import Meter


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to download.

    Args:
        source: Path at the registry that serves it.
        target: Where it goes.
        sha256: Of its bytes, in hex.
        size: Number of bytes.
    """

    source: str
    target: Path
    sha256: str
    size: int


def download(
    connection: Connection, wanted: Wanted, meter: Meter | None = None, stop: threading.Event | None = None
) -> None:
    """Download one file, resuming where an earlier run was killed; a file that is there already stays.

    Args:
        connection: To the registry.
        wanted: What to download.
        meter: Counts bytes verified on disk.
        stop: Ends the download when set.

    Raises:
        DigestMismatch: The registry sent other bytes than it announced.
        WrongState: A folder is in the way, or another process downloads this file.
        StorageFull: The disk has no room for the file.
        Stopped: `stop` was set.
    """
    meter = meter or Meter(wanted.size, None)
    if _is_there(wanted):
        meter.add(wanted.size)
        return
    with _disk_errors(wanted.target):
        partial = partial_path(wanted)
        with lock_partial(partial) as file:
            try:
                _fill(connection, wanted, file, meter, stop)
            except DigestMismatch:
                partial.unlink(missing_ok=True)
                raise
            os.fsync(file.fileno())
            partial.replace(wanted.target)
            sync_folder(wanted.target.parent)
        with contextlib.suppress(OSError):
            partial.parent.rmdir()  # only when it is empty


def bytes_to_come(files: Iterable[Wanted]) -> int:
    """Return how many bytes of files that are not there have still to come: an interrupted download goes on."""
    left = 0
    for wanted in files:
        left += wanted.size
        with contextlib.suppress(OSError):
            left -= min(partial_path(wanted).stat().st_size, wanted.size)
    return left


def partial_path(wanted: Wanted) -> Path:
    """Return the path of a download under way: on the target's file system, and one for each target."""
    name = hashlib.sha256(wanted.target.name.encode()).hexdigest()[:8]
    return wanted.target.parent / OWN / f"{wanted.sha256}.{name}.part"


def _fill(connection: Connection, wanted: Wanted, file: BinaryIO, meter: Meter, stop: threading.Event | None) -> None:
    """Bring the open partial file to its full size and verify all of it."""
    name, url = wanted.target.name, connection.url
    if os.fstat(file.fileno()).st_size > wanted.size:
        file.truncate(0)
    digest, have = hashlib.sha256(), 0
    for block in iter(lambda: file.read(BLOCK), b""):
        check_stop(stop)
        digest.update(block)
        have += len(block)
        meter.add(len(block))
    resumed, attempt, best = have, 0, have

    def restart() -> None:
        nonlocal digest, have
        meter.add(-have)
        digest, have = hashlib.sha256(), 0
        file.seek(0)
        file.truncate()

    while have < wanted.size:
        attempt += 1
        headers = {"Range": f"bytes={have}-", "If-Range": f'"{wanted.sha256}"'} if have else {}
        try:
            with connection.stream("GET", wanted.source, headers=headers, attempt=attempt) as response:
                if have and not (response.status_code == 206 and _starts_at(response.headers, have)):
                    restart()  # the whole file comes again
                if response.status_code != (206 if have else 200):
                    raise Unavailable(f"The registry at {url} answers a download with status {response.status_code}.")
                coming = response.headers.get("content-length", str(wanted.size - have))
                if coming != str(wanted.size - have):
                    raise DigestMismatch(
                        f"{name} was announced with {wanted.size} bytes, but {have} + {coming} would come; "
                        "nothing was kept."
                    )
                for block in response.iter_raw():  # as it comes: gathered blocks are lost with a connection
                    check_stop(stop)
                    if have + len(block) > wanted.size:
                        raise DigestMismatch(
                            f"{name} was announced with {wanted.size} bytes, but more came; nothing was kept."
                        )
                    file.write(block)
                    digest.update(block)
                    have += len(block)
                    meter.add(len(block))
                    connection.received.add(len(block))
                    if have > best:  # attempts without any gain are counted, so that no server keeps us for ever
                        best, attempt = have, 0
            if have < wanted.size:
                early = Unavailable(f"The registry at {url} ends {name} early; run the command again.")
                raise Again(early, f"ended after {have} of {wanted.size} bytes")
        except Again as again:
            file.flush()
            connection.wait(again, max(attempt, 1), stop)
        except RangeNotSatisfiable:
            if not have:
                raise
            restart()
    file.flush()
    if digest.hexdigest() == wanted.sha256:
        return
    if resumed:  # what an earlier run left on the disk may be what is wrong: once more from the start
        restart()
        _fill(connection, wanted, file, meter, stop)
        return
    raise DigestMismatch(
        f"{name} was announced as sha256 {wanted.sha256}, but the bytes that came are {digest.hexdigest()}; nothing "
        "was kept of them. Run the command again; if that repeats, tell the registry's operator."
    )


def _starts_at(headers: Mapping[str, str], start: int) -> bool:
    return headers.get("content-range", "").startswith(f"bytes {start}-")


def _is_there(wanted: Wanted) -> bool:
    try:
        if wanted.target.is_dir():
            raise WrongState(f"{wanted.target} is a folder where a file must go; choose another folder.")
        if not wanted.target.is_file() or wanted.target.stat().st_size != wanted.size:
            return False
        return hash_file(wanted.target) == wanted.sha256
    except OSError as why:
        raise StorageFailed(f"{wanted.target} cannot be read: {why.strerror}.") from why


@contextlib.contextmanager
def lock_partial(partial: Path) -> Iterator[BinaryIO]:
    """Open a partial file for this process alone, making its folder; the lock ends with the process.

    Raises:
        WrongState: Another process has the file, or a link is where `.crumb` must be.
    """
    while True:
        make_own(partial.parent.parent)
        try:
            handle = os.open(partial, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except FileNotFoundError:  # another download ended just now and removed the empty folder
            continue
        with os.fdopen(handle, "r+b") as file:
            if not take_lock(handle):
                raise WrongState(
                    f"Another crumb is downloading into {partial.parent.parent}; wait for it, or choose another folder."
                )
            # The name may have been renamed away between open and lock: then this is somebody's finished file.
            try:
                same = os.path.samestat(os.fstat(handle), partial.stat())
            except FileNotFoundError:
                same = False
            if same:
                yield file
                return


@contextlib.contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except BreadcrumbError:
        raise
    except OSError as why:
        raise storage_error(why, target.parent) from why
