"""How much disk, memory and time a registry takes for models of some sizes: one server with its worker, one user.

For each size a model is made, its patches are pushed, all of them are composed into one model, and that is pulled. Disk
is what the blobs have grown by. Memory is the most that processes were seen to hold, looked at twenty times a second,
shared pages counted in part (PSS): of the server with its worker, and of all processes of jobs beside it. Time is what
the person waits, on loopback, with whatever else runs on the machine.
"""

import argparse
import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.machine import Others, filesystem_of
from benchmarks.results import Result, Table, megabytes, seconds
from benchmarks.science.cases import Case, Files, add_case, case_of, workplace
from benchmarks.server.latency import running
from client.actions.jobs import wait
from client.actions.models import create
from client.actions.pulling.pull import pull
from client.actions.push import push
from client.api.client import Client
from registry.sandboxes.processes import children

NAME = "alice/llama"
SMALL = "20M"  # weights of the other model
LOOKS = 0.05  # seconds between two looks at memory


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_case(parser, params="80M", patches=4, rounds=1)


@dataclass
class Memory:
    """The most bytes seen: of the server, and of the processes below it together."""

    pid: int
    server: int = 0
    jobs: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look again and again until it is stopped."""
        while not self.stopping.wait(LOOKS):
            self.server = max(self.server, held(self.pid))
            self.jobs = max(self.jobs, sum(map(held, below(self.pid))))


def run(args: argparse.Namespace) -> Result:
    """Measure one size after another, each in a registry of its own."""
    case = case_of(args)
    cases = [replace(case, params=SMALL), case]
    others, rows, series = Others(), [], {}
    with workplace(args, 8 * max(one.weight_bytes for one in cases)) as files:
        for one in cases:
            found = measure(one, files)
            rows.append(shown(one, found))
            series[one.params] = [found]
        place = filesystem_of(files.work)
    columns = ["base", "a patch", "disk: base", "patches", "composed", "database", "memory: server", "jobs"]
    columns += ["time: create", "a push", "compose", "pull"]
    title = f"{case.patches} patches for each model; others took {others.share():.0%} of the processors meanwhile"
    parameters = {**case.document(), "smaller": SMALL, "data on": place}
    return Result("capacity", parameters, [Table(title, columns, rows)], [], series)


def measure(case: Case, files: Files) -> dict[str, float]:
    """Return bytes and seconds of a registry with one model."""
    base, patches = files.base(case), files.patches(case)
    found: dict[str, float] = {"patch": sum(patch.size for patch in patches) / len(patches)}
    with tempfile.TemporaryDirectory(dir=files.work) as folder:
        data = Path(folder) / "data"
        with running(data, []) as (client, pid), watching(pid) as memory:
            found["create"], found["base on disk"] = grown(data, lambda: create(client, NAME, base))
            took, found["patches on disk"] = grown(
                data, lambda: [push(client, patch.path, NAME, patch.path.name) for patch in patches]
            )
            found["push"] = took / len(patches)
            found["compose"], found["composed on disk"] = grown(data, lambda: compose(client, case.patches, case.alpha))
            recipe = client.compose(NAME, chosen(case.patches), alpha=case.alpha).recipe.digest
            began = time.perf_counter()
            pull(client, NAME, recipe, Path(folder) / "pulled", as_patches=False)
            found["pull"] = time.perf_counter() - began
            found["database"] = sum(file.stat().st_size for file in data.glob("registry.db*"))
        found["server"], found["jobs"] = memory.server, memory.jobs
    return found


def chosen(patches: int) -> list[tuple[int, str]]:
    """Return all patches, with weight 1."""
    return [(number, "1") for number in range(1, patches + 1)]


def compose(client: Client, patches: int, alpha: str) -> None:
    """Compose all patches, and wait until that is done."""
    job = client.compose(NAME, chosen(patches), alpha=alpha).job
    assert job is not None
    wait(client, job)


def grown(data: Path, work: Callable[[], object]) -> tuple[float, float]:
    """Do some work; return its seconds, and by how many bytes the blobs have grown."""
    before, began = stored(data), time.perf_counter()
    work()
    return time.perf_counter() - began, stored(data) - before


def stored(data: Path) -> int:
    """Return the bytes of all blobs, as the file system has them."""
    return sum(512 * file.stat().st_blocks for file in (data / "blobs").rglob("*") if file.is_file())


@contextlib.contextmanager
def watching(pid: int) -> Iterator[Memory]:
    """Look at the memory of a process and of those below it."""
    memory = Memory(pid)
    thread = threading.Thread(target=memory.watch)
    thread.start()
    try:
        yield memory
    finally:
        memory.stopping.set()
        thread.join()


def held(pid: int) -> int:
    """Return the bytes of a process's memory, shared pages counted in part; 0 if it is gone."""
    with contextlib.suppress(OSError, StopIteration):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return 1024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return 0


def below(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    own = children(pid)
    return [*own, *(one for child in own for one in below(child))]


def shown(case: Case, found: dict[str, float]) -> list[str]:
    """Return a row of the table."""
    sizes = ("base on disk", "patches on disk", "composed on disk", "database", "server", "jobs")
    return [
        megabytes(case.weight_bytes),
        megabytes(found["patch"]),
        *(megabytes(found[name]) for name in sizes),
        *(seconds(found[name]) for name in ("create", "push", "compose", "pull")),
    ]
