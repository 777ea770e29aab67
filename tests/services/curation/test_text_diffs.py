"""Diffs of texts: what they say is what changed, and hostile texts take no time."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher, unified_diff

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.services.curation import text_diffs
from registry.services.curation.text_diffs import unified

LINES = st.lists(st.sampled_from(["", "a", "b", "- c", "@@ d"]), max_size=40)


def applied(before: Sequence[str], diff: str) -> list[str]:
    """Apply a diff by its line numbers, and see that each line it names is there."""
    after: list[str] = []
    at = 0
    for line in diff.split("\n") if diff else ():
        if place := re.fullmatch(r"@@ -(\d+),(\d+) \+(\d+),(\d+) @@", line):
            start = int(place[1]) - (place[2] != "0")
            after += before[at:start]
            at = start
            assert len(after) == int(place[3]) - (place[4] != "0")
            continue
        if line[0] in " -":
            assert before[at] == line[1:]
            at += 1
        after += [line[1:]] if line[0] in " +" else []
    return [*after, *before[at:]]


@given(LINES, LINES)
def test_a_diff_applied_to_the_first_text_gives_the_second(before: list[str], after: list[str]) -> None:
    diff = unified("\n".join(before), "\n".join(after))
    first, second = ("\n".join(lines).splitlines() for lines in (before, after))
    assert applied(first, diff) == second
    assert (diff == "") == (first == second)


def test_it_is_what_everybody_calls_a_unified_diff() -> None:
    before = [f"line {number}" for number in range(30)]
    after = [*before[:5], "new", *before[5:20], "other", *before[21:]]
    known = list(unified_diff(before, after, lineterm=""))[2:]
    found = unified("\n".join(before), "\n".join(after)).split("\n")
    assert found == known


def test_only_so_many_lines_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    class Counting(SequenceMatcher):  # type: ignore[type-arg]
        def set_seqs(self, a: Sequence[str], b: Sequence[str]) -> None:
            compared.append(max(len(a), len(b)))
            super().set_seqs(a, b)

    monkeypatch.setattr(text_diffs, "SequenceMatcher", Counting)
    before = [str(number % 7) for number in range(5000)]
    diff = unified("\n".join(before), "\n".join(f"{line} " for line in before))
    assert applied(before, diff) == [f"{line} " for line in before]
    assert max(compared, default=0) <= text_diffs.MOST_LINES
    one = unified("\n".join(before), "\n".join([*before[:2500], "new", *before[2500:]]))
    assert one.count("\n") == 7, "what is alike around a change does not count"
