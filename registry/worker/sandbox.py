"""Run a function in a disposable process: whatever happens in there harms nobody else.

The process is forked from a server that has imported the science once, so it starts in milliseconds. It holds no
connection, no token and no database URL; it is the first the kernel kills when memory runs out; it ends when its
parent does. What it says comes back as JSON over a pipe, never as pickles: it has been reading strangers' bytes.
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
import threading
import time
import traceback
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from registry.errors import BreadcrumbError, JobFailed, by_slug

PRELOAD = ["registry.worker.tasks"]
KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
CLONE_NEWNET = 0x40000000  # linux/sched.h
TELL_EVERY = 0.1
ANSWER_BYTES = 512 * 2**20


def context() -> ForkServerContext:
    """Return the context whose server has the science imported."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOAD)
    return made


def warm_up() -> None:
    """Start the server that processes are forked from, so that the first job need not wait for its imports."""
    context()
    forkserver.ensure_running()


class Sandbox:
    """One function call in a process of its own.

    Args:
        function: `module:name`; it is called with `kwargs` and `progress`, and returns JSON. A name, so that the
            caller need not import what only the process needs.
        kwargs: Its arguments.
        memory: Limit of its address space in bytes, or None.
        keep: Whether the process stays after a result, for `again`; after anything else it never does.
        network: Whether it may reach other machines, which is for what fetches bytes and does not look into them.
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
        self.keep = keep
        made = context()
        self._pipe, theirs = made.Pipe()
        self._process: ForkServerProcess = made.Process(
            target=_main, args=(theirs, function, kwargs, memory, keep, network), daemon=True
        )
        self._process.start()
        theirs.close()

    def wait(self, seconds: float) -> Any | None:
        """Wait for the result; None when it is not there yet.

        Raises:
            BreadcrumbError: what the function raised.
            JobFailed: the process crashed; the message says how.
        """
        deadline = time.monotonic() + seconds
        while self._pipe.poll(max(0.0, deadline - time.monotonic())):
            try:
                kind, content = json.loads(self._pipe.recv_bytes(ANSWER_BYTES))
            except (EOFError, OSError):
                self._process.join(5)  # its pipe is closed, so it is on its way out
                self.kill()
                raise JobFailed(self._epitaph()) from None
            if kind == "progress":
                self.progress = float(content)
            elif kind == "result":
                if not self.keep:
                    self.kill()
                return content
            else:
                self.kill()
                raise _revive(content)
        return None

    def again(self, kwargs: dict[str, Any]) -> None:
        """Call the function once more, in the process that was kept.

        Raises:
            OSError: The process is gone.
        """
        if not self._process.is_alive():
            raise BrokenPipeError("The process that was kept has ended.")
        self.progress = 0.0
        self._pipe.send_bytes(json.dumps(kwargs).encode())

    def kill(self) -> None:
        """End the process, whatever it is doing; safe to call again."""
        if self._process.is_alive():
            self._process.join(0.2)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._pipe.close()

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


def _main(
    pipe: Connection, function: str, kwargs: dict[str, Any], memory: int | None, keep: bool, network: bool
) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which ends this process itself
        signal.signal(number, signal.SIG_IGN)
    for name in [name for name in os.environ if name not in KEPT]:
        del os.environ[name]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if not network:
        ctypes.CDLL(None).unshare(CLONE_NEWNET)  # none where the kernel lets us give it up
    calls: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, calls), daemon=True).start()
    told = 0.0

    def progress(value: float) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_EVERY:
            told = time.monotonic()
            _tell(pipe, "progress", value)

    try:
        module, _, name = function.partition(":")
        call = getattr(importlib.import_module(module), name)
        while True:
            _tell(pipe, "result", call(**kwargs, progress=progress))
            if not keep:
                break
            kwargs = calls.get()
    except BreadcrumbError as error:
        _tell(pipe, "error", {"slug": error.slug, "message": error.message, "field": error.field})
    except MemoryError:
        _tell(pipe, "error", {"slug": JobFailed.slug, "message": "This job needs more memory.", "field": None})
    except BaseException as error:  # also a panic of a native library, which is no Exception
        traceback.print_exc()  # for the operator; people get no paths and no values
        message = f"This job failed inside with {type(error).__name__}; the operator has the log."
        _tell(pipe, "error", {"slug": JobFailed.slug, "message": message, "field": None})
    finally:
        os._exit(0)  # nothing here is worth an orderly end


def _tell(pipe: Connection, kind: str, content: Any) -> None:
    pipe.send_bytes(json.dumps([kind, content]).encode())


def _listen(pipe: Connection, calls: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Take further calls, and end this process when its parent is gone."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            calls.put(json.loads(pipe.recv_bytes()))
    os._exit(1)
