"""Counters of sliding windows, in memory that the processes of a server share: a table of fixed size.

    row of a key ── 8 entries: key, last use (a serial), window, count in it, count in the one before

As in a processor's cache, a key belongs to one row, and in a full row the entry that was idle longest makes room. So a
look-up costs the same however many keys there are. Python's own hash finds the row: it is keyed by a secret that
processes forked from one share, so nobody can choose keys that meet in a row.
"""

import math
import mmap
import struct
import time

from registry.server.processes.locks import Lock

WAYS = 8
ENTRY = struct.Struct("=QQQII")  # the hash of a key (0 for none), last use, window, count, count of the one before
ROW = ENTRY.size * WAYS
KEYS = struct.Struct("=" + f"Q{ENTRY.size - 8}x" * WAYS)
USES = struct.Struct("=" + f"8xQ{ENTRY.size - 16}x" * WAYS)
SERIAL = struct.Struct("=Q")  # of the latest use, behind all rows
MASK = 2**64 - 1
MOST_COUNT = 2**32 - 1


class Counters:
    """Counts of events in windows of time, of a bounded number of keys; asked as the storages of `limits` are.

    Args:
        most: About how many keys are counted.
        lock: A lock between all who count.
    """

    def __init__(self, most: int, lock: Lock) -> None:
        self.rows = math.ceil(most / WAYS)
        self.memory = mmap.mmap(
            -1, self.rows * ROW + SERIAL.size
        )  # shared by the processes that are forked from now on
        self.lock = lock

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count events unless that would be too many; a refused key, too, keeps its entry from making room.

        Args:
            key: What is counted.
            limit: The most events in a window; those in the one before fade.
            expiry: The length of a window, in seconds.
            amount: How many events.
        """
        now = time.time()
        window, left = int(now // expiry), expiry - now % expiry
        number = hash(key) & MASK or 1
        with self.lock:
            at, before, count = self._find(number, window)
            fits = math.floor(before * left / expiry + count) + amount <= min(limit, MOST_COUNT)
            use = SERIAL.unpack_from(self.memory, self.rows * ROW)[0] + 1
            SERIAL.pack_into(self.memory, self.rows * ROW, use)
            ENTRY.pack_into(self.memory, at, number, use, window, count + amount if fits else count, before)
        return fits

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the counts of the window before and of this one, each with the seconds until it is forgotten."""
        now = time.time()
        with self.lock:
            _, before, count = self._find(hash(key) & MASK or 1, int(now // expiry))
        left = expiry - now % expiry
        return before, left if before else 0.0, count, left + expiry

    def _find(self, number: int, window: int) -> tuple[int, int, int]:
        """Return where the entry of a key is or may be put, and its counts in the window before and in this one."""
        row = number % self.rows * ROW
        keys = KEYS.unpack_from(self.memory, row)
        if number not in keys:
            uses = USES.unpack_from(self.memory, row)
            return row + ENTRY.size * uses.index(min(uses)), 0, 0
        at = row + ENTRY.size * keys.index(number)
        _, _, known, count, before = ENTRY.unpack_from(self.memory, at)
        if known != window:
            before, count = count if known == window - 1 else 0, 0
        return at, before, count
