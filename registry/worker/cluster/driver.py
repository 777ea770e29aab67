"""The driver: the process of a worker that speaks Ray. It keeps an actor in each place of a node that it uses.

An actor reserves the processors, or the GPU, of its place. On a GPU it stays as long as the worker, since a base stays
there; elsewhere it ends when it has had nothing to do for a minute, so that others get the processors. Nothing is
retried by Ray: a part whose actor died is lost, and the worker decides where it goes next.
"""

import json
import os
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

LOOK_EVERY = 2.0  # seconds between looks at the nodes
IDLE_SECONDS = 60.0  # after which an actor without a GPU ends
READY_WITHIN = 120.0  # seconds in which an actor has to have got its place
LETS_IN_ANYBODY = (
    "Other machines reach the cluster, and it has to ask for a token: anybody who reaches its ports could run programs "
    "there. Start Ray with RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN_PATH on every node, and set both for the worker; "
    "or start it on this machine alone, with --node-ip-address=127.0.0.1."
)


class Unsafe(Exception):
    """Other machines reach the cluster, and whoever does can run programs there."""


class Actor:
    """A place on a node, as Ray runs it there; see `Node`."""

    def __init__(self) -> None:
        from registry.settings import Settings
        from registry.worker.cluster.node import Node

        self.node = Node(Settings())

    def ready(self) -> bool:
        """Say that it has its place."""
        return True

    def compose(self, shared: str, ask: str) -> str:
        """Compose a part, and return what became of it; all are JSON, and `shared` is what parts have in common."""
        return json.dumps(self.node.compose(json.loads(shared) | json.loads(ask)))


@dataclass
class Held:
    """An actor: what says that it is ready, since when it waits or is idle, and the part that it has."""

    actor: Any
    ready: Any
    since: float
    key: str | None = None


class Driver:
    """Runs parts on the nodes for the worker at the other end of a pipe.

    Args:
        pipe: Where the worker says what to do, and hears of it.
        cpus: Processors of a part.
        gpu: Whether a part uses a GPU.
    """

    def __init__(self, pipe: Connection, cpus: int, *, gpu: bool) -> None:
        self.pipe, self.cpus, self.gpu = pipe, cpus, gpu
        self.shared: Any = None  # what the parts of the job have in common: an object of Ray's, sent to a node once
        self.held: dict[tuple[str, int], Held] = {}
        self.refs: dict[Any, tuple[str, int]] = {}
        self.nodes: dict[str, dict[str, Any]] | None = None
        self.inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def listen(self) -> None:
        """Take what the worker says as it comes, so that it never waits for this process, which may wait for it."""
        with suppress(EOFError, OSError):
            while True:
                self.inbox.put(json.loads(self.pipe.recv_bytes()))
        self.inbox.put(None)

    def run(self) -> None:
        """Work until the worker lets go of the pipe."""
        threading.Thread(target=self.listen, name="listen", daemon=True).start()
        looked = float("-inf")
        while True:
            if time.monotonic() - looked >= LOOK_EVERY:
                self.look()
                looked = time.monotonic()
            with suppress(queue.Empty):
                while message := self.inbox.get(timeout=0.001 if self.refs else 0.25):
                    self.take(message)
                return
            self.collect()

    def look(self) -> None:
        """Tell the worker which nodes there are, if it waits or that has changed; and end actors that nobody needs.

        Raises:
            Unsafe: Other machines reach it, and it does not ask for a token.
        """
        alive = [node for node in ray().nodes() if node["Alive"]]
        reached = {node["NodeManagerAddress"] for node in alive} - {"127.0.0.1"}
        if reached and os.environ.get("RAY_AUTH_MODE") != "token":
            raise Unsafe
        found = {
            node["NodeID"]: {
                "name": f"ray:{node['NodeName']}",
                "slots": slots_of(node["Resources"], self.cpus, self.gpu),
            }
            for node in alive
        }
        usable = {key: place for key, place in found.items() if place["slots"]}
        if not usable and self.nodes is None:  # nodes that were here may come back
            what = "a GPU and " if self.gpu else ""
            why = f"No node of the cluster has {what}{self.cpus} processors; see `ray status`, and change --ray-cpus."
            self.tell({"refused": why})
        if self.refs or usable != self.nodes:  # a worker without a job takes no messages
            self.nodes = usable
            self.tell({"nodes": usable})
        for place, held in list(self.held.items()):
            idle = held.key is None and not self.gpu and time.monotonic() - held.since >= IDLE_SECONDS
            if idle or place[0] not in usable:
                self.drop(place, "The node has left the cluster.")
            elif held.ready is not None and time.monotonic() - held.since >= READY_WITHIN:
                why = f"No place was free on the node within {READY_WITHIN:g} seconds; others use the cluster."
                self.drop(place, why, "busy")

    def take(self, message: Mapping[str, Any]) -> None:
        """Do what the worker says."""
        if "shared" in message:
            self.shared = ray().put(json.dumps(message["shared"]))
        if "submit" in message:
            key, node = message["submit"], message["node"]
            slots = (self.nodes or {}).get(node, {}).get("slots", 0)
            free = [
                (node, slot) for slot in range(slots) if (held := self.held.get((node, slot))) is None or not held.key
            ]
            if not free:
                self.lose(key, "The node has left the cluster.")
                return
            place = min(free, key=lambda place: place not in self.held)
            held = self.held.get(place) or self.begin(place)
            held.key = key
            self.refs[held.actor.compose.remote(self.shared, json.dumps(message["ask"]))] = place
        for key in message.get("cancel", ()):
            for place, held in list(self.held.items()):
                if held.key == key:
                    held.key = None
                    self.drop(place, "")

    def begin(self, place: tuple[str, int]) -> Held:
        """Start an actor in a place on a node."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = {
            "num_cpus": self.cpus,
            "num_gpus": int(self.gpu),
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(place[0], soft=False),
        }
        actor = ray().remote(Actor).options(**options).remote()
        self.held[place] = Held(actor, actor.ready.remote(), time.monotonic())
        self.refs[self.held[place].ready] = place
        return self.held[place]

    def collect(self) -> None:
        """Tell the worker of parts that have ended."""
        if not self.refs:
            return
        ended, _ = ray().wait(list(self.refs), num_returns=len(self.refs), timeout=0.25)
        for ref in ended:
            place = self.refs.pop(ref, None)
            held = self.held.get(place) if place else None
            if place is None or held is None:
                continue
            try:
                answer = ray().get(ref)
            except Exception as error:  # the process, or the node, died; or the program there is wrong
                self.drop(place, f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}")
                continue
            if ref == held.ready:
                held.ready = None
                continue
            key, held.key, held.since = held.key, None, time.monotonic()
            self.tell({"key": key, "content": json.loads(answer)})

    def drop(self, place: tuple[str, int], why: str, what: str = "lost") -> None:
        """End an actor; the part that it has, if any, is lost, or was never begun."""
        held = self.held.pop(place)
        for ref in [ref for ref, where in self.refs.items() if where == place]:
            del self.refs[ref]
        ray().kill(held.actor, no_restart=True)
        if held.key is not None:
            self.lose(held.key, why, what)

    def lose(self, key: str, why: str, what: str = "lost") -> None:
        """Tell the worker that a part is to be tried elsewhere."""
        self.tell({"key": key, "content": {what: why}})

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send the worker a message."""
        self.pipe.send_bytes(json.dumps(message).encode())


def slots_of(resources: Mapping[str, float], cpus: int, gpu: bool) -> int:
    """Return how many parts a node can compose at a time."""
    slots = int(resources.get("CPU", 0) // cpus)
    return min(slots, int(resources.get("GPU", 0))) if gpu else slots


def ray() -> Any:
    """Return Ray, which is an extra."""
    import ray as library

    return library


def main(number: str, address: str, cpus: str, gpu: str) -> None:
    """Connect to a cluster, then do what the worker says; exit when either of them is gone."""
    pipe = Connection(int(number))
    driver = Driver(pipe, int(cpus), gpu=gpu == "1")
    try:
        ray().init(address=address, log_to_driver=False, logging_level="ERROR", namespace="crumb")
        driver.run()
    except Unsafe:
        driver.tell({"refused": LETS_IN_ANYBODY})
    except (EOFError, BrokenPipeError):  # the worker has ended
        return
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        hint = "If it runs, see that RAY_AUTH_MODE and the token here are those of its nodes."
        driver.tell({"away": f"The cluster at {address} does not answer: {lines[0][:300]}. {hint}"})
