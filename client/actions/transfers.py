"""Moves files to and from a registry so that a kill on either side costs only the bytes in flight.

upload      hash -> announce -> send the parts that the registry misses -> complete
            the registry keeps the state: the same announcement finds the same open session
download    <folder>/.crumb/<digest>.<path digest>.part -> verified while written -> fsync -> rename
            the partial file is the state: it is hashed again and asked for from its end on
"""

import contextlib
import functools
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote

from client.api.calls import name_of, part
from client.api.http import Again, Connection, Stopped, check_stop
from client.api.reviews import patch_path
from client.machine.folders import OWN, inside
from client.machine.locks import take_lock
from registry.errors import (
    BreadcrumbError,
    DigestMismatch,
    InvalidRequest,
    NotFound,
    RangeNotSatisfiable,
    StorageFailed,
    Unavailable,
    WrongState,
)
from registry.files.durable import storage_error, sync_folder
from registry.files.hashing import BLOCK, hash_file
from registry.files.progress import Meter, Progress

if TYPE_CHECKING:
    from client.api.client import Client
    from registry.schemas import Patch, Snapshot, Upload


AT_ONCE = 4  # parts, or files, on the wire together
ROUNDS = 4  # announcements of one upload before it is given up
PARTS = 100_000  # most parts that an upload session may have
LARGEST = 2**53  # bytes that a file may be said to have


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to download: where it is served, where it goes, and what it must be."""

    source: str
    target: Path
    sha256: str
    size: int


def hash_readable(path: Path, progress: Progress | None = None) -> str:
    """Return the sha256 of a file that somebody named.

    Raises:
        NotFound: There is no such file.
        InvalidRequest: The file cannot be read.
    """
    with _reading(path):
        return hash_file(path, progress)


def upload(
    client: "Client", path: Path, *, progress: Progress | None = None, hashing: Progress | None = None
) -> tuple[str, int]:
    """Bring a file's bytes to the registry, sending only the parts that it misses.

    Args:
        client: Whose registry and token.
        path: The file.
        progress: Called with bytes sent, and those that the registry had already.
        hashing: Called with bytes hashed, before anything is sent.

    Returns:
        sha256 (hex) and size of the file.

    Raises:
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
            # announcement says what is true now.
            last = error
        if _stamp(path) != before:
            raise WrongState(f"{path} changed while it was being sent; run the command again.") from last
    raise last or Unavailable(f"The registry at {client.url} does not complete the upload of {path}.")


def _send_missing(client: "Client", session: "Upload", path: Path, size: int, progress: Progress | None) -> None:
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


def download_patch(client: "Client", patch: "Patch", target: Path, *, progress: Progress | None = None) -> None:
    """Download a patch's file, verified, going on where an earlier run stopped."""
    source = f"/api/v1{patch_path(patch.model, patch.number, patch.revision)}/file"
    wanted = Wanted(source, target, patch.sha256, patch.size)
    download_all(client.connection, [wanted], progress=progress)


def download_snapshot(
    client: "Client",
    snapshot: "Snapshot",
    folder: Path,
    *,
    paths: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Download a revision's files (or only these paths) into a folder, in parallel, each verified."""
    files = [file for file in snapshot.files if paths is None or file.path in paths]
    targets = inside(folder, [file.path for file in files])
    source = f"/api/v1/models/{name_of(snapshot.model)}/revisions/{part(snapshot.ref)}/files/"
    wanted = [
        Wanted(source + quote(file.path), target, file.sha256, file.size)
        for file, target in zip(files, targets, strict=True)
    ]
    download_all(client.connection, wanted, progress=progress)


def download_all(connection: Connection, files: Iterable[Wanted], *, progress: Progress | None = None) -> None:
    """Download files in parallel, each verified; what is there already with the right bytes stays.

    Args:
        connection: To the registry; the token goes with it.
        files: What to fetch. Targets must be distinct.
        progress: Called with bytes verified on disk.

    Raises:
        DigestMismatch: The registry sent other bytes than it announced.
        StorageFull: There is no room for the files.
    """
    wanted = list(files)
    for file in wanted:
        if not 0 <= file.size <= LARGEST:
            raise Unavailable(f"The registry at {connection.url} names {file.target.name} with {file.size} bytes.")
    meter = Meter(sum(file.size for file in wanted), progress)
    _in_parallel([functools.partial(download, connection, file, meter) for file in wanted])


def download(
    connection: Connection, wanted: Wanted, meter: Meter | None = None, stop: threading.Event | None = None
) -> None:
    """Download one file, going on where an earlier run was killed; see `download_all`."""
    meter = meter or Meter(wanted.size, None)
    if _is_there(wanted):
        meter.add(wanted.size)
        return
    with _disk(wanted.target):
        partial = partial_path(wanted)
        with _locked(partial) as file:
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


def partial_path(wanted: Wanted) -> Path:
    """Return where a download under way is kept: on the target's file system, and one for each target."""
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
            with connection.stream("GET", wanted.source, headers=headers) as response:
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
                    if have > best:  # attempts without any gain are counted, so that no server keeps us for ever
                        best, attempt = have, 0
            if have < wanted.size:
                raise Again(Unavailable(f"The registry at {url} ends {name} early; run the command again."))
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
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """Open a partial file for one process alone, making its folder; the lock dies with the process."""
    while True:
        partial.parent.mkdir(parents=True, exist_ok=True)
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


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as why:
        raise NotFound(f"{path} cannot be read: {why.strerror}.") from why
    return found.st_size, found.st_mtime_ns


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


@contextlib.contextmanager
def _disk(target: Path) -> Iterator[None]:
    try:
        yield
    except BreadcrumbError:
        raise
    except OSError as why:
        raise storage_error(why, target.parent) from why
