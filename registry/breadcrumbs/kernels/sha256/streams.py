"""Streams: running SHA-256 hashes that take bytes two at a time, in little more than the time of one."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.breadcrumbs.kernels.constants import BLOCK, START
from registry.breadcrumbs.kernels.sha256.blocks import HAS_SHA, absorb_one, absorb_two
from registry.files import hashing
from registry.files.hashing import Hash, Reader
from registry.files.threads import call_each, processors

Octets = NDArray[np.uint8]


class Stream:
    """A running hash, as those of hashlib, that `update_each` can feed beside another."""

    def __init__(self, data: bytes = b"") -> None:
        self._state = np.array(START, np.uint32)
        self._rest = np.zeros(BLOCK, np.uint8)
        self._length = 0
        self.update(data)

    def update(self, data: Any) -> None:
        """Take bytes: any object with a contiguous buffer."""
        at, whole, octets = self._take(data)
        absorb_one(self._state, whole, octets, at)
        self._keep(octets[at + whole * BLOCK :])

    def hexdigest(self) -> str:
        """Return the hash of all bytes so far, in hex; more may follow."""
        state, bits = self._state.copy(), (8 * self._length).to_bytes(8, "big")
        rest = self._rest[: self._length % BLOCK].tobytes() + b"\x80"
        end = np.frombuffer(rest + bytes((BLOCK - 8 - len(rest)) % BLOCK) + bits, np.uint8)
        absorb_one(state, end.size // BLOCK, end, 0)
        return state.astype(">u4").tobytes().hex()

    def _take(self, data: Any) -> tuple[int, int, Octets]:
        """Complete the block that was begun; return where the next one begins, how many there are, and the bytes."""
        octets = np.frombuffer(data, np.uint8)
        kept, at = self._length % BLOCK, 0
        self._length += octets.size
        if kept:
            at = min(BLOCK - kept, octets.size)
            self._rest[kept : kept + at] = octets[:at]
            if kept + at < BLOCK:
                return at, 0, octets
            absorb_one(self._state, 1, self._rest, 0)
        return at, (octets.size - at) // BLOCK, octets

    def _keep(self, octets: Octets) -> None:
        """Keep the bytes after the last whole block, if any begins here."""
        if octets.size:
            self._rest[: octets.size] = octets


def new_hash(data: bytes = b"") -> Hash:
    """Return a running SHA-256 hash that has taken `data`: one for `update_each` where the processor has SHA."""
    return Stream(data) if HAS_SHA else hashlib.sha256(data)


def update_each(fed: Sequence[tuple[Hash, Any]]) -> None:
    """Give each of some different hashes of `new_hash` its bytes, two at a time."""
    for place in range(0, len(fed), 2):
        pair = fed[place : place + 2]
        if len(pair) == 2 and HAS_SHA:
            _update_two(pair[0][0], pair[0][1], pair[1][0], pair[1][1])
        else:
            for running, data in pair:
                running.update(data)


def _update_two(one: Any, data: Any, two: Any, other: Any) -> None:
    at, blocks, octets = one._take(data)
    there, others, more = two._take(other)
    both = min(blocks, others)
    states = np.stack([one._state, two._state])
    absorb_two(states, both, octets, at, more, there)
    one._state, two._state = states
    absorb_one(one._state, blocks - both, octets, at + both * BLOCK)
    absorb_one(two._state, others - both, more, there + both * BLOCK)
    one._keep(octets[at + blocks * BLOCK :])
    two._keep(more[there + others * BLOCK :])


def hash_each(readers: Sequence[Reader], count: Callable[[int], object], most: int | None = None) -> list[str]:
    """Hash streams as `registry.files.hashing.hash_each` does, two of them side by side in each thread."""
    if not HAS_SHA:
        return hashing.hash_each(readers, count, most)
    left, lock, digests = iter(enumerate(readers)), threading.Lock(), [""] * len(readers)

    def begin_next() -> list[tuple[int, Hash, Iterator[Any]]]:
        with lock:
            following = next(left, None)
        return [] if following is None else [(following[0], new_hash(), following[1]())]

    def hash_two(_: int) -> None:
        running = begin_next() + begin_next()
        while running:
            fed, on = [], []
            for number, digest, stream in running:
                block = next(stream, None)
                if block is None:
                    digests[number] = digest.hexdigest()
                    on += begin_next()
                else:
                    fed.append((digest, block))
                    on.append((number, digest, stream))
            update_each(fed)
            count(sum(len(block) for _, block in fed))
            running = on

    threads = min(most or processors(), (len(readers) + 1) // 2)
    call_each(hash_two, range(threads), threads or 1, name="hash")
    return digests
