"""Processes that compose for readers: whose turn it is, and what becomes of one that crashes or takes too long."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from registry.errors import JobFailed, StorageFailed, TooMany
from registry.server import composers
from registry.server.composers import Composers, Piece, Source

SOURCE = Source("one", {}, {}, {})


class Hand:
    """In place of a process: composes when it is told to, and remembers what."""

    def __init__(self) -> None:
        self.done, self.may = list[str](), threading.Semaphore(0)
        self.failures: dict[str, BaseException] = {}
        self.made = self.closed = 0

    def __call__(self, memory: int | None) -> "Hand":
        self.made += 1
        return self

    alive = True

    def compose(self, piece: Piece) -> bytes:
        assert self.may.acquire(timeout=60)
        if piece.name in self.failures:
            raise self.failures[piece.name]
        self.done.append(piece.name)
        return piece.name.encode()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    made = Hand()
    monkeypatch.setattr(composers, "Composer", made)
    return made


@pytest.fixture
def one(hand: Hand) -> Iterator[Composers]:
    made = Composers(1, None)
    yield made
    made.close()
    hand.may.release(1000)


def piece(name: str) -> Piece:
    return Piece(SOURCE, name, 0, 1)


def test_readers_take_turns_however_much_one_of_them_asks_for(one: Composers, hand: Hand) -> None:
    first = [one.compose("ann", piece(f"ann {number}")) for number in range(4)]
    second = [one.compose("bob", piece(f"bob {number}")) for number in range(2)]
    hand.may.release(6)
    assert [future.result(60) for future in [*first, *second]] == [
        *(b"ann %d" % number for number in range(4)),
        *(b"bob %d" % number for number in range(2)),
    ]
    begun = hand.done.index("bob 0")
    assert begun <= 2, "it waits for one piece of the other, and for one that may have begun"
    assert hand.done.index("bob 1") <= begun + 2
    assert hand.made == 1, "a process is used again"


def test_what_nobody_waits_for_is_not_composed(one: Composers, hand: Hand) -> None:
    running = one.compose("ann", piece("running"))
    gone, left = one.compose("ann", piece("gone")), one.compose("ann", piece("left"))
    assert gone.cancel()
    hand.may.release(3)
    assert (running.result(60), left.result(60)) == (b"running", b"left")
    assert hand.done == ["running", "left"]


def test_a_process_that_fails_is_replaced_and_others_get_what_they_ask_for(one: Composers, hand: Hand) -> None:
    hand.failures["bad"] = StorageFailed("damaged")
    bad, good = one.compose("ann", piece("bad")), one.compose("bob", piece("good"))
    hand.may.release(2)
    with pytest.raises(StorageFailed, match="damaged"):
        bad.result(60)
    assert good.result(60) == b"good"
    assert (hand.made, hand.closed) == (2, 1)


def test_only_so_many_pieces_wait(one: Composers, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composers, "WAITING", 2)
    waiting = [one.compose("ann", piece("0"))]
    with pytest.raises(TooMany):
        waiting += [one.compose("ann", piece(str(number))) for number in range(1, 5)]
    hand.may.release(len(waiting))
    for future in waiting:
        future.result(60)


def test_at_the_end_nothing_is_begun(hand: Hand) -> None:
    ended = Composers(1, None)
    running, waits = ended.compose("ann", piece("running")), ended.compose("ann", piece("waits"))
    while not running.running():
        threading.Event().wait(0.001)
    ended.close()
    with pytest.raises(CancelledError):
        waits.result(60)
    hand.may.release()
    assert running.result(60) == b"running"
    with pytest.raises(TooMany):
        ended.compose("ann", piece("late"))


def test_a_process_that_crashes_or_stands_still_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = Composers(1, None)
    monkeypatch.setattr(composers, "TASK", "tests.support.sandboxed:crash_range")
    with pytest.raises(JobFailed):
        real.compose("ann", piece("any")).result(120)
    monkeypatch.setattr(composers, "TASK", "tests.support.sandboxed:sleep_range")
    monkeypatch.setattr(composers, "PIECE_SECONDS", 0.5)
    with pytest.raises(JobFailed, match=r"within 0\.5 seconds"):
        real.compose("ann", piece("any")).result(120)
    real.close()


def test_the_shared_memory_has_no_name_once_it_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(composers, "SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr(composers, "TASK", "tests.support.sandboxed:write_range")
    real = Composers(1, None)
    assert real.compose("ann", piece("any")).result(120) == b"any"
    assert os.listdir(tmp_path) == []
    real.close()
