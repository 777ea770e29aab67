"""Sandboxes: run a function in a disposable process, so that a crash harms nothing else.

The process is forked from a server that has imported the science once, so it starts in milliseconds. It has no
connection, no token and no database URL; the kernel kills it first when memory runs out; it ends when its parent does.
Its results come back as JSON over a pipe, never as pickles, since it reads strangers' bytes.
"""

import contextlib
import ctypes
import importlib
import json
import multiprocessing
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from registry.errors import BreadcrumbError, JobFailed, by_slug
from registry.sandboxes.processes import machine_memory, processor_time
from registry.sandboxes.stages import Stage, sound, stage, take

PRELOAD = ["registry.sandboxes.preload"]
KEPT_VARIABLES = ("PATH", "HOME", "TMPDIR", "LANG", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
SAFE_PATH = "PYTHONSAFEPATH"
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
PROGRESS_EVERY = 0.1  # seconds
MOST_ANSWER = 512 * 2**20  # bytes
STARTING = threading.Lock()  # held while a process is started


def context() -> ForkServerContext:
    """Return the context whose fork server has imported the science; it runs by then."""
    forkserver_context = multiprocessing.get_context("forkserver")
    forkserver_context.set_forkserver_preload(PRELOAD)
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"  # or the fork server takes modules from the folder that we were started in
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before
    return forkserver_context


def warm_up() -> None:
    """Start the fork server, so that the first job does not wait for its imports."""
    context()


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Let processes that are started meanwhile not run the program again that this one runs: nothing of it is needed.

    `multiprocessing` does that in each of them, for what is pickled, unless the program is a package's `__main__`. For
    `crumb-server` it took more of the processor than all else that a process begins with.
    """
    program = sys.modules["__main__"]
    with STARTING:
        before, program.__spec__ = program.__spec__, ModuleSpec("__main__", None)
        try:
            yield
        finally:
            program.__spec__ = before


class Sandbox:
    """One function call in a process of its own.

    Args:
        function: `module:name`; it is called with `kwargs` and `progress`, and returns JSON. It is given by name, so
            that the caller does not import what only the process needs.
        kwargs: Its arguments.
        memory: Most bytes of memory that it may allocate; None for three quarters of the machine's, 0 for no limit.
        keep: Whether the process stays after a result, for `again`; after an error it always ends.
        network: Whether it may reach other machines, only for functions that fetch bytes and do not parse them.
    """

    def __init__(
        self,
        function: str,
        kwargs: dict[str, Any],
        memory: int | None = None,
        keep: bool = False,
        network: bool = False,
    ) -> None:
        self.progress = 0.0
        self.stages: list[Stage] = []
        self.keep = keep
        if memory is None:
            memory = machine_memory() * 3 // 4
        forkserver_context = context()
        self._pipe, theirs = forkserver_context.Pipe()
        self._process: ForkServerProcess = forkserver_context.Process(
            target=_main, args=(theirs, function, kwargs, memory, keep, network), daemon=True
        )
        with without_main():
            self._process.start()
        theirs.close()

    def wait(self, seconds: float) -> Any | None:
        """Wait for the result; None if it has not arrived yet.

        Raises:
            BreadcrumbError: The function raised it.
            JobFailed: The process crashed; the message says how.
        """
        deadline = time.monotonic() + seconds
        while self._pipe.poll(max(0.0, deadline - time.monotonic())):
            try:
                kind, content = json.loads(self._pipe.recv_bytes(MOST_ANSWER))
            except (EOFError, OSError):
                self._process.join(5)  # its pipe is closed, so it is ending
                self.kill()
                raise JobFailed(self._epitaph()) from None
            if kind == "progress":
                self.progress = float(content)
            elif kind == "stages":
                self.stages = sound(content)
            elif kind == "result":
                if not self.keep:
                    self.kill()
                return content
            else:
                self.kill()
                raise _revive(content)
        return None

    def again(self, kwargs: dict[str, Any], function: str | None = None) -> None:
        """Call the function again, or another one, in the process that was kept.

        Raises:
            OSError: The process has ended.
        """
        if not self._process.is_alive():
            raise BrokenPipeError("The process that was kept has ended.")
        self.progress, self.stages = 0.0, []
        self._pipe.send_bytes(json.dumps([function, kwargs]).encode())

    def kill(self) -> None:
        """End the process, whatever it is doing; safe to call again."""
        if self._process.is_alive():
            self._process.join(0.2)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._pipe.close()

    @property
    def activity(self) -> tuple[float, int] | None:
        """Its progress and its processor time, which change while it works; None where that cannot be known."""
        ticks = None if self.pid is None else processor_time(self.pid)
        return None if ticks is None else (self.progress, ticks)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    @property
    def pid(self) -> int | None:
        """The process id."""
        return self._process.pid

    def _epitaph(self) -> str:
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return "The process of this job was killed, most likely because memory ran out."
        if code is not None and code < 0:
            return f"The process of this job crashed with {signal.Signals(-code).name}."
        return f"The process of this job ended without a result (exit code {code})."


def _revive(problem: dict[str, Any]) -> BreadcrumbError:
    return by_slug().get(problem["slug"], JobFailed)(problem["message"], field=problem["field"])


def leave_network() -> None:
    """Give up the network: as root, or else in a user namespace of its own, where the kernel allows that to everybody.

    `is_fenced`, called in a sandbox, says whether it worked.
    """
    unshare = getattr(ctypes.CDLL(None), "unshare", None)  # of Linux
    if unshare is not None and unshare(CLONE_NEWNET):
        unshare(CLONE_NEWUSER | CLONE_NEWNET)


def is_fenced(progress: object = None) -> bool:
    """Return whether this process reaches no other machine."""
    return {name for _, name in socket.if_nameindex()} <= {"lo"}


def _main(
    pipe: Connection, function: str, kwargs: dict[str, Any], memory: int | None, keep: bool, network: bool
) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which ends this process
        signal.signal(number, signal.SIG_IGN)
    for name in [name for name in os.environ if name not in KEPT_VARIABLES]:
        del os.environ[name]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))  # a GPU's driver reserves addresses without end
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if not network:
        leave_network()
    calls: queue.SimpleQueue[tuple[str | None, dict[str, Any]]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, calls), daemon=True).start()
    sent_at = 0.0

    def progress(value: float) -> None:
        nonlocal sent_at
        if time.monotonic() - sent_at >= PROGRESS_EVERY:
            sent_at = time.monotonic()
            _send(pipe, "progress", value)

    try:
        take()  # what was done to warm up, before this process was forked
        while True:
            module, _, name = function.partition(":")
            call = getattr(importlib.import_module(module), name)
            with stage(function):
                result = call(**kwargs, progress=progress)
            _send(pipe, "stages", take())
            _send(pipe, "result", result)
            if not keep:
                break
            another, kwargs = calls.get()
            function = another or function
    except BreadcrumbError as error:
        _send(pipe, "error", {"slug": error.slug, "message": error.message, "field": error.field})
    except MemoryError:
        _send(pipe, "error", {"slug": JobFailed.slug, "message": "This job needs more memory.", "field": None})
    except BaseException as error:  # also a panic of a native library, which is not an Exception
        traceback.print_exc()  # for the operator; users see neither paths nor values
        message = f"This job failed with an internal {type(error).__name__}; the operator can find it in the log."
        _send(pipe, "error", {"slug": JobFailed.slug, "message": message, "field": None})
    finally:
        os._exit(0)  # nothing here needs an orderly end


def _send(pipe: Connection, kind: str, content: Any) -> None:
    pipe.send_bytes(json.dumps([kind, content]).encode())


def _listen(pipe: Connection, calls: "queue.SimpleQueue[tuple[str | None, dict[str, Any]]]") -> None:
    """Receive further calls, and end this process when its parent has ended."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            calls.put(json.loads(pipe.recv_bytes()))
    os._exit(1)
