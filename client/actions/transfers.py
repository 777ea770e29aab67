"""Transfers: files to and from a registry, so that a kill on either side costs only the bytes in flight.

upload      hash -> announce -> send the parts that the registry misses -> complete
            the registry keeps the state: the same announcement finds the same open session
download    several files at a time, each as in downloads.py
            the folder keeps the state: files that are complete, and one partial file for each of the others
"""

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from client.actions.downloads import Wanted, download
from client.api.calls import name_of, part, patch_path
from client.api.client import Client
from client.api.http import Connection, Stopped, check_stop
from client.machine.folders import check_vacant, inside
from registry.errors import BreadcrumbError, DigestMismatch, InvalidRequest, NotFound, Unavailable, WrongState
from registry.files.hashing import BLOCK, hash_file
from registry.files.progress import Meter, Progress
from registry.schemas import Patch, Snapshot, Upload

AT_ONCE = 4  # parts, or files, on the wire together
ROUNDS = 4  # announcements of one upload before it is given up
PARTS = 100_000  # most parts that an upload session may have
LARGEST = 2**53  # bytes; a larger size is not believed


def upload(
    client: Client, path: Path, *, progress: Progress | None = None, hashing: Progress | None = None
) -> tuple[str, int]:
    """Upload a file, sending only the parts that the registry misses.

    Args:
        client: The registry.
        path: The file.
        progress: Called with bytes sent, and those that the registry had already.
        hashing: Called with bytes hashed, before anything is sent.

    Returns:
        sha256 (hex) and size of the file.

    Raises:
        NotFound: There is no such file.
        WrongState: The file changed while it was being sent.
        BreadcrumbError: What the registry answered.
    """
    before = _stamp(path)
    sha256, size = hash_readable(path, hashing), before[0]
    last: BreadcrumbError | None = None
    for _ in range(ROUNDS):
        session = client.announce_upload(sha256, size)
        if session.state == "done":
            if progress is not None:
                progress(size, size)
            return sha256, size
        try:
            _send_missing(client, session, path, size, progress)
            if client.complete_upload(session.id).state == "done":
                return sha256, size
        except (NotFound, WrongState, DigestMismatch) as error:
            # The session expired, another process finished or broke it, or a part was stored wrong: the next
            # announcement returns the true state.
            last = error
        if _stamp(path) != before:
            raise WrongState(f"{path} changed while it was being sent; run the command again.") from last
    raise last or Unavailable(f"The registry at {client.url} does not complete the upload of {path}.")


def hash_readable(path: Path, progress: Progress | None = None) -> str:
    """Return the sha256 of a file that a person named.

    Raises:
        NotFound: There is no such file.
        InvalidRequest: The file cannot be read.
    """
    with _reading(path):
        return hash_file(path, progress)


def _send_missing(client: Client, session: Upload, path: Path, size: int, progress: Progress | None) -> None:
    count = -(-size // session.part_size) if session.part_size > 0 else PARTS + 1
    if count > PARTS or not set(session.missing) <= set(range(count)):
        raise Unavailable(f"The registry at {client.url} asks for parts of {path.name} that do not exist.")
    meter = Meter(size, progress)
    missing = sorted(set(session.missing))
    lengths = {number: min(session.part_size, size - number * session.part_size) for number in missing}
    meter.add(size - sum(lengths.values()))

    def send(number: int, stop: threading.Event) -> None:
        start, length, counted = number * session.part_size, lengths[number], 0

        def body() -> Iterator[bytes]:
            nonlocal counted
            meter.add(-counted)  # of an attempt that failed
            counted = 0
            for block in _blocks(path, start, length, stop):
                yield block
                counted += len(block)
                meter.add(len(block))

        for attempt in range(ROUNDS):
            digest = hashlib.sha256()
            for block in _blocks(path, start, length, stop):
                digest.update(block)
            try:
                client.send_part(session.id, number, body, length, digest.digest(), stop=stop)
            except DigestMismatch:  # damaged on the way, or the file changes under us
                if attempt + 1 == ROUNDS:
                    raise
            else:
                return

    _in_parallel([functools.partial(send, number) for number in missing])


def _blocks(path: Path, start: int, length: int, stop: threading.Event | None = None) -> Iterator[bytes]:
    with _reading(path) as file:
        file.seek(start)
        while length:
            check_stop(stop)
            block = file.read(min(BLOCK, length))
            if not block:
                raise WrongState(f"{path} became shorter while it was being sent; run the command again.")
            length -= len(block)
            yield block


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as why:
        raise NotFound(f"{path} cannot be read: {why.strerror}.") from why
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except FileNotFoundError as why:
        raise NotFound(f"There is no file {path}.") from why
    except OSError as why:
        raise InvalidRequest(f"{path} cannot be read: {why.strerror}.") from why
    with file:
        yield file


def download_patch(client: Client, patch: Patch, target: Path, *, progress: Progress | None = None) -> None:
    """Download a patch's file, verified, resuming where an earlier run stopped.

    Raises:
        DigestMismatch: The registry sent other bytes than it announced.
        StorageFull: The disk has no room for the file.
    """
    download_all(client.connection, [wanted_patch(patch, target)], progress=progress)


def wanted_patch(patch: Patch, target: Path) -> Wanted:
    """Return what downloading a patch's file to `target` asks for."""
    source = f"/api/v1{patch_path(patch.model, patch.number, patch.revision)}/file"
    return Wanted(source, target, patch.sha256, patch.size)


def download_patch_files(client: Client, patch: Patch, folder: Path, *, progress: Progress | None = None) -> None:
    """Download the files that came with a patch beside its weights into a folder, each verified.

    Raises:
        WrongState: The folder is there and not empty.
        DigestMismatch: The registry sent other bytes than it announced.
        StorageFull: The disk has no room for the files.
    """
    check_vacant(folder)
    files = patch.files or []
    source = f"/api/v1{patch_path(patch.model, patch.number, patch.revision)}/files/"
    targets = inside(folder, [file.path for file in files])
    wanted = [
        Wanted(source + quote(file.path), target, file.sha256, file.size)
        for file, target in zip(files, targets, strict=True)
    ]
    download_all(client.connection, wanted, progress=progress)


def download_snapshot(
    client: Client,
    snapshot: Snapshot,
    folder: Path,
    *,
    paths: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Download a snapshot's files into a folder, in parallel, each verified.

    Args:
        client: The registry.
        snapshot: What to download.
        folder: Made if need be.
        paths: Only these of its files; all when None.
        progress: Called with bytes verified on disk.

    Raises:
        DigestMismatch: The registry sent other bytes than it announced.
        StorageFull: The disk has no room for the files.
    """
    download_all(client.connection, wanted_files(snapshot, folder, paths), progress=progress)


def wanted_files(snapshot: Snapshot, folder: Path, paths: Sequence[str] | None = None) -> list[Wanted]:
    """Return what downloading a snapshot's files into a folder asks for: of these paths only, or of all when None."""
    files = [file for file in snapshot.files if paths is None or file.path in paths]
    targets = inside(folder, [file.path for file in files])
    source = f"/api/v1/models/{name_of(snapshot.model)}/revisions/{part(snapshot.ref)}/files/"
    return [
        Wanted(source + quote(file.path), target, file.sha256, file.size)
        for file, target in zip(files, targets, strict=True)
    ]


def download_all(connection: Connection, files: Iterable[Wanted], *, progress: Progress | None = None) -> None:
    """Download files in parallel, each verified; files that are there with the right bytes stay.

    Args:
        connection: To the registry; the token goes with it.
        files: What to download. Targets must be distinct.
        progress: Called with bytes verified on disk.

    Raises:
        DigestMismatch: The registry sent other bytes than it announced.
        StorageFull: The disk has no room for the files.
    """
    wanted = list(files)
    for file in wanted:
        if not 0 <= file.size <= LARGEST:
            raise Unavailable(f"The registry at {connection.url} names {file.target.name} with {file.size} bytes.")
    meter = Meter(sum(file.size for file in wanted), progress)
    _in_parallel([functools.partial(download, connection, file, meter) for file in wanted])


def _in_parallel(jobs: list[Callable[[threading.Event], None]]) -> None:
    """Run jobs a few at a time; the first error, or Ctrl-C, stops the others and is raised."""
    stop = threading.Event()
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="crumb")
    try:
        futures: list[Future[None]] = [pool.submit(job, stop) for job in jobs]
        wait(futures, return_when=FIRST_EXCEPTION)
    except BaseException:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)  # a stalled socket does not hold up Ctrl-C
        raise
    if any(not future.done() or future.exception() for future in futures):
        stop.set()
    pool.shutdown(wait=True, cancel_futures=True)
    failed = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in sorted(failed, key=lambda error: isinstance(error, Stopped)):
        raise error
