"""The clock of the machine jumps by an hour and by a day, both ways, under a server and a worker (libfaketime)."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Client
from client.actions import transfers
from registry.files.hashing import hash_file
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import Registry, open_registry, person, until

MODEL = "alice/tiny"
JUMPS = ("+1d", "+0", "+1h", "+0")  # from the true time: a day and an hour, forwards and backwards
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(LIBRARY is None, reason="no libfaketime here: apt-get install faketime"),
]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry whose processes read the time from a file, by a library that is loaded before all others."""
    (tmp_path / "clock").write_text("+0\n")
    with open_registry(tmp_path / "registry", lease_seconds=2, part_bytes=20_000) as made:
        made.environment |= {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        made.program = Path(sys.executable).parent / "crumb-server"
        yield made


def test_nothing_is_lost_or_done_twice_or_stuck_when_the_clock_jumps(registry: Registry, tmp_path: Path) -> None:
    """After every jump a worker dies with a job, so that its lease is of another time than the one that goes on."""
    bytes_of = random.Random(1)
    base = make_checkpoint(tmp_path / "base")
    registry.serve("--no-worker")
    alice, rita = person(registry, "alice"), person(registry, "rita")
    worker = registry.start("worker")
    alice.crumb("model", "create", MODEL, "--base", str(base))
    alice.crumb("member", "add", MODEL, "rita", "--role", "reviewer")
    uploaded, comments, composed = list[str](), list[str](), dict[str, str]()
    with Client(registry.url, alice.token) as client, Client(registry.url, rita.token) as other:
        for number, jump in enumerate(JUMPS, 1):
            (tmp_path / "bytes").write_bytes(bytes_of.randbytes(50_000))
            announced = client.announce_upload(hash_file(tmp_path / "bytes"), 50_000)
            make_patch(base, fine_tuned(base, tmp_path / f"tuned{number}", seed=number), tmp_path / "patch.safetensors")
            sha256, _ = transfers.upload(client, tmp_path / "patch.safetensors")
            client.create_patch(MODEL, sha256, f"before {jump}")
            worker.kill()
            worker.wait()
            (tmp_path / "clock").write_text(f"{jump}\n")
            worker = registry.start("worker")
            uploaded.append(transfers.upload(client, tmp_path / "bytes")[0])
            assert announced.state == "open"
            until(lambda n=number: client.patch(MODEL, n).check == "checked")
            client.propose(MODEL, number)
            other.review(MODEL, number, "approve", 1)
            client.comment(MODEL, number, f"after {jump}")
            comments.append(f"after {jump}")
            asked = client.compose(MODEL, [(number, "1")])
            until(lambda n=number: client.compose(MODEL, [(n, "1")]).weights_digest)
            composed[asked.recipe.digest] = client.snapshot(MODEL, asked.recipe.digest).weights_digest
        for number, message in enumerate(comments, 1):
            assert message in {entry.message for entry in client.discussion(MODEL, number).comments}
        for digest, weights in composed.items():
            assert client.snapshot(MODEL, digest).weights_digest == weights
        assert [patch.number for patch in client.patches(MODEL)][::-1] == list(range(1, len(JUMPS) + 1))
    registry.check()
