"""The registry of the demo: a real `crumb-server serve` on loopback, stopped however the demo ends."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from registry.errors import NotFound, Unavailable

START = 60.0  # seconds that the server may take to answer
STOP = 15.0  # seconds that it may take to end by itself
LISTENING = "Listening on "


@dataclass(frozen=True)
class RunningRegistry:
    """A running registry."""

    url: str
    data: Path
    _helper: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def users(self, names: Sequence[str]) -> Future[dict[str, str]]:
        """Create users, as an operator would, in the background; the result is name -> token."""

        def create() -> dict[str, str]:
            return {name: self._token(name) for name in names}

        return self._helper.submit(create)

    def _token(self, user: str) -> str:
        command = [server_program(), "token", "create", user, "--data", str(self.data), "--json"]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=START, check=False)
        if done.returncode:
            raise Unavailable(f"crumb-server made no token for {user}: {_last_line(done.stderr)}")
        token: str = json.loads(done.stdout)["token"]
        return token


@contextlib.contextmanager
def start(data: Path) -> Iterator[RunningRegistry]:
    """Run a registry on a free port of this machine, until the block ends, however it ends."""
    data.mkdir(parents=True)
    output, log = data.parent / "server.out", data.parent / "server.log"
    command = [server_program(), "serve", "--data", str(data), "--port", "0"]
    with _ended_by_signals(), output.open("wb") as out, log.open("wb") as err:
        # A session of its own: Ctrl-C reaches this program only, which then stops the server in good order.
        process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        try:
            registry = RunningRegistry(_address(process, output, log), data)
            try:
                yield registry
            finally:
                registry._helper.shutdown(cancel_futures=True)
        finally:
            process.terminate()
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def server_program() -> str:
    """Return the crumb-server that was installed with this crumb.

    Raises:
        NotFound: There is no such command.
    """
    beside = Path(sysconfig.get_path("scripts")) / "crumb-server"
    program = str(beside) if beside.exists() else shutil.which("crumb-server")
    if program is None:
        raise NotFound(f"There is no crumb-server in {beside.parent}; install breadcrumb-registry again.")
    return program


def environment() -> dict[str, str]:
    """Return this program's environment without variables that could lead to another registry or its database."""
    ours = ("REGISTRY_", "CRUMB_", "DATABASE_URL")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(ours)}
    return {**kept, "OMP_NUM_THREADS": "1"}


def _address(process: "subprocess.Popen[bytes]", output: Path, log: Path) -> str:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        for line in output.read_text("utf-8", errors="replace").splitlines(keepends=True):
            if line.startswith(LISTENING) and line.endswith("\n"):
                return line.removeprefix(LISTENING).strip()
        if process.poll() is not None:
            raise Unavailable(f"crumb-server ended with code {process.returncode}: {_last_line_of(log)}")
        time.sleep(0.05)
    raise Unavailable(f"crumb-server did not answer within {START:.0f} s: {_last_line_of(log)}")


def _last_line_of(log: Path) -> str:
    return _last_line(log.read_text("utf-8", errors="replace"))


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "it printed nothing"


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception in the block, so that nothing is left running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
