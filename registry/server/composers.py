"""Composers: processes that compose pieces of weight files for readers, who take turns.

    readers ── a piece each ──> callers in turn ── the next idle process ──> memory that both map ──> the bytes

A process is used for one piece after another, whoever asks for it, since any piece can be composed by itself. So a
reader who is slow holds none, and one who asks for much does not hold up another. It ends when it was idle for some
time, and is killed when a piece takes too long.
"""

import mmap
import os
import tempfile
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.errors import JobFailed, TooMany, Unavailable
from registry.sandboxes.sandbox import Sandbox

TASK = "registry.sandboxes.ranges:compose_range"
LARGEST = 2**23  # bytes of a piece
IDLE_SECONDS = 30.0  # after which a process ends
PIECE_SECONDS = 60.0  # after which it is killed
WAITING = 1000  # pieces that wait at most; readers, of whom there are fewer, ask for more than one only while few read
SHARED_MEMORY = "/dev/shm"  # noqa: S108  # where it is a file system in memory


@dataclass(frozen=True)
class Source:
    """A composition to read from: where the files are that it is made of, as `compose_range` takes them."""

    key: str
    base: Mapping[str, str]
    patches: Mapping[str, str]
    recipe: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Piece:
    """Bytes start..stop - 1 of a weight file, at most LARGEST."""

    source: Source
    name: str
    start: int
    stop: int


Waiting = tuple["Future[bytes]", Piece]


class Composers:
    """A number of processes, each started when it is needed.

    Args:
        most: How many.
        memory: Most bytes of memory of each; None for three quarters of the machine's, 0 for no limit.
    """

    def __init__(self, most: int, memory: int | None) -> None:
        self.most, self.memory = most, memory
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[Waiting]] = OrderedDict()  # by caller, in the order of their turns
        self._count = self._idle = self._running = 0
        self._closed = False

    def compose(self, caller: str, piece: Piece) -> "Future[bytes]":
        """Ask for a piece. Its error is that of the task, or JobFailed when its process crashed or took too long.

        Args:
            caller: Whose turn it takes.
            piece: What to compose.

        Raises:
            TooMany: Too many pieces wait.
        """
        future: Future[bytes] = Future()
        with self._changed:
            if self._closed or self._count >= WAITING:
                raise TooMany("The registry is composing for too many readers; try again in a moment.", retry_after=5)
            self._waiting.setdefault(caller, deque()).append((future, piece))
            self._count += 1
            if self._idle < self._count and self._running < self.most:
                self._running += 1
                threading.Thread(target=self._work, name="composer", daemon=True).start()
            self._changed.notify()
        return future

    def close(self) -> None:
        """End all processes; pieces that wait are cancelled."""
        with self._changed:
            self._closed = True
            for pieces in self._waiting.values():
                for future, _ in pieces:
                    future.cancel()
            self._waiting.clear()
            self._count = 0
            self._changed.notify_all()

    def _next(self) -> Waiting | None:
        """Return the next piece, of the caller whose turn it is; None when there was none for some time."""
        with self._changed:
            self._idle += 1
            try:
                if not self._changed.wait_for(lambda: self._count or self._closed, IDLE_SECONDS) or self._closed:
                    self._running -= 1
                    return None
            finally:
                self._idle -= 1
            caller, pieces = self._waiting.popitem(last=False)
            self._count -= 1
            chosen = pieces.popleft()
            if pieces:
                self._waiting[caller] = pieces
            return chosen

    def _work(self) -> None:
        """Compose pieces in a process of this thread's own, until there are none for some time."""
        composer: Composer | None = None
        while (chosen := self._next()) is not None:
            future, piece = chosen
            if not future.set_running_or_notify_cancel():  # the reader has gone
                continue
            try:
                composer = composer or Composer(self.memory)
                if not composer.alive:  # the kernel ends those first when memory runs out
                    composer.close()
                    composer = Composer(self.memory)
                future.set_result(composer.compose(piece))
            except BaseException as error:
                if composer is not None:
                    composer.close()  # the process has ended with the error
                    composer = None
                future.set_exception(error)
        if composer is not None:
            composer.close()


class Composer:
    """One process, and the memory that it shares with this one.

    Args:
        memory: As of `Composers`.
    """

    def __init__(self, memory: int | None) -> None:
        self._memory = memory
        self._path, self._shared = share_memory()
        self._sandbox: Sandbox | None = None

    @property
    def alive(self) -> bool:
        """Whether its process runs, or has still to be started."""
        return self._sandbox is None or self._sandbox.alive

    def compose(self, piece: Piece) -> bytes:
        """Compose a piece.

        Raises:
            BreadcrumbError: As of `Composers.compose`; the process has ended.
        """
        source, place = piece.source, {"name": piece.name, "start": piece.start, "stop": piece.stop, "out": self._path}
        wanted = {"key": source.key, "base": source.base, "patches": source.patches, "recipe": source.recipe, **place}
        if self._sandbox is None:
            self._sandbox = Sandbox(TASK, wanted, self._memory, keep=True)
        else:
            self._sandbox.again(wanted)
        count = self._sandbox.wait(PIECE_SECONDS)
        if count is None:
            raise JobFailed(f"A piece of {piece.name} was not composed within {PIECE_SECONDS:g} seconds.")
        self._unlink()  # the process has mapped it
        return self._shared[:count]

    def close(self) -> None:
        """End the process; safe to call again."""
        if self._sandbox is not None:
            self._sandbox.kill()
        self._unlink()
        self._shared.close()

    def _unlink(self) -> None:
        Path(self._path).unlink(missing_ok=True)


def share_memory() -> tuple[str, mmap.mmap]:
    """Make a file of LARGEST bytes that processes can map, in memory if there is room; return its path, and the map."""
    folders = [SHARED_MEMORY] if Path(SHARED_MEMORY).is_dir() else []
    for folder in [*folders, tempfile.gettempdir()]:
        with tempfile.NamedTemporaryFile(prefix="crumbs-", dir=folder, delete=False) as file:
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, LARGEST)  # or a write without room would kill the process
                else:
                    file.truncate(LARGEST)
                return file.name, mmap.mmap(file.fileno(), LARGEST)
            except OSError:
                Path(file.name).unlink()
    raise Unavailable("There is no memory to compose in now; try again in a moment.")
