"""Threads that answer reads: what a task sees, what it gives back, and that no slow task holds up others."""

import asyncio
import contextlib
import gc
import threading
import weakref
from contextvars import ContextVar

import pytest

from registry.server.threads import Threads

WORD = ContextVar("word", default="none")


def test_a_task_sees_the_context_of_who_asked_and_leaves_it_alone() -> None:
    def change(word: str) -> str:
        before = WORD.get()
        WORD.set(word)
        return before

    async def ask() -> list[str]:
        threads = Threads(1)
        WORD.set("ours")
        return [await threads.run(change, "theirs"), await threads.run(change, "theirs"), WORD.get()]

    assert asyncio.run(ask()) == ["ours", "ours", "ours"]


def test_an_error_reaches_who_asked_and_the_thread_goes_on() -> None:
    async def ask() -> float:
        threads = Threads(1)
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 / 0)
        return await threads.run(lambda: 1 / 2)

    assert asyncio.run(ask()) == 0.5


def test_an_error_is_freed_with_its_last_user_and_not_by_the_garbage_collector() -> None:
    class Kept:
        pass

    seen: list[weakref.ref[Kept]] = []

    def fail() -> None:
        kept = Kept()
        seen.append(weakref.ref(kept))
        raise ValueError(kept)

    async def ask() -> None:
        threads = Threads(1)
        with contextlib.suppress(ValueError):
            await threads.run(fail)
        await threads.run(len, "")  # the thread is done with the one before

    gc.disable()
    try:
        asyncio.run(ask())
        assert seen[0]() is None
    finally:
        gc.enable()


def test_quick_tasks_are_taken_by_one_thread_and_slow_ones_by_others_up_to_a_bound() -> None:
    release, others = threading.Event(), threading.Event()

    async def ask() -> tuple[set[str], int, int]:
        threads = Threads(most=3)
        slow = [asyncio.create_task(threads.run(release.wait, 30)) for _ in range(2)]
        quick = [asyncio.create_task(threads.run(lambda: threading.current_thread().name)) for _ in range(20)]
        names = set(await asyncio.gather(*quick))  # though both slow ones were there before
        stuck = [asyncio.create_task(threads.run(others.wait, 30)) for _ in range(3)]
        while len(threads.since) < 3 or threads.free():
            await asyncio.sleep(0.001)
        threads.staff()  # two tasks wait still
        busy = len(threads.since)
        release.set()
        others.set()
        assert all(await asyncio.gather(*slow, *stuck))
        await threads.run(len, "")
        while len(threads.since) > 1:  # those that joined are not needed any more
            await threads.run(len, "")
        return names, busy, len(threads.since)

    names, busy, left = asyncio.run(ask())
    assert (len(names), busy, left) == (1, 3, 1)


def test_an_answer_does_not_wait_for_the_slow_task_after_it() -> None:
    release = threading.Event()

    async def ask() -> str:
        threads = Threads(most=1)
        await threads.run(len, "")  # what is done a moment later is kept for its batch
        quick = asyncio.create_task(threads.run(str, "quick"))
        slow = asyncio.create_task(threads.run(release.wait, 30))
        answer = await quick
        assert not slow.done()
        release.set()
        assert await slow
        return answer

    assert asyncio.run(ask()) == "quick"


def test_a_task_that_is_cancelled_ends_at_once_and_the_thread_goes_on() -> None:
    begun, release = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        release.wait(30)

    async def ask() -> str:
        threads = Threads(1)
        task = asyncio.create_task(threads.run(wait))
        while not begun.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        return await threads.run(lambda: "next")

    assert asyncio.run(ask()) == "next"
