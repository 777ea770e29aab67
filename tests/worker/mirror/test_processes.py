"""A mirror and its primary as processes: either is killed in the middle, and the guide's drill runs on the mirror."""

import hashlib
import json
import re
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.docs.test_drills import Shell, shell, written
from tests.support import launcher
from tests.support.community import NAME, URL
from tests.support.launcher import SERVER
from tests.support.processes import Registry, Valve, open_registry, until
from tests.support.proxies import free_port

pytestmark = [pytest.mark.slow, pytest.mark.long]
__all__ = ["shell"]  # the fixture: a registry with releases that nobody serves
FILE = f"/{NAME}/resolve/1.2.0/model.safetensors"


def command(mirror: Registry, *arguments: str) -> Any:
    """Run a command of the mirror."""
    words = ["mirror", *arguments, "--data", str(mirror.data)]
    return launcher.run(SERVER, *words, environment=mirror.environment)


def status(mirror: Registry) -> dict[str, Any]:
    """Return what the mirror says of itself; nothing before it has begun."""
    return json.loads(command(mirror, "status", "--json").stdout or "null") or {}


def is_current(mirror: Registry) -> bool:
    found = status(mirror)
    return bool(found.get("serial")) and found["behind"] == 0 and found["problem"] is None


def test_a_mirror_survives_kills_serves_and_takes_the_place_of_its_primary(shell: Shell, tmp_path: Path) -> None:
    with ExitStack() as stack:
        source = tmp_path / "primary"
        shutil.copytree(shell.data, source / "data")
        url = f"sqlite:///{source / 'data' / 'registry.db'}"
        primary = stack.enter_context(open_registry(source, url))
        served = primary.serve("--no-worker")
        mirror = stack.enter_context(open_registry(tmp_path / "mirror"))
        valve = stack.enter_context(Valve(primary.url, down=25_000))

        first = mirror.start("mirror", valve.url)
        assert valve.shut.wait(60), "some of the base is here"
        first.send_signal(signal.SIGKILL)
        first.wait(30)
        assert not status(mirror).get("serial")
        before = mirror.logs().count("mirror.file")
        second = mirror.start("mirror", primary.url)
        until(lambda: mirror.logs().count("mirror.file") > before)
        served.send_signal(signal.SIGKILL)
        served.wait(30)
        until(lambda: status(mirror).get("problem"))
        primary.serve("--no-worker")
        until(lambda: is_current(mirror))
        with httpx2.Client() as client:
            theirs = client.get(primary.url + FILE).content
            alice = {"Authorization": f"Bearer {primary.token('alice')}"}
            answer = client.patch(primary.url + URL, json={"min_approvals": 5}, headers=alice)
            assert answer.status_code == 200
            mirror.serve("--no-worker")
            until(lambda: client.get(mirror.url + URL).json()["min_approvals"] == 5)
            ours = client.get(mirror.url + FILE).content
            assert hashlib.sha256(ours).digest() == hashlib.sha256(theirs).digest()

            said = command(mirror, "promote")
            assert said.returncode == 1 and "stop it first" in said.stderr
            second.send_signal(signal.SIGTERM)
            second.wait(60)
            shutil.rmtree(shell.data)
            shutil.copytree(mirror.data, shell.data)
            drilled = shell.run(written("mirrors", "mirror drill"), **{"8001": str(free_port())})
            assert re.search(r"no longer follows .*all up to the event [0-9]+", drilled)
            assert "Every blob exists" in drilled

            token = {"Authorization": f"Bearer {mirror.token('alice')}"}
            refused = client.patch(mirror.url + URL, json={"min_approvals": 1}, headers=token)
            assert refused.status_code == 403 and "can be changed only there" in refused.json()["detail"]
            assert command(mirror, "promote").returncode == 0
            assert client.patch(mirror.url + URL, json={"min_approvals": 1}, headers=token).status_code == 200
            mirror.check()
