"""What limits first at the scale of a community: a model of queue, nodes and bucket, over a simulated day.

    python -m benchmarks.server.scale [--postgresql URL]

Recipes come over a day, more by day than by night, for models of which few are asked for often. A node takes the next
work, fetches from the bucket what its cache lacks, composes, and puts the result into the bucket.

What is measured, and not assumed: how long composing and hashing a byte take, and how large patches are, by
`python -m benchmarks compose` (results/compose.json); and, here and now, how long the transactions of a job take with
ten thousand jobs waiting, on SQLite and on a PostgreSQL that is given. What is assumed stands in `Assumed`.
"""

import argparse
import heapq
import itertools
import math
import random
import re
import tempfile
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import sqlalchemy

from benchmarks.results import Table, load
from registry.db import statistics
from registry.db.session import migrate, open_database
from registry.db.tables import Job, Model, Namespace
from registry.services.people.tokens import create_token
from registry.services.queue import jobs
from registry.worker.runner import HEARTBEAT_EVERY

DAY = 86_400.0
GB = 1e9
WAITING = 10_000
"""Jobs that wait while transactions are measured."""

ROUNDS = 50
STREAMS = 4
"""Weight files that are hashed at a time, and places on a node of a cluster."""


@dataclass(frozen=True)
class Assumed:
    """What nobody has measured.

    Args:
        recipes: A day's, all different.
        nodes, cores, network, cache: How many there are; of each its processors, bytes a second in each direction, and
            bytes of its disk for copies.
        models: How many there are; the one that is asked for n-th most often is asked for 1/n as often as the first.
        sizes: Shares of the models, and the bytes of their weights.
        file: Bytes of a weight file.
        patches, taken: Patches of a model, and how many of them a recipe takes.
        swing: How much more recipes come at the height of the day than on average.
        held: Whether results are kept, and not their digests alone.
    """

    recipes: int = 100_000
    nodes: int = 100
    cores: int = 16
    network: float = 1.25 * GB
    cache: float = 1000 * GB
    models: int = 10_000
    sizes: tuple[tuple[float, float], ...] = ((0.40, 0.5 * GB), (0.30, 2.5 * GB), (0.24, 15 * GB), (0.06, 140 * GB))
    file: float = 5 * GB
    patches: int = 20
    taken: int = 4
    swing: float = 0.5
    held: bool = True


@dataclass(frozen=True)
class Composing:
    """What composing takes.

    Args:
        processor: Seconds of a processor for a byte of the model, with all that is hashed.
        stream: Bytes of a file that are hashed in a second.
        patch: Bytes of a patch for a byte of the model.
    """

    processor: float
    stream: float
    patch: float


@dataclass(frozen=True)
class Way:
    """How work is given to nodes.

    Args:
        name: Of the way.
        by_file: Whether each weight file is work by itself, or the whole recipe.
        near: Whether a node prefers work whose part of the base it has.
        whole_patches: Whether a node fetches whole patches, or only their entries for the file.
        held: Whether results are kept.
    """

    name: str
    by_file: bool
    near: bool
    whole_patches: bool = True
    held: bool = True


WAYS = (
    Way("recipes, to any worker", by_file=False, near=False),
    Way("recipes, to a worker that has the base", by_file=False, near=True),
    Way("weight files, whole patches", by_file=True, near=True),
    Way("weight files, entries of patches", by_file=True, near=True, whole_patches=False),
    Way("the same, digests alone are kept", by_file=True, near=True, whole_patches=False, held=False),
)
LOOK = 50
"""Pieces of waiting work among which a node looks for one that it has the base of."""


@dataclass
class Found:
    """What a simulated day took.

    Args:
        seconds: Of each recipe, from request to result.
        running: Seconds of all recipes from the beginning of their first work to the end of their last.
        computing, fetching, sending: Seconds of all places on nodes.
        read, written: Bytes from and to the bucket.
        hits: Bytes that were in a cache.
    """

    seconds: list[float] = field(default_factory=list)
    running: float = 0.0
    computing: float = 0.0
    fetching: float = 0.0
    sending: float = 0.0
    read: float = 0.0
    written: float = 0.0
    hits: float = 0.0


@dataclass(eq=False, slots=True)
class Piece:
    """Work for a place: a whole recipe (`file` is -1), or one weight file of it; `key` names its part of the base."""

    recipe: int
    model: int
    file: int
    size: float
    patches: tuple[int, ...]
    key: tuple[int, ...]


class Caches:
    """What every node keeps: the copies that were used least recently go first."""

    def __init__(self, nodes: int, room: float) -> None:
        self.room = room
        self.kept: list[OrderedDict[tuple[int, ...], float]] = [OrderedDict() for _ in range(nodes)]
        self.used = [0.0] * nodes
        self.where: dict[tuple[int, ...], set[int]] = {}

    def fetch(self, node: int, key: tuple[int, ...], size: float) -> float:
        """Return the bytes that a node has to fetch of something, which it has afterwards."""
        kept = self.kept[node]
        if key in kept:
            kept.move_to_end(key)
            return 0.0
        kept[key] = size
        self.used[node] += size
        self.where.setdefault(key, set()).add(node)
        while self.used[node] > self.room:
            old, gone = kept.popitem(last=False)
            self.used[node] -= gone
            self.where[old].discard(node)
        return size


def measured_composing() -> Composing:
    """Return what composing takes by the last run of `python -m benchmarks compose`."""
    result = load("compose")
    assert result is not None, "run `python -m benchmarks compose` first"
    tables = {table.title: {row[0]: row[1] for row in table.rows} for table in result.tables}
    sizes, times = tables["What moves"], next(rows for title, rows in tables.items() if title.startswith("Processor"))
    model = number(sizes["base"]) * 1e6
    count = int(result.parameters["patches"])
    hashed = 3 * model  # the base, the tensors and the files
    return Composing(
        sum(map(number, times.values())) / model,
        hashed / number(times["hash"]),
        number(sizes[f"{count} patches"]) * 1e6 / count / model,
    )


def number(text: str) -> float:
    """Return the number that a cell of a table begins with."""
    return float(re.match(r"[\d.,]+", text)[0].replace(",", ""))  # type: ignore[index]


# A day


def day(assumed: Assumed, composing: Composing, way: Way, seed: int = 0) -> Found:
    """Simulate a day."""
    chance = random.Random(seed)  # noqa: S311
    slots = STREAMS if way.by_file else 1
    cores, network = assumed.cores / slots, assumed.network / slots
    files_at_once = 1 if way.by_file else STREAMS
    caches, found = Caches(assumed.nodes, assumed.cache), Found()
    shares, sizes = zip(*assumed.sizes, strict=True)
    of_model = chance.choices(sizes, shares, k=assumed.models)
    arrivals = iter(arrive(assumed, chance, of_model, way))
    free = dict.fromkeys(range(assumed.nodes), slots)
    waiting: deque[Piece] = deque()
    left, asked, began = dict[int, int](), dict[int, float](), dict[int, float]()
    events: list[tuple[float, int, int, Piece]] = []
    order = itertools.count()

    def start(now: float, node: int, piece: Piece) -> None:
        began.setdefault(piece.recipe, now)
        free[node] -= 1
        if not free[node]:
            del free[node]
        size = piece.size * composing.patch
        wanted: list[tuple[tuple[int, ...], float]] = [(piece.key, piece.size)]
        for patch in piece.patches:
            if way.by_file and way.whole_patches:
                wanted.append(((piece.model, -2, patch), of_model[piece.model] * composing.patch))
            else:
                wanted.append(((piece.model, piece.file, patch), size))
        fetched = sum(caches.fetch(node, key, length) for key, length in wanted)
        files = min(files_at_once, math.ceil(piece.size / assumed.file))
        compute = piece.size / min(cores / composing.processor, files * composing.stream)
        sent = piece.size if way.held else 0.0
        found.computing += compute
        found.fetching += fetched / network
        found.sending += sent / network
        found.read += fetched
        found.written += sent
        found.hits += sum(length for _, length in wanted) - fetched
        heapq.heappush(events, (now + compute + (fetched + sent) / network, next(order), node, piece))

    def place(now: float, piece: Piece) -> bool:
        near = (node for node in caches.where.get(piece.key, ()) if node in free) if way.near else iter(())
        node = next(near, None)
        node = next(iter(free), None) if node is None else node
        if node is None:
            return False
        start(now, node, piece)
        return True

    def take(now: float, node: int) -> None:
        pieces = itertools.islice(waiting, LOOK) if way.near else ()
        kept = caches.kept[node]
        piece = next((piece for piece in pieces if piece.key in kept), waiting[0])
        waiting.remove(piece)
        start(now, node, piece)

    coming = next(arrivals, None)
    while coming or events:
        if coming and (not events or coming[0] <= events[0][0]):
            now, pieces = coming
            left[pieces[0].recipe], asked[pieces[0].recipe] = len(pieces), now
            waiting.extend(piece for piece in pieces if waiting or not place(now, piece))
            coming = next(arrivals, None)
        else:
            now, _, node, piece = heapq.heappop(events)
            free[node] = free.get(node, 0) + 1
            left[piece.recipe] -= 1
            if not left[piece.recipe]:
                found.seconds.append(now - asked.pop(piece.recipe))
                found.running += now - began.pop(piece.recipe)
            if waiting:
                take(now, node)
    return found


def arrive(
    assumed: Assumed, chance: random.Random, of_model: list[float], way: Way
) -> Iterator[tuple[float, list[Piece]]]:
    """Yield when recipes come, and the pieces of work that they are."""
    popular = list(itertools.accumulate(1 / rank for rank in range(1, assumed.models + 1)))
    models = chance.choices(range(assumed.models), cum_weights=popular, k=assumed.recipes)
    times = list[float]()
    while len(times) < assumed.recipes:
        at = chance.random() * DAY
        if chance.random() * (1 + assumed.swing) < 1 - assumed.swing * math.cos(2 * math.pi * at / DAY):
            times.append(at)
    for recipe, (at, model) in enumerate(zip(sorted(times), models, strict=True)):
        patches, size = tuple(chance.sample(range(assumed.patches), assumed.taken)), of_model[model]
        count = math.ceil(size / assumed.file) if way.by_file else 1
        files = range(count) if way.by_file else (-1,)
        yield at, [Piece(recipe, model, file, size / count, patches, (model, file)) for file in files]


# The database


def measure_transactions(url: str) -> dict[str, float]:
    """Return the seconds of each transaction of a job while WAITING jobs wait; see `quickest`."""
    migrate(url)
    database = open_database(url)
    lease = timedelta(seconds=30)
    with database.write() as session:
        _, token = create_token(session, "alice")
        user = token.user_id
        space = session.scalars(sqlalchemy.select(Namespace).where(Namespace.name == "alice")).one()
        model = Model(id=uuid.uuid4(), namespace_id=space.id, name="m", creator_id=user, size=0)
        session.add(model)
        session.flush()
        session.refresh(model, ["namespace"])
    with database.write() as session:
        for each in range(WAITING):
            session.add(
                Job(kind="compose", key=f"k{each}", rank=1, turn=each + 1, model="alice/m", subject="s",
                    payload={"model_id": str(model.id)}, user_id=user)
            )  # fmt: skip
    statistics.refresh(database)  # as a worker's sweep does
    claims: list[jobs.Claim] = []

    def enqueue(number: int) -> None:
        with database.write() as session:
            jobs.enqueue(session, user, "compose", f"n{number}", model, "s", {})

    def claim(number: int) -> None:
        with database.write() as session:
            claims.append(jobs.claim(session, f"w{number}", lease))  # type: ignore[arg-type]

    def beat(number: int) -> None:
        with database.write() as session:
            jobs.heartbeat(session, claims[number], 0.5, lease)

    def end(number: int) -> None:
        with database.write() as session:
            jobs.end(session, claims[number], "done")

    found = {
        name: quickest(work)
        for name, work in {"enqueue": enqueue, "claim": claim, "heartbeat": beat, "end": end}.items()
    }
    database.engine.dispose()
    return found


def quickest(work: Callable[[int], None]) -> float:
    """Return the least seconds that work takes: what others do on the machine counts least."""
    taken = []
    for each in range(ROUNDS):
        began = time.perf_counter()
        work(each)
        taken.append(time.perf_counter() - began)
    return min(taken)


@contextmanager
def databases(server: str | None) -> Iterator[dict[str, str]]:
    """Yield the addresses of empty databases by kind, which are gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"SQLite": f"sqlite:///{Path(folder) / 'registry.db'}"}
        if server is None:
            yield found
            return
        url = sqlalchemy.make_url(server).set(drivername="postgresql+psycopg")
        name = f"scale_{uuid.uuid4().hex[:8]}"
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
            yield found | {"PostgreSQL": url.set(database=name).render_as_string(hide_password=False)}
        finally:
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(f"DROP DATABASE IF EXISTS {name}"))
            engine.dispose()


# What comes of it


def tables(
    assumed: Assumed, composing: Composing, days: dict[Way, Found], times: dict[str, dict[str, float]]
) -> list[Table]:
    """Return the results as tables."""
    mean = sum(share * size for share, size in assumed.sizes)
    rows = [
        [
            way.name,
            f"{quantile(found.seconds, 0.5):,.0f} s",
            f"{quantile(found.seconds, 0.99):,.0f} s",
            f"{busy(found.computing, assumed, way):.0%}",
            f"{busy(found.fetching, assumed, way):.0%}",
            f"{busy(found.sending, assumed, way):.0%}",
            f"{found.hits / (found.hits + found.read):.0%}",
            f"{found.read / DAY / GB:.1f} GB/s",
            f"{found.written / DAY / GB:.1f} GB/s",
        ]
        for way, found in days.items()
    ]
    per_day = assumed.recipes / DAY
    flows = []
    for kind, taken in times.items():
        for way, found in days.items():
            parts = found_parts(assumed, way)
            running = found.running / DAY
            beats = running / HEARTBEAT_EVERY
            load_of = (
                per_day * (taken["enqueue"] + taken["claim"] + taken["end"] * (1 + parts)) + beats * taken["heartbeat"]
            )
            flows.append(
                [
                    f"{kind}: {way.name}",
                    f"{running:.0f}",
                    f"{per_day * (3 + parts) + beats:.0f}",
                    f"{load_of:.1%}",
                    f"{assumed.recipes / load_of:,.0f}",
                ]
            )
    places = [
        [
            way.name,
            f"{busy(found.computing + found.fetching + found.sending, assumed, way):.0%}",
            f"{assumed.recipes / busy(found.computing + found.fetching + found.sending, assumed, way):,.0f}",
            f"{(found.read + found.written) / DAY / (assumed.nodes * assumed.network):.0%}",
        ]
        for way, found in days.items()
    ]
    return [
        Table(
            f"A day of {assumed.recipes:,} recipes on {assumed.nodes} nodes; a model has {mean / GB:.1f} GB on average",
            ["work is given out as", "half within", "99 % within", "composing", "fetching", "sending", "cache hits",
             "from the bucket", "to the bucket"],
            rows,
        ),
        Table(
            "What was measured",
            ["", ""],
            [
                ["composing, processor seconds for a GB", f"{composing.processor * GB:.2f}"],
                ["hashing a file, a second", f"{composing.stream / GB:.2f} GB"],
                ["a patch, of the model", f"{composing.patch:.1%}"],
                *(
                    [f"{kind}: {name}, {WAITING:,} jobs waiting", f"{seconds * 1000:.2f} ms"]
                    for kind, taken in times.items()
                    for name, seconds in taken.items()
                ),
            ],
        ),
        Table(
            "Writes to the database, one after another",
            ["", "recipes under way", "transactions a second", "of its time", "recipes a day at most"],
            flows,
        ),
        Table("Places on nodes", ["", "busy", "recipes a day at most", "both ways of the network"], places),
    ]  # fmt: skip


def found_parts(assumed: Assumed, way: Way) -> float:
    """Return how many parts of a recipe are recorded, on average."""
    counts = [(share, math.ceil(size / assumed.file)) for share, size in assumed.sizes]
    return sum(share * count for share, count in counts if way.by_file or count > STREAMS)


def busy(seconds: float, assumed: Assumed, way: Way) -> float:
    """Return the share of a day that places on nodes spend with something."""
    return seconds / (assumed.nodes * (STREAMS if way.by_file else 1) * DAY)


def quantile(values: list[float], share: float) -> float:
    """Return the value below which a share of the values is."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    """Measure, simulate, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.scale", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--postgresql", metavar="URL", help="a server on which databases may be created")
    parser.add_argument("--recipes", type=int, default=Assumed.recipes, help="of a day (100000)")
    parser.add_argument("--nodes", type=int, default=Assumed.nodes, help="of the cluster (100)")
    args = parser.parse_args()
    assumed = replace(Assumed(), recipes=args.recipes, nodes=args.nodes)
    with databases(args.postgresql) as urls:
        times = {kind: measure_transactions(url) for kind, url in urls.items()}
    composing = measured_composing()
    days = {way: day(assumed, composing, way) for way in WAYS}
    for table in tables(assumed, composing, days, times):
        print(table.text(), end="\n\n")


if __name__ == "__main__":
    main()
