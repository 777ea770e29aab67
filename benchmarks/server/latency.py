"""How long somebody waits for a composition: from asking an idle registry for it until being told that it is done.

The client's own functions ask for one recipe after another that was never composed, each registry in turn.

    one process    `crumb-server serve`: the worker is a thread of the server
    several        `crumb-server serve --processes 2`: the worker is a process beside those of the server
    the first      the first recipe after a start of one process, whose worker is starting, too

Of this the job is in the queue or with the worker, and the engine reads, composes, writes and hashes.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import filesystem_of
from benchmarks.results import Bar, Result, Table, megabytes, seconds
from benchmarks.science.cases import Case, PatchFile, add_case, case_of, workplace
from client.actions.jobs import wait
from client.actions.models import create
from client.actions.push import push
from client.api.client import Client
from registry.files.threads import processors

NAME = "alice/llama"
SERVER = [sys.executable, "-c", "from registry.cli import main; main()"]
ONE, SEVERAL, FIRST = "one process", "several", "the first"
OPTIONS: Mapping[str, Sequence[str]] = {ONE: [], SEVERAL: ["--processes", "2"]}
STARTS = 3
MOST = 1.0  # seconds


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_case(parser, params="20M", rounds=9)


@dataclass(frozen=True)
class Wait:
    """Seconds until somebody is told of a composition, from request to end of its job, and in the engine."""

    told: float
    job: float
    engine: float


def run(args: argparse.Namespace) -> Result:
    """Measure waits."""
    case = case_of(args)
    with workplace(args, 8 * case.weight_bytes) as files, tempfile.TemporaryDirectory(dir=files.work) as folder:
        base, patches = files.base(case), files.patches(case)
        places = {name: Path(folder) / name.replace(" ", "-") for name in OPTIONS}
        found: dict[str, list[Wait]] = {name: [] for name in (*OPTIONS, FIRST)}
        with contextlib.ExitStack() as stack:
            clients = {name: stack.enter_context(serving(places[name], OPTIONS[name])) for name in OPTIONS}
            for client in clients.values():
                fill(client, base, patches)
            for number in range(args.rounds + 1):
                for name, client in clients.items():
                    waited = ask(client, case.patches, f"0.3{number:03d}")
                    found[name] += [waited] if number else []  # the first is measured below
        for number in range(STARTS):
            with serving(places[ONE], OPTIONS[ONE]) as client:
                found[FIRST].append(ask(client, case.patches, f"0.4{number:03d}"))
        parameters = {**case.document(), "rounds": args.rounds, "starts": STARTS, "data on": filesystem_of(base)}
        size = sum(patch.size for patch in patches)
    rows = [
        [name, *(seconds(median(waits, part)) for part in ("told", "job", "engine")), spread(waits)]
        for name, waits in found.items()
    ]
    table = Table(
        f"A model of {megabytes(case.weight_bytes)}, {case.patches} patches of {megabytes(size)}",
        ["", "until told", "its job", "its engine", "min..max until told"],
        rows,
    )
    judged = case == Case(params="20M") and processors() == 2
    bars = [Bar(f"until told, {name}, s", median(found[name], "told"), MOST, judged=judged) for name in OPTIONS]
    series = {name: [asdict(waited) for waited in waits] for name, waits in found.items()}
    return Result("latency", parameters, [table], bars, series)


def median(waits: Sequence[Wait], part: str) -> float:
    """Return the median of a part of waits."""
    return statistics.median(getattr(waited, part) for waited in waits)


def spread(waits: Sequence[Wait]) -> str:
    """Return the shortest and the longest wait, written out."""
    return f"{min(waited.told for waited in waits):.3f}..{max(waited.told for waited in waits):.3f} s"


def fill(client: Client, base: Path, patches: Sequence[PatchFile]) -> None:
    """Make the model, and push its patches."""
    create(client, NAME, base)
    for number, patch in enumerate(patches):
        push(client, patch.path, NAME, f"Patch {number}")


def ask(client: Client, patches: int, alpha: str) -> Wait:
    """Ask for a recipe that was never composed, and wait for it."""
    items = [(number, "1") for number in range(1, patches + 1)]
    began = time.perf_counter()
    job = client.compose(NAME, items, alpha=alpha).job
    assert job is not None, "the recipe was composed before"
    job = wait(client, job)
    told = time.perf_counter() - began
    composed = client.compose(NAME, items, alpha=alpha)
    assert job.finished_at is not None and composed.seconds is not None
    return Wait(told, (job.finished_at - job.created_at).total_seconds(), composed.seconds)


@contextlib.contextmanager
def serving(folder: Path, options: Sequence[str], settings: Mapping[str, str] | None = None) -> Iterator[Client]:
    """Run a registry in its own processes, with no settings but these; yield a client of one of its users."""
    with running(folder, options, settings) as (client, _):
        yield client


@contextlib.contextmanager
def running(
    folder: Path, options: Sequence[str], settings: Mapping[str, str] | None = None
) -> Iterator[tuple[Client, int]]:
    """Run a registry as `serving` does; yield the id of its first process, too."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "DATABASE_"))}
    environment = kept | dict(settings or {})
    where = ["--data", str(folder)]
    process = subprocess.Popen(
        [*SERVER, "serve", *where, "--port", "0", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        token = subprocess.run(
            [*SERVER, "token", "create", "alice", *where], env=environment, capture_output=True, check=True, text=True
        ).stdout.strip()
        with Client(url, token) as client:
            yield client, process.pid
    finally:
        process.terminate()
        process.wait()
