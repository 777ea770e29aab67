import gc
import threading

from registry.files.collector import paused_collector


def test_the_collector_works_again_after_the_last_of_several_pauses() -> None:
    assert gc.isenabled()
    with paused_collector():
        thread = threading.Thread(target=pause_and_end)
        thread.start()
        thread.join()
        assert not gc.isenabled()
    assert gc.isenabled()


def pause_and_end() -> None:
    with paused_collector():
        pass


def test_a_collector_that_somebody_turned_off_stays_off() -> None:
    gc.disable()
    try:
        with paused_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_error_ends_the_pause() -> None:
    try:
        with paused_collector():
            raise KeyError
    except KeyError:
        assert gc.isenabled()
