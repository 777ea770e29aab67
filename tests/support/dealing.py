"""The order of tests: each process begins with its share of the long ones."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def deal(long: Sequence[T], others: Sequence[T], processes: int) -> list[T]:
    """Return all tests so that each process begins with long ones, when each takes one stretch of the list.

    That is how `pytest -n N --dist worksteal` hands them out, before one that is done takes from the end of another's.
    """
    dealt: list[T] = []
    left = list(others)
    for process in range(processes):
        share = (len(long) + len(others) - len(dealt)) // (processes - process)
        first = list(long[process::processes])
        stretch = [*first, *left[: max(0, share - len(first))]]
        del left[: len(stretch) - len(first)]
        dealt += stretch
    return [*dealt, *left]
