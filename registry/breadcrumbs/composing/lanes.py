"""Lanes: work that overlaps. Workers take calls in any order; a lane takes its own calls one after another.

A slot is a set of buffers that moves through the stages; it is used again when all calls about it have ended.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

Buffers = TypeVar("Buffers")


class Slot(Generic[Buffers]):
    """Buffers, and the calls about them that have not ended."""

    def __init__(self, buffers: Buffers) -> None:
        self.buffers = buffers
        self.pending: list[Future[Any]] = []

    def wait(self) -> None:
        """Wait until the buffers are free; raise the error of a call about them."""
        pending, self.pending = self.pending, []
        for future in pending:
            future.result()


class Crew(Generic[Buffers]):
    """Threads and slots of one run; use it with `with`, which drops calls that have not begun.

    Args:
        workers: How many calls run at a time, in any order.
        lanes: Names of the lanes.
        slots: The buffers, which take turns.
    """

    def __init__(self, workers: int, lanes: Sequence[str], slots: Sequence[Buffers]) -> None:
        self._workers = ThreadPoolExecutor(workers, "worker")
        self._lanes = {lane: ThreadPoolExecutor(1, lane) for lane in lanes}
        self._slots = [Slot(buffers) for buffers in slots]
        self._queued: Slot[None] = Slot(None)
        self._turn = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in (self._workers, *self._lanes.values()):  # lanes wait for workers
            pool.shutdown(wait=True, cancel_futures=True)

    def next_slot(self) -> Slot[Buffers]:
        """Return the slot whose turn it is, once it is free."""
        slot = self._slots[self._turn % len(self._slots)]
        self._turn += 1
        slot.wait()
        return slot

    def work(self, slot: Slot[Buffers], call: Callable[[], Any]) -> "Future[Any]":
        """Have a worker make a call about a slot."""
        future = self._workers.submit(call)
        slot.pending.append(future)
        return future

    def follow(self, slot: Slot[Buffers], lane: str, future: "Future[Any]", call: Callable[[], Any]) -> None:
        """Have a lane make a call about a slot once a worker's call has ended without error."""

        def after() -> None:
            future.result()
            call()

        slot.pending.append(self._lanes[lane].submit(after))

    def queue(self, lane: str, call: Callable[[], Any]) -> None:
        """Have a lane make a call that is not about buffers; nothing waits for it but `drain`."""
        self._queued.pending.append(self._lanes[lane].submit(call))

    def drain(self) -> None:
        """Wait for all calls, the oldest first."""
        for _ in self._slots:
            self.next_slot()
        self._queued.wait()


class Phases:
    """Seconds that threads spent in each kind of work, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Count what is done inside as `phase`."""
        began = time.thread_time()
        try:
            yield
        finally:
            self.add(phase, time.thread_time() - began)

    def add(self, phase: str, seconds: float) -> None:
        """Count seconds as `phase`."""
        with self._lock:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
