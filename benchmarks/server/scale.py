"""What limits first at the scale of a community: a model of queue, nodes and bucket, over a simulated day.

    python -m benchmarks.server.scale [--postgresql URL]

Recipes come over a day, more by day than by night, for models of which few are asked for often. A node takes the next
work, fetches from the bucket what its cache lacks, composes, and puts the result into the bucket.

What is measured, and not assumed: how long composing and hashing a byte take, and how large patches are, by
`python -m benchmarks compose` (results/compose.json); and, here and now, how long the transactions of a job take with
ten thousand jobs waiting, on SQLite and on a PostgreSQL that is given. What is assumed stands in `Assumed`.
"""

import argparse
import math
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import sqlalchemy

from benchmarks.results import Table, load
from benchmarks.server.simulated_day import DAY, GB, STREAMS, WAYS, Assumed, Composing, Found, Way, day
from registry.db import statistics
from registry.db.session import migrate, open_database
from registry.db.tables import Job, Model, Namespace
from registry.services.people.tokens import create_token
from registry.services.queue import jobs
from registry.worker.runner import HEARTBEAT_EVERY

WAITING = 10_000
"""Jobs that wait while transactions are measured."""

ROUNDS = 50


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
