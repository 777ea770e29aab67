"""Threads: how many this process may use, and one call for each of several items."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def call_each(
    call: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None, name: str = "worker"
) -> dict[Item, Result]:
    """Call a function once for each item, several calls at a time.

    The first call that fails ends all: what has not begun is dropped, what runs is waited for, the error is raised.

    Args:
        call: The function.
        items: Distinct items, begun in this order.
        threads: How many calls run at a time; as many as there are processors when None.
        name: What the threads are called.

    Returns:
        The result of each item, in the order of the items.
    """
    items = list(items)
    pool = ThreadPoolExecutor(threads or processors(), name)
    try:
        return dict(zip(items, pool.map(call, items), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
