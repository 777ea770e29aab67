"""Metrics of a server: what its processes count together, and what each of them takes from the machine."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector


class Metrics:
    """The counters of one server, whose processes each write a file of their own.

    Args:
        folder: The folder of those files; None for a server of one process, which needs none.
        process: The name of this process. One that replaces another counts on from where that ended.
    """

    def __init__(self, folder: Path | None = None, process: str = "0") -> None:
        self.registry, self.folder, self.process = CollectorRegistry(), folder, process
        if folder is not None:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # the library's only way to be told
            values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]
            (folder / f"{process}.pid").write_text(str(os.getpid()))
        labels = ("method", "route", "status")
        self.requests = Counter("registry_requests", "Requests answered", labels, registry=self.registry)
        self.seconds = Histogram("registry_request_seconds", "Time to answer", ("route",), registry=self.registry)
        self.received = Counter("registry_received_bytes", "Bytes of request bodies", registry=self.registry)
        self.sent = Counter("registry_sent_bytes", "Bytes of answers", registry=self.registry)
        said = "Weight files of compositions that were read, from the disk or composed"
        self.reads = Counter("registry_composition_reads", said, ("source",), registry=self.registry)
        self.composed = Counter("registry_composed_bytes", "Bytes composed for readers", registry=self.registry)
        said = "Files that were composed for readers to other bytes than before, and not sent whole"
        self.mismatches = Counter("registry_composed_mismatches", said, registry=self.registry)

    def render(self, others: Iterable[Metric] = ()) -> bytes:
        """Return the sums over all processes, what each takes, and other metrics in Prometheus' text format."""
        whole = self.registry
        if self.folder is not None:
            whole = CollectorRegistry()
            MultiProcessCollector(whole, str(self.folder))  # type: ignore[no-untyped-call]
        rest = CollectorRegistry()
        rest.register(Given([*of_processes(self.pids()), *others]))
        return generate_latest(whole) + generate_latest(rest)

    def pids(self) -> dict[str, int]:
        """Return the ids of the server's processes by their names; a worker beside them counts, too."""
        if self.folder is None:
            return {self.process: os.getpid()}
        written = {file.stem: file.read_text() for file in sorted(self.folder.glob("*.pid"))}
        return {name: int(pid) for name, pid in written.items() if pid}  # nothing while one begins


class Given(Collector):
    """Metrics that are known already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self.metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Return them."""
        return iter(self.metrics)


def of_processes(pids: dict[str, int]) -> list[Metric]:
    """Return memory, processor time and files of processes, by the label `process`; those that have ended have none."""
    families: dict[str, Metric] = {}
    for name, pid in pids.items():
        for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
            family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                family.add_sample(sample.name, {"process": name}, sample.value)
    return list(families.values())
