"""Turns: who came first writes first."""

import threading

import pytest

from registry.db.turns import Turns
from tests.support.processes import until


def test_those_who_wait_come_in_order() -> None:
    turns, came = Turns(), list[int]()

    def come(number: int) -> None:
        with turns.take():
            came.append(number)

    threads = [threading.Thread(target=come, args=(number,)) for number in range(20)]
    with turns.take():
        for number, thread in enumerate(threads):
            thread.start()
            until(lambda number=number: len(turns.waiting) > number)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert came == list(range(20))
    with turns.take():
        assert not turns.waiting


def test_a_turn_is_passed_on_after_an_error() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.take():
        raise ZeroDivisionError
    with turns.take():
        assert turns.taken
    assert not turns.taken


def test_nobody_waits_for_one_who_left_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()

    class Interrupted:
        """A lock whose second taker is interrupted."""

        times = 0

        def acquire(self) -> None:
            self.times += 1
            if self.times > 1:
                raise KeyboardInterrupt

    with turns.take():
        with monkeypatch.context() as patch:
            patch.setattr("registry.db.turns.threading.Lock", Interrupted)
            with pytest.raises(KeyboardInterrupt), turns.take():
                pass
        assert not turns.waiting
    assert not turns.taken
