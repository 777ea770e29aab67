"""Threads: those that answer requests which only read.

anyio's, which FastAPI uses, wait for each task in a queue of their own that is written in Python, and cost a small read
a third of its time. These take tasks from one queue of the interpreter's, so that a busy thread goes on with the next
task without a switch to another. They are fewer, since Python runs one of them at a time.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from anyio import CancelScope

MOST = 20
Result = TypeVar("Result")
Task = tuple[Callable[[], Any], Context, "asyncio.Future[Any]"]


class Threads:
    """A pool of daemon threads, which are started when they are first needed.

    Args:
        most: The most threads.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most, self.started, self.unfinished = most, 0, 0
        self.lock = threading.Lock()
        self.tasks: SimpleQueue[Task] = SimpleQueue()

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Return what a function returns in a thread, with this task's context variables.

        As with anyio's threads, leaving a scope of anyio's waits for the function to end; a task that asyncio itself
        cancels ends at once, and the function goes on: only what it returns is lost.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        with self.lock:
            self.unfinished += 1
            if self.started < min(self.unfinished, self.most):
                self.started += 1
                threading.Thread(target=self.work, name=f"read-{self.started}", daemon=True).start()
        self.tasks.put((partial(function, *args), copy_context(), future))
        try:
            with CancelScope(shield=True):
                await future
            return future.result()
        finally:
            del future  # an error would hold it, by this frame, and be held by it

    def work(self) -> None:
        """Do one task after the other."""
        while True:
            self.do(*self.tasks.get())

    def do(self, function: Callable[[], Any], context: Context, future: "asyncio.Future[Any]") -> None:
        """Do a task, and give its result to the loop that waits for it."""
        try:
            settle = partial(future.set_result, context.run(function))
        except BaseException as error:
            settle = partial(future.set_exception, error)
        with self.lock:
            self.unfinished -= 1
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            future.get_loop().call_soon_threadsafe(give, future, settle)
        del future, settle  # likewise


READERS = Threads()  # of this process


def give(future: "asyncio.Future[Any]", settle: Callable[[], None]) -> None:
    """Settle a future, unless its task was cancelled."""
    if not future.done():
        settle()
