"""Processes of their own, forked from one that has imported registry and client: a start takes 0.1 s instead of 2.

The launcher runs beside the tests and has no threads. For each process it forks a keeper, which forks the process and
reports over a socket how it ended. Where there is no fork, processes are started as usual.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import IO, Any

SERVER = "from registry.cli import main; main()"
CRUMB = "from client.cli import main; main()"
MESSAGE_BYTES = 2**17  # a command with its environment
STREAMS = 3

PRELOADED = (
    "alembic.command",
    "client.actions.patching",
    "client.api.client",
    "client.cli",
    "registry.breadcrumbs.composing.compose",
    "registry.breadcrumbs.diffing.diff",
    "registry.cli",
    "registry.server.app",
    "registry.server.edge.serving",
    "registry.services.operating.backups",
    "registry.worker.courier",
    "registry.worker.worker",
)
"""What takes long to import. Imported by name, so that nothing that tidies imports removes them."""


class Launched:
    """A process that the launcher started, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, link: socket.socket, stdout: IO[str] | None) -> None:
        self.stdout, self.lock = stdout, threading.Lock()
        self.returncode: int | None = None
        self.pid = int.from_bytes(link.recv(4), "big")
        self.link = link.detach()  # closed with this object: threads may wait for the same process

    def __del__(self) -> None:
        os.close(self.link)

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self.link], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a launched process", timeout or 0)
            with self.lock:
                if self.returncode is None:
                    self.returncode = os.waitstatus_to_exitcode(int.from_bytes(os.read(self.link, 4), "big"))
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Launched":
        return self

    def __exit__(self, *_: object) -> None:
        if self.stdout is not None:
            self.stdout.close()
        self.wait()


Process = Launched | subprocess.Popen[str]


def start(code: str, arguments: Sequence[str], environment: Mapping[str, str], *, stdout: int, stderr: int) -> Process:
    """Start Python with a program.

    Args:
        code: What `python -c` would run.
        arguments: Those of the program.
        environment: All of its environment.
        stdout: A file descriptor, or `subprocess.PIPE`.
        stderr: A file descriptor.
    """
    if not hasattr(os, "fork"):
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr, text=True)
    reading, writing = os.pipe() if stdout == subprocess.PIPE else (None, None)
    ours, theirs = socket.socketpair()
    with theirs, open(os.devnull) as nothing:
        words = {"code": code, "arguments": list(arguments), "environment": dict(environment), "folder": os.getcwd()}
        streams = [nothing.fileno(), stdout if writing is None else writing, stderr]
        socket.send_fds(_link(), [json.dumps(words).encode()], [*streams, theirs.fileno()])
    if writing is not None:
        os.close(writing)
    return Launched(ours, None if reading is None else open(reading))


def run(
    code: str, *arguments: str, environment: Mapping[str, str], check: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run Python with a program to its end, and return what it printed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = start(code, arguments, environment, stdout=out.fileno(), stderr=errors.fileno())
        code = process.wait(120)
        for stream in (out, errors):
            stream.seek(0)
        done = subprocess.CompletedProcess(list(arguments), code, out.read(), errors.read())
    if check:
        assert code == 0, done.stdout + done.stderr
    return done


@cache
def _link() -> socket.socket:
    """Return the way to the launcher, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        number = theirs.fileno()
        launcher = subprocess.Popen(
            [sys.executable, "-c", f"from tests.support.launcher import main; main({number})"],
            stdin=subprocess.DEVNULL,
            pass_fds=[number],
        )
    atexit.register(launcher.wait)
    atexit.register(ours.close)  # called first
    return ours


def main(number: int) -> None:
    """Import all that processes will need, and then fork one for each message that comes over a socket."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are not waited for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and they end this
    link = socket.socket(fileno=number)
    while True:
        message, files, *_ = socket.recv_fds(link, MESSAGE_BYTES, STREAMS + 1)
        if not message:
            return
        if os.fork() == 0:
            program = _keep(json.loads(message), files)
            break
        for file in files:
            os.close(file)
    exec(compile(program, "<string>", "exec"), sys.modules["__main__"].__dict__)  # ends as an interpreter always does


def _keep(message: dict[str, Any], files: list[int]) -> str:
    """Return a program in a child of this process; this process waits for it, and never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for place, file in enumerate(files[:STREAMS]):
            os.dup2(file, place)
        os.closerange(STREAMS, 1024)
        os.environ.clear()
        os.environ.update(message["environment"])
        os.chdir(message["folder"])
        sys.argv = ["-c", *message["arguments"]]
        time.tzset()
        return str(message["code"])
    for file in files[:STREAMS]:
        os.close(file)
    os.write(files[STREAMS], pid.to_bytes(4, "big"))
    _, status = os.waitpid(pid, 0)
    os.write(files[STREAMS], status.to_bytes(4, "big"))
    os._exit(0)
