"""Text diffs: two texts line by line, in the unified format, in time that grows with the length of strangers' texts."""

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal

Step = tuple[Literal["replace", "delete", "insert", "equal"], int, int, int, int]
MOST_LINES = 1000  # between the first and the last difference; of more, all are removed and added
CONTEXT = 3  # lines around a change


def unified(before: str, after: str) -> str:
    """Return how two texts differ, as the hunks of a unified diff; an empty text if no line differs."""
    return "\n".join(_hunks(before.splitlines(), after.splitlines()))


class Steps(SequenceMatcher[str]):
    """A matcher that groups steps which are known."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps

    def get_opcodes(self) -> list[Step]:
        """Return the steps."""
        return self.steps


def _hunks(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    if before == after:
        return
    for group in Steps(_steps(before, after)).get_grouped_opcodes(CONTEXT):
        (_, start, _, begin, _), (_, _, stop, _, end) = group[0], group[-1]
        yield f"@@ -{_place(start, stop)} +{_place(begin, end)} @@"
        for tag, i, j, k, m in group:
            if tag == "equal":
                yield from (f" {line}" for line in before[i:j])
            else:
                yield from (f"-{line}" for line in before[i:j])
                yield from (f"+{line}" for line in after[k:m])


def _steps(before: Sequence[str], after: Sequence[str]) -> list[Step]:
    """Return the steps from one text to the other, as `SequenceMatcher.get_opcodes` does."""
    most = min(len(before), len(after))
    head = next((at for at in range(most) if before[at] != after[at]), most)
    tail = next((at for at in range(most - head) if before[-1 - at] != after[-1 - at]), most - head)
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    inner: list[Step]
    if max(len(old), len(new)) > MOST_LINES:
        inner = [("replace", 0, len(old), 0, len(new))]
    else:
        inner = [*SequenceMatcher(None, old, new).get_opcodes()]
    steps: list[Step] = [("equal", 0, head, 0, head)] if head else []
    steps += [(tag, i + head, j + head, k + head, m + head) for tag, i, j, k, m in inner]
    ends = len(before), len(after)
    return steps + ([("equal", ends[0] - tail, ends[0], ends[1] - tail, ends[1])] if tail else [])


def _place(start: int, stop: int) -> str:
    """Return lines as a unified diff names them: the first, from 1, and how many; of none, the line before."""
    count = stop - start
    return f"{start + (count > 0)},{count}"
