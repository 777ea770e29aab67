"""The supervisor: a process that does nothing but start the others, replace those that die, and end them all.

    started: the first, alone, so that a mistake is told once ── the others ── all are ready
    died:    what it held is freed ── another one, at once or, if it lived shortly, after a pause that grows
    ended:   by SIGINT or SIGTERM all are told to end, and those that do not are killed; by the supervisor's own death,
             which they notice by a pipe, they end themselves

Processes are forked from this one, which therefore has one thread, no connection and no lock: they take no time to
import anything, and share its memory. A pipe whose other end is in the hand of the supervisor alone says that it lives.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess

import structlog

from registry.errors import BreadcrumbError

log = structlog.get_logger()
ENDING_SECONDS = 30.0  # for which a process may end by itself; requests in progress have ten
LIVED_SECONDS = 10.0  # after which a process that dies is replaced at once
LONGEST_PAUSE = 30.0  # seconds
Ready = Callable[[], None]


@dataclass
class Child:
    """A process that is kept running.

    Args:
        name: Its name, for the log.
        work: What it does, until it gets SIGTERM or SIGINT; calls its argument once it works.
        free: Frees what it held, once it has died.
    """

    name: str
    work: Callable[[Ready], None]
    free: Callable[[], None]
    process: ForkProcess | None = None
    started: float = 0.0
    failures: int = 0
    due: float = 0.0  # when it is started again, if it has no process


class Supervisor:
    """Keeps processes running until a signal ends them.

    Args:
        children: The processes.
        ready: Called once, when all of them work.
        ending: Called before they are told to end.
    """

    def __init__(self, children: Sequence[Child], ready: Ready, ending: Callable[[], None]) -> None:
        self.children, self.ready, self.ending = children, ready, ending
        self.signals: list[int] = []
        self.wake, self.alarm = os.pipe()
        self.life, self.hand = os.pipe()

    def run(self) -> int | None:
        """Start all, and replace them until a signal comes; end all, and return the signal.

        Returns:
            The signal; None if a process could not start.
        """
        assert threading.active_count() == 1, "a thread would not be in the processes that are forked, but its locks"
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.note) for number in numbers}
        try:
            if all(self.start_and_await(group) for group in (self.children[:1], self.children[1:])):
                self.ready()
                while not self.signals:
                    self.replace()
        finally:
            self.end()
            for number in numbers:
                signal.signal(number, before[number])
        return self.signals[0] if self.signals else None

    def note(self, number: int, _frame: object) -> None:
        """Note a signal, and wake whoever waits."""
        self.signals.append(number)
        os.write(self.alarm, b"!")

    def start(self, child: Child) -> int:
        """Fork a process; return the end of a pipe that says when it works."""
        told, tell = os.pipe()
        child.process = multiprocessing.get_context("fork").Process(target=self.live, args=(child, tell))
        child.process.start()
        child.started = time.monotonic()
        os.close(tell)
        return told

    def start_and_await(self, children: Sequence[Child]) -> bool:
        """Start processes and wait until each works; return whether all do."""
        waiting = [self.start(child) for child in children]
        works = []
        for told in waiting:
            if told in wait([told, self.wake]):
                works.append(os.read(told, 1) != b"")  # nothing if it has ended
            os.close(told)
        return len(works) == len(waiting) and all(works)

    def replace(self) -> None:
        """Wait until a process dies, another is due, or a signal comes; see to those that have died."""
        due = min((child.due for child in self.children if child.process is None), default=None)
        alive = {child.process.sentinel: child for child in self.children if child.process is not None}
        wait([*alive, self.wake], None if due is None else max(0.0, due - time.monotonic()))
        for child in self.children:
            if child.process is not None and not child.process.is_alive():
                lived = time.monotonic() - child.started
                child.failures = 0 if lived > LIVED_SECONDS else child.failures + 1
                pause = 0.0 if child.failures < 2 else min(LONGEST_PAUSE, 2.0**child.failures)
                log.error("process.died", process=child.name, code=child.process.exitcode, seconds=round(lived, 1))
                child.free()
                child.process, child.due = None, time.monotonic() + pause
            if child.process is None and child.due <= time.monotonic() and not self.signals:
                os.close(self.start(child))

    def end(self) -> None:
        """End all processes; a second SIGINT ends their requests, too."""
        self.ending()
        running = [child.process for child in self.children if child.process is not None]
        sent, deadline = 0, time.monotonic() + ENDING_SECONDS
        self.pass_on(signal.SIGTERM, running)
        while running := [process for process in running if process.is_alive()]:
            if time.monotonic() >= deadline:
                log.error("process.killed", processes=len(running), seconds=ENDING_SECONDS)
                self.pass_on(signal.SIGKILL, running)
            if self.signals[1:].count(signal.SIGINT) > sent:
                sent += 1
                self.pass_on(signal.SIGINT, running)
            wait([process.sentinel for process in running], 0.25)
        for file in (self.wake, self.alarm, self.life, self.hand):
            os.close(file)

    def pass_on(self, number: int, processes: Sequence[ForkProcess]) -> None:
        """Send a signal to processes."""
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def live(self, child: Child, tell: int) -> None:
        """Be a process: do its work, and end with the supervisor."""
        os.close(self.hand)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=self.follow, name="supervisor", daemon=True).start()
        try:
            child.work(lambda: os.close(tell) if os.write(tell, b"!") else None)
        except BreadcrumbError as error:
            print(f"crumb-server: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            raise SystemExit(1) from None

    def follow(self) -> None:
        """Wait for the supervisor's death, and end this process as a signal would."""
        os.read(self.life, 1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ENDING_SECONDS)
        os._exit(1)
