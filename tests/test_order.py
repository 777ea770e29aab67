"""The order of tests: long ones come first in every process, and none is lost."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.dealing import deal


def stretches(tests: list[str], processes: int) -> list[list[str]]:
    """Return what each process takes at the beginning, as pytest-xdist hands tests out by work stealing."""
    left, found = list(tests), []
    for process in range(processes):
        share = len(left) // (processes - process)
        found.append(left[:share])
        del left[:share]
    return found


@given(st.integers(0, 20), st.integers(0, 90), st.integers(1, 6))
def test_every_process_begins_with_its_share_of_the_long_ones(long: int, others: int, processes: int) -> None:
    longs, rest = [f"long {number}" for number in range(long)], [f"{number}" for number in range(others)]
    dealt = deal(longs, rest, processes)
    assert sorted(dealt) == sorted([*longs, *rest])
    assert [name for name in dealt if name in rest] == rest
    if others >= long * processes:
        for number, taken in enumerate(stretches(dealt, processes)):
            mine = longs[number::processes]
            assert taken[: len(mine)] == mine
