"""Places, of which there is a bounded number in all processes of a server: taken for somebody, and left.

    memory of a process ── number of its places, then for whom each is held

Each process writes its own part of the memory. So all that a process held is free once its number is set to 0.
"""

import mmap

from registry.server.processes.locks import Lock

MASK = 2**63 - 1
WORD = 8  # bytes


class Places:
    """Places that threads of several processes take and leave.

    Args:
        most: The most places that are taken at a time.
        lock: A lock between all who take places; hold it to count and take at one moment.
        processes: How many processes there are.
    """

    def __init__(self, most: int, lock: Lock, processes: int = 1) -> None:
        self.most, self.lock = most, lock
        self.memory = memoryview(mmap.mmap(-1, processes * (most + 1) * WORD)).cast("Q")
        self.parts = range(0, len(self.memory), most + 1)
        self.part = 0  # where that of this process begins
        self.ours: list[int] = []

    def join(self, process: int) -> None:
        """Be the process of a number."""
        self.part = self.parts[process]

    def free(self, process: int) -> None:
        """Free what a process held that has died; it needs no lock."""
        self.memory[self.parts[process]] = 0

    def count(self, holder: str | None = None) -> int:
        """Return how many places are taken: by all, or for one holder. With the lock held, that stays so."""
        if holder is None:
            return sum(self.memory[part] for part in self.parts)
        number = hash(holder) & MASK  # the same in all processes, which are forked from one
        return sum(self.memory[part + 1 : part + 1 + self.memory[part]].tolist().count(number) for part in self.parts)

    def take(self, holder: str) -> None:
        """Take a place, with the lock held and after `count` has shown that there is one."""
        assert len(self.ours) < self.most, "no place is left"
        self.ours.append(hash(holder) & MASK)
        self.memory[self.part + len(self.ours)] = self.ours[-1]
        self.memory[self.part] = len(self.ours)

    def leave(self, holder: str) -> None:
        """Leave a place; the last one takes its position."""
        with self.lock:
            at, last = self.ours.index(hash(holder) & MASK), self.ours.pop()
            if at < len(self.ours):
                self.ours[at] = last
                self.memory[self.part + 1 + at] = last
            self.memory[self.part] = len(self.ours)
