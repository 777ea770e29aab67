"""What tests run in a sandbox."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from registry.errors import InvalidPatch


def answer(value: Any, progress: Callable[[float], None]) -> Any:
    progress(0.5)
    return {"value": value, "pid": os.getpid(), "environment": sorted(os.environ)}


def refuse(progress: Callable[[float], None]) -> None:
    raise InvalidPatch("The entry 'a.values' is too short.", field="a.values")


def surprise(progress: Callable[[float], None]) -> None:
    raise KeyError("unexpected")


def crash(progress: Callable[[float], None]) -> None:
    ctypes.string_at(0)


def be_killed(progress: Callable[[float], None]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def quit_early(progress: Callable[[float], None]) -> None:
    os._exit(3)


def take_memory(progress: Callable[[float], None]) -> int:
    return len(bytearray(8 * 2**30))


def stand_still(path: str, progress: Callable[[float], None]) -> None:
    """Progress once, say who stands still, and then stop as a read of a dead disk does."""
    progress(0.25)
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


def count(until: float, progress: Callable[[float], None]) -> str:
    """Use the processor in a process of its own for some seconds, without any progress."""
    child = os.fork()
    if child == 0:
        end = time.monotonic() + until
        while time.monotonic() < end:
            pass
        os._exit(0)
    os.waitpid(child, 0)
    return "counted"


def work(path: str, progress: Callable[[float], None]) -> None:
    """Say who works on a file, then never end."""
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    step = 0
    while True:
        step += 1
        progress(min(0.9, step / 100))
        time.sleep(0.02)


def fence_is_open(progress: Callable[[float], None]) -> bool:
    return False


def crash_range(**_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_range(**_: Any) -> None:
    time.sleep(600)


def write_range(out: str, name: str, **_: Any) -> int:
    with open(out, "r+b") as file:
        return file.write(name.encode())
