"""Reads of a large registry against one a hundred times smaller: time and statements of each route and page.

Both are filled in one run, on SQLite and, with `--postgresql URL` of a server where databases may be created, there.
A read is asked of the two in turn, in this process, from its address to the last byte, by alice, who owns the large
model and runs the server, and so is shown the most.

    time        the shortest of the rounds, since whatever else runs only adds to it; a read over the bar is asked
                again, both databases as often
    ratio       time on the large database / time on the small one
    same shown  whether both answers are about as long; where the small one has fewer rows than fit on a page, the large
                answer is longer, and its bar is on time per byte
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy
import structlog
from sqlalchemy import event
from starlette.testclient import TestClient

from benchmarks.machine import MEMORY_DISK
from benchmarks.results import Bar, Result, Table, times
from benchmarks.server.community.fill import Secrets, fill
from benchmarks.server.community.sizes import NAME, Sizes, digest, person
from benchmarks.server.pages import short
from registry.db import statistics as statistics_of_tables
from registry.db.session import Database, migrate, open_database
from registry.server.app import close_app, create_app
from registry.server.pages.frame.cookies import COOKIE
from registry.services.hub import downloads
from registry.settings import Settings

SIZES = Sizes(models=2000, patches=200_000, large=50_000, events=1_000_000, tensors=1_000_000)
FACTOR = 100
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
SLOWER, STATEMENTS = 3.0, 30  # at most
MORE = 4  # times that a read over the bar is asked all rounds again
SAME = 1.25  # times as long is about as long
MODEL, HOME = f"/api/v1/models/{NAME}", f"/{NAME}"
HUB = f"/api/models/{NAME}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--scale", type=float, default=1.0, help="0.1 for a tenth of the rows and of the time (1)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each read is asked for (5)")
    parser.add_argument(
        "--postgresql",
        metavar="URL",
        default=os.environ.get("TEST_DATABASE_URL"),
        help="a server where databases may be created (TEST_DATABASE_URL)",
    )
    parser.add_argument(
        "--databases",
        type=Path,
        metavar="DIR",
        help="where SQLite files are, filled ones included; else a temporary folder",
    )


@dataclass(frozen=True)
class Read:
    """An address, and whether a browser asks for it."""

    path: str
    page: bool = False


@dataclass
class Taken:
    """Milliseconds of each round, statements, and the bytes of the answer."""

    milliseconds: list[float] = field(default_factory=list)
    statements: int = 0
    size: int = 0

    @property
    def best(self) -> float:
        """The shortest of the rounds."""
        return min(self.milliseconds)


@dataclass(frozen=True)
class Pair:
    """A read on the small and on the large database."""

    small: Taken
    large: Taken

    @property
    def ratio(self) -> float:
        """How many times as long it takes on the large one."""
        return self.large.best / self.small.best

    @property
    def longer(self) -> float:
        """How many times as long the large one's answer is."""
        return self.large.size / self.small.size

    @property
    def same(self) -> bool:
        """Whether both show about as much."""
        return self.longer <= SAME


def reads(sizes: Sizes) -> list[Read]:
    """Return every read that shows something that grows."""
    middle, large = sizes.events // 2, sizes.large
    api = [
        "/api/v1/models?limit=50",
        f"/api/v1/models?limit=50&after={person(sizes.models // 2)}/zz",
        "/api/v1/models?limit=50&search=llama",
        "/api/v1/models?limit=50&search=zzzzq",
        f"/api/v1/models?author={person(3)}",
        "/api/v1/models?limit=50&sort=downloads",
        "/api/v1/models?limit=50&sort=downloads&tag=lang3",
        "/api/v1/models?limit=50&sort=created&parameters_min=1000000000000",
        "/api/v1/releases?limit=50",
        "/api/v1/patches?limit=50",
        MODEL,
        f"{MODEL}/architecture",
        f"{MODEL}/patches?limit=100",
        f"{MODEL}/patches?limit=100&before={large // 2}",
        f"{MODEL}/patches?limit=100&state=accepted",
        f"{MODEL}/patches?limit=100&state=changes_requested",
        f"{MODEL}/patches?limit=100&author={person(7)}",
        f"{MODEL}/patches?limit=100&author=bob",
        f"{MODEL}/patches?limit=100&task=t/3",
        f"{MODEL}/patches?limit=100&task=zzz",
        f"{MODEL}/patches?limit=100&density_min=0.9",
        f"{MODEL}/patches?limit=100&tensor=layers.3",
        f"{MODEL}/patches?limit=100&tensor=zzz",
        f"{MODEL}/patches/7",
        f"{MODEL}/patches/7/tensors",
        f"{MODEL}/patches/7/conflicts",
        f"{MODEL}/patches/50/discussion",
        f"{MODEL}/conflicts?patch=1&patch=2&patch=3",
        f"{MODEL}/evaluations",
        f"{MODEL}/inbox",
        f"{MODEL}/releases",
        f"{MODEL}/releases/1.7.0",
        f"{MODEL}/channels",
        f"{MODEL}/revisions/main",
        f"/api/v1/changes?since={middle}",
        f"{MODEL}/audit",
        f"{MODEL}/audit?user=zzz",
        "/api/v1/audit",
        "/api/v1/audit?action=patch.push",
        "/api/v1/audit?action=zzz.yyy",
        "/api/v1/audit?action=patch.*",
        "/api/v1/audit?action=zzz.*",
        f"/api/v1/audit?user={person(17)}",
        "/api/v1/audit?user=zzz",
        "/api/v1/admin/summary",
        "/api/v1/admin/jobs",
        "/api/v1/admin/jobs?state=failed",
        "/api/v1/admin/jobs?kind=rebuild",
        "/api/v1/admin/namespaces",
        "/api/v1/admin/namespaces?search=person-00001",
        "/api/v1/admin/quarantine",
        f"/api/v1/namespaces/{person(7)}",
        "/api/models?limit=50",
        "/api/models?limit=50&sort=downloads",
        "/api/models?limit=50&search=llama",
        "/api/models?limit=50&filter=lang3",
        "/api/models?limit=50&full=true",
        HUB,
        f"{HUB}/tree/main?expand=true",
        f"{HUB}/refs",
        f"{HUB}/refs?include_prs=1",
        f"{HUB}/commits/main",
        "/metrics",
    ]
    pages = [
        "/",
        "/models?q=llama",
        "/models?q=zzzzq",
        "/models?task=text-generation&size=1g",
        "/models?size=more",
        "/releases",
        "/patches",
        HOME,
        f"{HOME}/files",
        f"{HOME}/patches",
        f"{HOME}/patches/50",
        f"{HOME}/patches/1/compare/2",
        f"{HOME}/conflicts?patch=1&patch=2&patch=3",
        f"{HOME}/inbox",
        f"{HOME}/recipes/new",
        f"{HOME}/recipes/new?q=zzzzq",
        f"{HOME}/recipes/new?from=1.7.0",
        f"{HOME}/recipes/{digest('recipe', 0, 7)}",
        f"{HOME}/releases",
        f"{HOME}/releases/1.7.0",
        f"{HOME}/releases/compare?before=1.0.0&after=1.7.0",
        f"{HOME}/channels/stable",
        f"{HOME}/settings",
        f"{HOME}/audit",
        f"/{person(7)}",
        "/admin",
        "/admin/quarantine",
        "/admin/namespaces",
        "/admin/jobs",
        "/admin/audit",
    ]
    return [*map(Read, api), *(Read(path, page=True) for path in pages)]


class Registry:
    """A registry in this process that counts its statements."""

    def __init__(self, folder: Path, url: str, secrets: Secrets) -> None:
        settings = Settings(data=folder, database_url=url, rate_address="", rate_token="")
        self.app = create_app(settings)
        self.statements: list[str] = []
        event.listen(self.app.state.context.database.engine, "before_cursor_execute", self.note)
        headers = {"Authorization": f"Bearer {secrets.alice}"}
        self.api = TestClient(self.app, headers=headers, follow_redirects=False)
        self.browser = TestClient(self.app, cookies={COOKIE: secrets.cookie}, follow_redirects=False)

    def note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        """Write a statement down."""
        if not statement.startswith("BEGIN"):
            self.statements.append(statement)

    def ask(self, read: Read, taken: Taken) -> None:
        """Ask for something, and write down what it took."""
        self.statements.clear()
        started = time.perf_counter()
        answer = (self.browser if read.page else self.api).get(read.path)
        taken.milliseconds.append(1000 * (time.perf_counter() - started))
        assert answer.status_code == 200, (read.path, answer.status_code, answer.text[:500])
        taken.statements, taken.size = len(self.statements), len(answer.content)


@contextlib.contextmanager
def opened(folder: Path, url: str, sizes: Sizes) -> Iterator[Registry]:
    """Open the registry of some sizes whose files are in a folder, and fill it if it is new."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "secrets.json"
    migrate(url)
    database = open_database(url)
    if not kept.exists():
        started = time.monotonic()
        kept.write_text(json.dumps(asdict(fill(database, sizes))))
        print(f"Filled {sizes.patches:,} patches in {time.monotonic() - started:.0f} s.", file=sys.stderr, flush=True)
    tidy(database)
    database.engine.dispose()
    registry = Registry(folder, url, Secrets(**json.loads(kept.read_text())))
    try:
        with registry.api, registry.browser:
            yield registry
    finally:
        close_app(registry.app)


def tidy(database: Database) -> None:
    """Do what a worker's sweep does for the reads."""
    downloads.renew(database)
    statistics_of_tables.refresh(database)


def run(args: argparse.Namespace) -> Result:
    """Measure every read, on one database after the other."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    large = SIZES.smaller(1 / args.scale)
    kinds = {"sqlite": None} | ({"postgresql": args.postgresql} if args.postgresql else {})
    tables, bars, series = [], [], {}
    for kind, server in kinds.items():
        found = measure(args, kind, server, (large.smaller(FACTOR), large))
        tables.append(table_of(kind, found))
        bars += bars_of(kind, found, judged=args.scale == 1)
        series[kind] = {path: [asdict(pair.small), asdict(pair.large)] for path, pair in found.items()}
    parameters = {**asdict(large), "times smaller": FACTOR, "rounds": args.rounds}
    return Result("database", parameters, tables, bars, series)


def measure(args: argparse.Namespace, kind: str, server: str | None, sizes: Sequence[Sizes]) -> dict[str, Pair]:
    """Fill a small and a large database of one kind, and ask both for everything, in turn."""
    found: dict[str, Pair] = {}
    place = MEMORY_DISK if MEMORY_DISK.is_dir() else None
    with contextlib.ExitStack() as stack:
        folder = args.databases or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
        registries = []
        for name, size in zip(("small", "large"), sizes, strict=True):
            home = folder / f"{kind}-{name}-{args.scale:g}"
            url = (
                f"sqlite:///{home}/registry.db"
                if server is None
                else stack.enter_context(lent(server, home, keep=bool(args.databases)))
            )
            registries.append(stack.enter_context(opened(home, url, size)))
        for both in zip(*map(reads, sizes), strict=True):
            pair = Pair(Taken(), Taken())
            for turn in range(1 + MORE):
                if turn and pair.ratio <= SLOWER:
                    break
                for _ in range(args.rounds):
                    for registry, read, one in zip(registries, both, (pair.small, pair.large), strict=True):
                        registry.ask(read, one)
            found[both[1].path] = pair
    return found


def table_of(kind: str, found: Mapping[str, Pair]) -> Table:
    """Return what was found on one database, the worst ratio first."""
    rows = [
        [
            f"`{short(path)}`",
            f"{pair.small.best:.1f} ms",
            f"{pair.large.best:.1f} ms",
            times(pair.ratio),
            str(pair.large.statements),
            f"{pair.small.size / 1000:,.0f} kB",
            f"{pair.large.size / 1000:,.0f} kB",
            "yes" if pair.same else "no",
        ]
        for path, pair in sorted(found.items(), key=lambda one: -one[1].ratio)
    ]
    columns = ["read", "small", "large", "ratio", "statements", "small answer", "large answer", "same shown"]
    return Table(f"On {NAMES[kind]}", columns, rows)


def bars_of(kind: str, found: Mapping[str, Pair], *, judged: bool) -> list[Bar]:
    """Return what is asked of the slowest reads and of the one with the most statements."""
    name, than = NAMES[kind], f"that on a database {FACTOR} times smaller"
    same = max(pair.ratio for pair in found.values() if pair.same)
    longer = max((pair.ratio / pair.longer for pair in found.values() if not pair.same), default=0.0)
    most = max(pair.large.statements for pair in found.values())
    return [
        Bar(f"{name}: time of a read / {than}, where both show the same", same, SLOWER, judged=judged),
        Bar(f"{name}: time per byte shown / {than}, where the large one shows more", longer, SLOWER, judged=judged),
        Bar(f"{name}: statements of a read", most, STATEMENTS),
    ]


@contextlib.contextmanager
def lent(server: str, home: Path, *, keep: bool) -> Iterator[str]:
    """Lend a database of a server: the one that a folder names, or a new one, which is dropped unless it is kept."""
    home.mkdir(parents=True, exist_ok=True)
    named = home / "database"
    url = sqlalchemy.make_url(server).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        if not named.exists():
            named.write_text(f"benchmark_{uuid.uuid4().hex}")
            connection.exec_driver_sql(f"CREATE DATABASE {named.read_text()}")
    try:
        yield url.set(database=named.read_text()).render_as_string(hide_password=False)
    finally:
        if not keep:
            with engine.connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {named.read_text()} WITH (FORCE)")
