"""Threads: those that answer requests which only read.

Python runs one thread at a time, and SQLite hands over to another at every statement. So threads that answer quick
reads side by side cost more than one that answers them in turn, and so does an event loop that is woken for every
answer. Here one thread takes task after task, others join only while it is held up by a slow one, and the loop gets
answers in batches: ten connections get 1.7 times as many answers as from a pool where every thread takes what comes.

anyio's threads, which FastAPI uses, wait for each task in a queue of their own that is written in Python, and cost a
small read a third of its time; these take tasks from one queue of the interpreter's.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from anyio import CancelScope

MOST = 20
PATIENCE = 0.02  # seconds that a task may keep others waiting before another thread joins
BATCH = 0.005  # seconds for which answers are kept to be given together, while tasks wait
IDLE = 60.0  # seconds without a task after which a thread ends
Result = TypeVar("Result")
Task = tuple[Callable[[], Any], Context, "asyncio.Future[Any]"]


class Threads:
    """A pool of daemon threads for one event loop, which start when they are needed and end when they are not.

    Args:
        width: How many threads take quick tasks side by side: more than one pays where tasks wait for something outside
            this process, as for a database server.
        most: The most threads, with those that are held up.
    """

    def __init__(self, width: int = 1, most: int = MOST) -> None:
        self.width, self.most = width, most
        self.lock = threading.Lock()  # of the keys of `since`
        self.since: dict[int, float] = {}  # for each thread, when it began its task; infinity while it has none
        self.tasks: SimpleQueue[Task] = SimpleQueue()
        self.answers: deque[tuple[asyncio.Future[Any], Callable[[], None]]] = deque()

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Return what a function returns in a thread, with this task's context variables.

        As with anyio's threads, leaving a scope of anyio's waits for the function to end; a task that asyncio itself
        cancels ends at once, and the function goes on: only what it returns is lost.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self.tasks.put((partial(function, *args), copy_context(), future))
        self.staff()
        watch = loop.call_later(PATIENCE, self.watch, loop, future)
        try:
            with CancelScope(shield=True):
                await future
            return future.result()
        finally:
            watch.cancel()
            del future  # an error would hold it, by this frame, and be held by it

    def watch(self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Any]") -> None:
        """Do what a thread that is held up cannot, as long as this task waits: give answers, and have another join."""
        self.give()
        if not future.done():
            self.staff()
            loop.call_later(PATIENCE, self.watch, loop, future)

    def staff(self) -> None:
        """Start a thread if tasks wait, and too few threads are free for quick ones."""
        with self.lock:
            if self.free() < self.width and len(self.since) < self.most and not self.tasks.empty():
                number = next(number for number in range(self.most) if number not in self.since)
                self.since[number] = math.inf
                threading.Thread(target=self.work, args=(number,), name=f"read-{number}", daemon=True).start()

    def free(self) -> int:
        """Return how many threads are not held up by a task."""
        held_up = time.monotonic() - PATIENCE
        return sum(since > held_up for since in self.since.values())

    def work(self, number: int) -> None:
        """Do one task after the other, while this thread is needed."""
        given = -math.inf
        while True:
            try:
                function, context, future = self.tasks.get(timeout=IDLE)
            except Empty:
                break
            self.since[number] = time.monotonic()
            try:
                settle = partial(future.set_result, context.run(function))
            except BaseException as error:
                settle = partial(future.set_exception, error)
            self.answers.append((future, settle))
            now = time.monotonic()
            if self.tasks.empty() or now > given + BATCH:
                given = now
                with suppress(RuntimeError):  # the loop has been closed meanwhile
                    future.get_loop().call_soon_threadsafe(self.give)
            del function, context, future, settle  # what they hold is freed with its last user
            self.since[number] = math.inf
            if len(self.since) > self.width and self.is_spare():
                break
        with self.lock:
            del self.since[number]

    def is_spare(self) -> bool:
        """Say whether a thread that has no task is one too many."""
        with self.lock:
            return self.free() > self.width

    def give(self) -> None:
        """Give the answers that threads have for the loop, but for tasks that were cancelled."""
        with suppress(IndexError):
            while True:
                future, settle = self.answers.popleft()
                if not future.done():
                    settle()
