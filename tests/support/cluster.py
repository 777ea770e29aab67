"""A cluster without Ray: nodes of this process, each with a folder of its own, that are lost when a test says so."""

import json
import queue
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from registry.settings import Settings
from registry.worker.cluster.link import Away, Outcome, Place
from registry.worker.cluster.node import Node


class StandInCluster:
    """Composes on nodes by the programs of real ones.

    Args:
        nodes: The settings of each by its id.

    Attributes:
        fate: Says what becomes of a part, given its node and what it is asked: None to compose it, an outcome in place
            of that, or Away.
        asked: (node, weight file) of what was submitted.
    """

    cpus = 1

    def __init__(self, nodes: Mapping[str, Settings]) -> None:
        self.machines = {name: Node(settings) for name, settings in nodes.items()}
        self.places = {name: Place(f"ray:{name}", 1) for name in nodes}
        self.fate: Callable[[str, dict[str, Any]], dict[str, Any] | type[Away] | None] = lambda _node, _ask: None
        self.asked: list[tuple[str, str]] = []
        self.shared: list[dict[str, Any]] = []
        self.cancelled: set[str] = set()
        self.closed = False
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def ready(self, seconds: float) -> bool:
        return True

    def nodes(self) -> dict[str, Place]:
        return dict(self.places)

    def share(self, shared: Mapping[str, Any]) -> None:
        self.shared.append(json.loads(json.dumps(shared)))

    def submit(self, key: str, node: str, ask: Mapping[str, Any]) -> None:
        assert set(ask) == {"key", "path", "sha256"}, "the rest is the same for all parts, and sent once"
        sent = self.shared[-1] | json.loads(json.dumps(ask))
        self.asked.append((node, sent["path"]))
        fate = self.fate(node, sent)
        if fate is Away:
            raise Away("The cluster is away.")
        if fate is not None:
            self._outcomes.put(Outcome(key, fate))
            return

        def run() -> None:
            self._outcomes.put(Outcome(key, json.loads(json.dumps(self.machines[node].compose(sent)))))

        threading.Thread(target=run, daemon=True).start()

    def wait(self, seconds: float) -> list[Outcome]:
        try:
            outcome = self._outcomes.get(timeout=seconds)
        except queue.Empty:
            return []
        return [outcome] if outcome.key not in self.cancelled else []

    def cancel(self, keys: Collection[str]) -> None:
        self.cancelled |= set(keys)

    def close(self) -> None:
        self.closed = True
        for machine in self.machines.values():
            if machine.kept:
                machine.kept.kill()
