"""The link to a cluster: a process of its own that speaks Ray, and ends without harm to the worker when Ray does.

    worker ── share, submit, cancel ──> driver process ── actors, one for each place on a node ──> Node
           <── nodes, outcomes ─────

Ray ends the processes of a driver that has lost its cluster. Here that is this process: the link is away then, and is
made anew for the next job.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Protocol

from registry.errors import InvalidRequest

CONNECTS_WITHIN = 60.0  # seconds
SILENT_SECONDS = 30.0  # after which the cluster is away: while parts are composed, it says so every few seconds
MOST_MESSAGE = 2**30  # bytes


class Away(Exception):
    """The cluster does not answer."""


class Refused(Away):
    """The cluster has no node that could ever compose, or lets in whoever asks: it may have others, later."""


@dataclass(frozen=True)
class Place:
    """A node of a cluster.

    Args:
        name: What builds and parts call it; it stays when Ray is started again there.
        slots: How many parts it composes at a time.
    """

    name: str
    slots: int


@dataclass(frozen=True)
class Outcome:
    """What became of a part that was submitted.

    Args:
        key: The name under which it was submitted.
        content: As of `Node.compose`; or `busy`, if the node had no place for it.
    """

    key: str
    content: Mapping[str, Any]


class Cluster(Protocol):
    """Nodes that compose."""

    cpus: int

    def ready(self, seconds: float) -> bool:
        """Connect, unless that is done, and wait for that a while; say whether it is done.

        Raises:
            Away: The cluster does not answer.
        """

    def nodes(self) -> dict[str, Place]:
        """Return the nodes that can compose now, by their ids; it is connected.

        Raises:
            Away: The cluster does not answer.
        """

    def share(self, shared: Mapping[str, Any]) -> None:
        """Say once what the parts that are submitted from now on have in common.

        Raises:
            Away: The cluster does not answer.
        """

    def submit(self, key: str, node: str, ask: Mapping[str, Any]) -> None:
        """Have a node compose a part; `ask` and what is shared are what `Node.compose` takes.

        Raises:
            Away: The cluster does not answer.
        """

    def wait(self, seconds: float) -> list[Outcome]:
        """Wait for outcomes of what was submitted.

        Raises:
            Away: The cluster does not answer.
        """

    def cancel(self, keys: Collection[str]) -> None:
        """Stop what was submitted, whatever it is doing; its outcome is not told."""

    def close(self) -> None:
        """Let go of the cluster."""


class RayLink:
    """A Ray cluster.

    Args:
        address: `auto`, or HOST:PORT of its head; this machine is a node of it.
        cpus: Processors that a part uses; so a node has as many slots as it has times as many.
        gpu: Whether a part uses a GPU.
    """

    def __init__(self, address: str, cpus: int, *, gpu: bool) -> None:
        self.address, self.cpus, self.gpu = check_address(address), cpus, gpu
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._nodes: dict[str, Place] | None = None
        self._deadline = 0.0
        self._outcomes: list[Outcome] = []
        self._submitted: set[str] = set()  # whose outcomes are waited for
        self._heard = 0.0

    def ready(self, seconds: float) -> bool:
        """Start the process that speaks Ray, unless it runs; say whether it has told which nodes there are."""
        if self._pipe is None:
            self._begin()
        self._listen(0.0 if self._nodes is not None else seconds)
        if self._nodes is None and time.monotonic() >= self._deadline:
            self.close()
            raise Away(f"The cluster at {self.address} did not answer within {CONNECTS_WITHIN:g} seconds.")
        return self._nodes is not None

    def _begin(self) -> None:
        self._pipe, theirs = Pipe()
        begin = "import sys; from registry.worker.cluster.driver import main; main(*sys.argv[1:])"
        arguments = [str(theirs.fileno()), self.address, str(self.cpus), str(int(self.gpu))]
        self._process = subprocess.Popen(
            [sys.executable, "-c", begin, *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONSAFEPATH": "1"},
        )
        theirs.close()
        self._nodes, self._outcomes, self._submitted = None, [], set()
        self._deadline = time.monotonic() + CONNECTS_WITHIN

    def nodes(self) -> dict[str, Place]:
        """Return the nodes that can compose now, by their ids."""
        self._listen(0.0)
        return dict(self._nodes or {})

    def share(self, shared: Mapping[str, Any]) -> None:
        """Say once what the parts that are submitted from now on have in common."""
        self._send({"shared": shared})

    def submit(self, key: str, node: str, ask: Mapping[str, Any]) -> None:
        """Have a node compose a part."""
        self._heard = time.monotonic()
        self._submitted.add(key)
        self._send({"submit": key, "node": node, "ask": ask})

    def wait(self, seconds: float) -> list[Outcome]:
        """Wait for outcomes of what was submitted."""
        if not self._outcomes:
            self._listen(seconds)
        if not self._outcomes and time.monotonic() - self._heard >= SILENT_SECONDS:
            self.close()
            raise Away(f"The cluster at {self.address} has said nothing for {SILENT_SECONDS:g} seconds.")
        outcomes = [outcome for outcome in self._outcomes if outcome.key in self._submitted]
        self._outcomes = []
        self._submitted -= {outcome.key for outcome in outcomes}
        return outcomes

    def cancel(self, keys: Collection[str]) -> None:
        """Stop what was submitted, whatever it is doing; its outcome is not told."""
        self._submitted -= set(keys)
        with suppress(Away):
            self._send({"cancel": list(keys)})

    def close(self) -> None:
        """End the process; Ray ends what it began."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            try:
                self._process.wait(5 if self._nodes is not None else 0)  # one that connects does not listen
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            if self._pipe is None:
                raise BrokenPipeError
            self._pipe.send_bytes(json.dumps(message).encode())
        except OSError:
            self.close()
            raise Away(f"The cluster at {self.address} is away.") from None

    def _listen(self, seconds: float) -> None:
        """Take the messages that are there; wait for the first one."""
        try:
            while self._pipe is not None and self._pipe.poll(seconds):
                self._take(json.loads(self._pipe.recv_bytes(MOST_MESSAGE)))
                self._heard, seconds = time.monotonic(), 0.0
        except (EOFError, OSError):
            self.close()
            raise Away(f"The cluster at {self.address} is away.") from None
        if self._pipe is None:
            raise Away(f"The cluster at {self.address} is away.")

    def _take(self, message: Mapping[str, Any]) -> None:
        if "refused" in message:
            self.close()
            raise Refused(message["refused"])
        if "away" in message:
            self.close()
            raise Away(message["away"])
        if "nodes" in message:
            self._nodes = {key: Place(**place) for key, place in message["nodes"].items()}
        if "key" in message:
            self._outcomes.append(Outcome(message["key"], message["content"]))


def check_address(address: str) -> str:
    """Return the address of a cluster if it is `auto` or HOST:PORT.

    Raises:
        InvalidRequest: It is something else, for one Ray's client, which loses what it began when it is cut off.
    """
    host, _, port = address.rpartition(":")
    if address == "auto" or ("/" not in address and host and port.isdecimal() and 0 < int(port) < 2**16):
        return address
    why = (
        "ray:// addresses are of Ray's client, which loses its work when it is cut off"
        if address.startswith("ray://")
        else f"{address!r} is not the address of a Ray cluster"
    )
    raise InvalidRequest(
        f"{why[0].upper()}{why[1:]}. Make this machine a node of the cluster (`ray start --address=HOST:6379`), and "
        "give `--ray auto` or `--ray HOST:6379`.",
        field="ray",
    )
