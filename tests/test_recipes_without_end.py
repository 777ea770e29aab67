"""Very many recipes on a disk for three models, while servers and workers are killed: every byte right, no growth.

REGISTRY_TEST_RECIPES=1000 asks for more of them; docs/concepts/reliability.md has the figures of such a run.
"""

import hashlib
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from client import Client
from registry import schemas
from registry.errors import BreadcrumbError
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import Person, Registry, open_registry, person, until

RECIPES = int(os.environ.get("REGISTRY_TEST_RECIPES", "24"))
EACH = 6  # recipes between two kills
MODEL, FILE = "alice/tiny", "model.safetensors"
SHAPES = {"embed.weight": (512, 96), "layers.0.weight": (256, 128), "layers.1.weight": (256, 128)}
PATCHES = 6


@pytest.mark.slow
@pytest.mark.timeout(600 + 10 * RECIPES)
def test_very_many_recipes_need_no_more_disk_than_three(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    base = make_checkpoint(tmp_path / "base", shapes=SHAPES)
    size = (base / FILE).stat().st_size
    with open_registry(tmp_path / "registry", lease_seconds=1, job_attempts=9999, composed_bytes=3 * size) as registry:
        alice, processes = prepare(registry, base, tmp_path), Processes(registry)
        before, recipes, mixes = stored(registry), dict[str, str](), dict[str, tuple[list[int], str]]()
        for number in range(RECIPES):
            if number % EACH == EACH - 1:
                threading.Timer(chance.uniform(0, 1), processes.kill, [chance.choice(["server", "worker"])]).start()
            mix = draw(chance)
            digest = compose(alice, *mix).recipe.digest
            mixes[digest], recipes[digest] = mix, read(alice, digest)
            again = chance.choice(list(recipes))
            assert read(alice, again) == recipes[again]
            assert stored(registry) - before <= 4 * size, "three are held, and one is being composed"
        processes.settle()
        held = sum(compose(alice, *mix).held for mix in mixes.values())
        print(f"{len(recipes)} recipes, {held} held, kills {dict(processes.killed)}")
        assert held <= 3
        registry.collect()
        registry.check()


class Processes:
    """A server and a worker, which are started again when they were killed."""

    def __init__(self, registry: Registry) -> None:
        self.registry, self.killed, self.lock = registry, Counter[str](), threading.Lock()
        self.running = {"server": registry.running[0], "worker": registry.start("worker")}

    def kill(self, victim: str) -> None:
        with self.lock:
            self.running[victim].kill()
            self.running[victim].wait()
            self.killed[victim] += 1
            self.running[victim] = self.registry.serve() if victim == "server" else self.registry.start("worker")

    def settle(self) -> None:
        """Wait until nobody is being killed."""
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()


def prepare(registry: Registry, base: Path, folder: Path) -> Person:
    """Start serving; make a model with patches."""
    registry.serve()
    worker, alice = registry.start("worker"), person(registry, "alice")
    alice.crumb("model", "create", MODEL, "--base", str(base))
    for number in range(PATCHES):
        tuned, file = fine_tuned(base, folder / f"tuned{number}", seed=number), folder / f"{number}.safetensors"
        make_patch(base, tuned, file)
        alice.crumb("push", str(file), MODEL, "-m", f"patch {number}")
    with Client(registry.url, alice.token) as client:
        until(lambda: all(patch.check == "checked" for patch in client.patches(MODEL)))
    worker.terminate()
    worker.wait()
    return alice


def draw(chance: random.Random) -> tuple[list[int], str]:
    """Return patches and an alpha that are most likely new."""
    return chance.sample(range(1, PATCHES + 1), chance.randint(1, PATCHES)), f"{chance.uniform(0.1, 1):.5f}"


def compose(alice: Person, chosen: list[int], alpha: str) -> schemas.Composition:
    """Have a recipe composed, however often somebody is killed meanwhile."""
    while True:
        try:
            with Client(alice.registry.url, alice.token, attempts=2) as client:
                done = client.compose(MODEL, [(number, "1") for number in chosen], alpha=alpha)
                if done.job is None:
                    return done
        except BreadcrumbError:
            pass  # the server is away
        time.sleep(0.05)


def read(alice: Person, digest: str) -> str:
    """Read the weights of a recipe whole and in part, whether or not they are on disk; return their sha256."""
    while True:
        try:
            with httpx2.Client(base_url=alice.registry.url, timeout=60) as client:
                answer = client.get(f"/{MODEL}/resolve/{digest}/{FILE}")
                answer.raise_for_status()
                sha256 = hashlib.sha256(answer.content).hexdigest()
                assert answer.headers["etag"] == f'"{sha256}"', "other bytes than were told"
                start = len(answer.content) // 3
                part = client.get(f"/{MODEL}/resolve/{digest}/{FILE}", headers={"Range": f"bytes={start}-{start + 99}"})
                part.raise_for_status()
                assert part.content == answer.content[start : start + 100]
                return sha256
        except httpx2.HTTPError:
            time.sleep(0.05)  # the server is away


def stored(registry: Registry) -> int:
    """Return the bytes of weights on disk; cards and the like are smaller."""
    files = (registry.data / "blobs").rglob("*")
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return sum(size for size in sizes if size > 100_000)
