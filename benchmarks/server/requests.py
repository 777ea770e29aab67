"""Requests a second, and the processor that a download costs: the registry beside a bare uvicorn.

Each server is one process, and is asked in turn, on as many connections, by one process that does nothing else. The
bare server answers with a line. It runs twice: as uvicorn comes (h11 and asyncio), and on httptools and uvloop, as the
registry does. What is read of the registry is a model with a published release, by somebody without a token.
"""

import argparse
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import MEMORY_DISK
from benchmarks.results import Bar, Result, Table
from registry.db import tables
from registry.db.session import migrate, open_database
from registry.documents.commits import commit_id
from registry.documents.versions import parse_version
from registry.services.people.tokens import create_token
from registry.settings import Settings
from registry.storage.store import Store

NAME = "alice/llama"
READS = {
    "GET of a model": ("GET", f"/api/v1/models/{NAME}"),
    "GET of a Hub tree": ("GET", f"/api/models/{NAME}/tree/main"),
    "HEAD of a file": ("HEAD", f"/{NAME}/resolve/main/config.json"),
}
FILE = f"/{NAME}/resolve/main/model.safetensors"
REGISTRY, PLAIN, FAST = "registry", "uvicorn, h11 and asyncio", "uvicorn, httptools and uvloop"
LOAD = Path(__file__).with_name("load.py")
MANY = "1000000000/minute"  # limits are counted, and never reached
PART = 1 / 6  # of the requests a second of a bare uvicorn
TICKS = os.sysconf("SC_CLK_TCK")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 10, 100], metavar="N", help="(1 10 100)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round (3)")
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument("--megabytes", type=int, default=256, help="size of the file that is downloaded (256)")


@dataclass(frozen=True)
class Round:
    """What one round of requests took."""

    answers: int
    seconds: float
    processor: float
    size: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds

    @property
    def each(self) -> float:
        """Milliseconds of the server's processor for an answer."""
        return 1000 * self.processor / max(self.answers, 1)


@dataclass(frozen=True)
class Served:
    """A server."""

    url: str
    process: subprocess.Popen[str]

    def processor(self) -> float:
        """Return the processor seconds of the server so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def ask(self, method: str, path: str, connections: int, seconds: float) -> Round:
        """Ask for one thing."""
        command = [sys.executable, "-I", "-S", LOAD, self.url + path, method, connections, seconds]
        before = self.processor()
        answer = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout
        found = json.loads(answer)
        assert not found["others"], f"{found['others']} answers to {method} {path} were not 200"
        return Round(found["answers"], found["seconds"], self.processor() - before, found["bytes"])


def run(args: argparse.Namespace) -> Result:
    """Measure requests, then downloads."""
    with contextlib.ExitStack() as stack:
        place = MEMORY_DISK if MEMORY_DISK.is_dir() else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
        file = fill(folder, args.megabytes * 2**20)
        servers = {
            PLAIN: stack.enter_context(bare(file, "--http", "h11", "--loop", "asyncio")),
            FAST: stack.enter_context(bare(file, "--http", "httptools", "--loop", "uvloop")),
            REGISTRY: stack.enter_context(registry(folder)),
        }
        asked = {f"{PLAIN}": (PLAIN, "GET", "/"), f"{FAST}": (FAST, "GET", "/")}
        asked |= {text: (REGISTRY, *read) for text, read in READS.items()}
        found = {
            count: turns(servers, asked, count, args.seconds, args.rounds) for count in sorted(set(args.connections))
        }
        files = {"FileResponse, " + PLAIN: (PLAIN, "GET", "/file"), "FileResponse, " + FAST: (FAST, "GET", "/file")}
        sent = turns(servers, {**files, REGISTRY: (REGISTRY, "GET", FILE)}, 1, args.seconds, args.rounds)
    tables_ = [request_table(count, rounds) for count, rounds in found.items()] + [download_table(sent)]
    judged = found.get(10) or next(iter(found.values()))
    bars = [
        Bar(f"{text}: requests a second / those of {PLAIN}", rate(judged[text]) / rate(judged[PLAIN]), PART, least=True)
        for text in READS
    ]
    series = {
        str(count): {text: [asdict(one) for one in rounds] for text, rounds in each.items()}
        for count, each in {**found, "downloads": sent}.items()
    }
    parameters = {"connections": args.connections, "seconds": args.seconds, "rounds": args.rounds}
    return Result("requests", {**parameters, "file, MB": args.megabytes}, tables_, bars, series)


def turns(
    servers: Mapping[str, Served], asked: Mapping[str, tuple[str, str, str]], count: int, seconds: float, rounds: int
) -> dict[str, list[Round]]:
    """Ask each server in turn, after a short round to warm up."""
    found: dict[str, list[Round]] = {text: [] for text in asked}
    for turn in range(rounds + 1):
        for text, (server, method, path) in asked.items():
            one = servers[server].ask(method, path, count, seconds if turn else min(seconds, 1.0))
            found[text] += [one] if turn else []
    return found


def rate(rounds: list[Round]) -> float:
    """Return the median of the answers a second."""
    return statistics.median(one.rate for one in rounds)


def request_table(count: int, found: Mapping[str, list[Round]]) -> Table:
    """Return what requests took on some connections."""
    rows = []
    for text, rounds in found.items():
        each = statistics.median(one.each for one in rounds)
        ratios = [f"1/{rate(found[bare]) / rate(rounds):.1f}" for bare in (PLAIN, FAST)]
        rows.append([text, f"{rate(rounds):,.0f}", *ratios, f"{each:.2f} ms"])
    title = f"On {count} connection{'s' * (count > 1)}"
    return Table(title, ["", "requests a second", "of h11", "of httptools", "processor for one"], rows)


def download_table(found: Mapping[str, list[Round]]) -> Table:
    """Return what downloads took."""
    rows = []
    for text, rounds in found.items():
        speed = statistics.median(one.size / 1e9 / one.seconds for one in rounds)
        cost = statistics.median(one.processor / (one.size / 1e9) for one in rounds)
        rows.append([text, f"{speed:.2f} GB", f"{cost:.2f} s"])
    return Table("Downloads, one at a time", ["", "in a second", "processor for a GB"], rows)


@contextlib.contextmanager
def running(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a server until it is no longer needed."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def bare(file: Path, *options: str) -> Iterator[Served]:
    """Run a bare uvicorn."""
    script = "import sys, uvicorn; from benchmarks.server.hello import app; uvicorn.main(sys.argv[1:])"
    port = free_port()
    words = ["benchmarks.server.hello:app", "--port", str(port), "--no-access-log", "--lifespan", "off", *options]
    with running([sys.executable, "-c", script, *words], {"HELLO_FILE": str(file)}) as process:
        served = Served(f"http://127.0.0.1:{port}", process)
        wait_for(served)
        yield served


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[Served]:
    """Run a registry without a worker."""
    script = "from registry.cli import app; app()"
    words = ["serve", "--no-worker", "--port", "0", "--data", str(folder)]
    environment = {"REGISTRY_RATE_ADDRESS": MANY, "REGISTRY_RATE_TOKEN": MANY}
    with running([sys.executable, "-c", script, *words], environment) as process:
        assert process.stdout is not None
        yield Served(process.stdout.readline().split()[-1], process)


def free_port() -> int:
    """Return a port that is free now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(served: Served) -> None:
    """Wait until a server answers."""
    for _ in range(200):
        with contextlib.suppress(subprocess.CalledProcessError):
            served.ask("GET", "/", 1, 0.01)
            return
        time.sleep(0.05)
    raise SystemExit(f"{served.url} does not answer.")


def fill(folder: Path, size: int) -> Path:
    """Make a registry with a model and a published release; return its large file."""
    settings = Settings(data=folder)
    migrate(settings.database)
    store, database = Store(folder, settings.reserve_bytes), open_database(settings.database)
    store.prepare()
    block = secrets.token_bytes(2**20)
    contents = {
        "README.md": [b"# A card\n"],
        "config.json": [b'{"model_type": "llama"}'],
        "model.safetensors": [block] * (size // len(block)),
        "tokenizer.json": [b"{}"],
    }
    files = {path: store.put(chunks) for path, chunks in contents.items()}
    with database.write() as session:
        create_token(session, "alice")
        alice = session.query(tables.User).filter_by(name="alice").one()
        space = session.query(tables.Namespace).filter_by(name="alice").one()
        session.add_all(tables.Blob(sha256=sha256, size=length) for sha256, length in files.values())
        base, commit = f"sha256:{'b' * 64}", commit_id({path: sha256 for path, (sha256, _) in files.items()})
        model = tables.Model(
            namespace_id=space.id,
            name=NAME.partition("/")[2],
            creator_id=alice.id,
            license="apache-2.0",
            state="ready",
            base_digest=base,
            base_commit=commit,
            parameters=size // 2,
            size=size,
            card="# A card\n",
        )
        session.add(model)
        session.add(recipe := tables.Recipe(digest="a" * 64, base_digest=base, alpha="0.3", items=[]))
        session.flush()
        session.add_all(
            tables.BaseFile(model_id=model.id, path=path, sha256=sha256) for path, (sha256, _) in files.items()
        )
        session.add(
            tables.Composition(
                model_id=model.id,
                recipe_digest=recipe.digest,
                weights_digest=base,
                commit=commit,
                device="cpu",
                seconds=1.0,
                files=[tables.CompositionFile(path=path, sha256=files[path][0]) for path in files],
            )
        )
        session.add(
            tables.Release(
                model_id=model.id,
                version="1.0.0",
                sort=parse_version("1.0.0").sort_key,
                state="published",
                recipe_digest=recipe.digest,
                changelog="",
                creator_id=alice.id,
                publisher_id=alice.id,
                commit=commit,
                published_at=tables.now(),
                files=[tables.ReleaseFile(path=path, sha256=files[path][0]) for path in files],
            )
        )
    database.engine.dispose()
    return store.path(files["model.safetensors"][0])
