"""A server killed at random moments, again and again, while people upload, push and compose."""

import random
import signal
import threading
from pathlib import Path

import pytest

from client import Client
from client.actions import transfers
from registry.errors import BreadcrumbError
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import open_registry, person, until

KILLS = 15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_however_often_the_server_is_killed(tmp_path: Path) -> None:
    """The moments are random and printed; restarting needs nobody's help."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    base = make_checkpoint(tmp_path / "base")
    patches = []
    for number in range(40):
        tuned = fine_tuned(base, tmp_path / f"tuned{number}", seed=number)
        make_patch(base, tuned, tmp_path / f"{number}.safetensors")
        patches.append(tmp_path / f"{number}.safetensors")
    with open_registry(tmp_path / "registry", part_bytes=20_000, lease_seconds=1, job_attempts=999) as registry:
        server = registry.serve()
        alice = person(registry, "alice")
        alice.crumb("model", "create", "alice/tiny", "--base", str(base))
        stop, uploaded, pushed, composed = threading.Event(), set[str](), dict[int, str](), dict[str, str]()

        def upload() -> None:
            source = tmp_path / "bytes"
            while not stop.is_set():
                source.write_bytes(random.randbytes(random.randrange(1, 90_000)))
                try:
                    with Client(registry.url, alice.token, attempts=2) as client:
                        uploaded.add(transfers.upload(client, source)[0])
                except BreadcrumbError:
                    stop.wait(0.05)

        def push() -> None:
            waiting = list(patches)
            while waiting and not stop.is_set():
                try:
                    with Client(registry.url, alice.token, attempts=2) as client:
                        sha256, _ = transfers.upload(client, waiting[0])
                        patch = client.create_patch("alice/tiny", sha256, waiting[0].stem)
                        pushed[patch.number] = sha256
                        waiting.pop(0)
                        some = [number for number in (1, 2, 3) if moments.random() < 0.5 and number <= len(pushed)]
                        asked = client.compose("alice/tiny", [(number, "1") for number in some])
                        if asked.weights_digest:
                            composed[asked.recipe.digest] = asked.weights_digest
                except BreadcrumbError:
                    stop.wait(0.05)

        people = [threading.Thread(target=upload), threading.Thread(target=push)]
        for thread in people:
            thread.start()
        for _ in range(KILLS):
            stop.wait(moments.uniform(0, 4))
            server.send_signal(signal.SIGKILL)
            server.wait()
            server = registry.serve()
        stop.set()
        for thread in people:
            thread.join()

        with Client(registry.url, alice.token) as client:
            until(lambda: all(patch.check == "checked" for patch in client.patches("alice/tiny")))
            there = {patch.number: patch.sha256 for patch in client.patches("alice/tiny")}
            assert pushed.items() <= there.items()
            assert sorted(there) == list(range(1, len(there) + 1)), "a number was lost or given twice"
            for digest, weights in composed.items():
                assert client.snapshot("alice/tiny", digest).weights_digest == weights
            source = tmp_path / "bytes"
            for sha256 in uploaded:
                assert client.announce_upload(sha256, source.stat().st_size).state == "done"
        print(f"{len(uploaded)} uploads, {len(pushed)} patches, {len(composed)} compositions")
        assert uploaded, "it was killed too often to show anything"
        registry.check()
