import threading
import time

import pytest

from registry.files.threads import call_each, processors


def test_results_come_by_item_in_the_order_of_the_items():
    assert processors() >= 1
    assert call_each(lambda number: time.sleep(0.02 * (3 - number)) or number**2, [2, 0, 1], 3) == {2: 4, 0: 0, 1: 1}
    assert list(call_each(str, [2, 0, 1], 3)) == [2, 0, 1]
    assert call_each(str, []) == {}


def test_a_failure_ends_what_has_not_begun_and_waits_for_what_has():
    began, ended = [], []
    failed = threading.Event()

    def call(number):
        began.append(number)
        if number == 0:
            failed.set()
            raise ValueError("the first")
        failed.wait()
        time.sleep(0.1)
        ended.append(number)

    with pytest.raises(ValueError, match="the first"):
        call_each(call, range(100), 2)
    assert len(began) < 100
    assert sorted(ended) == sorted(number for number in began if number)
