"""Commands that wait for each other, and that are killed or told to end, and what goes on after them."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from client import Client
from client.actions import transfers
from client.actions.downloads import partial_path
from tests.support import launcher, makers
from tests.support.visitors import (
    PART,
    WEIGHTS,
    Crumb,
    Files,
    Registry,
    create_token,
    model_with_patches,
    serving,
)


@pytest.fixture(scope="module")
def model(registry: Registry, files: Files) -> str:
    """A model with two checked patches."""
    return model_with_patches(registry, files, "ana/interrupted")


def start(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", "from client.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_pulls_into_one_folder_and_through_one_cache_wait_for_each_other(
    here: Registry, model: str, crumb: Crumb
) -> None:
    address = f"{model}@{crumb('compose', model, '1', '-q').split()[0]}"
    into = ("one", "one", "one", "two", "two")
    running = [start("pull", address, "-o", crumb.cwd / folder, "--as-patches") for folder in into]
    running.append(start("pull", address, "-o", crumb.cwd / "one"))
    ended = [(process.communicate()[1], process.returncode) for process in running]
    assert {code for _, code in ended} == {0}, ended
    crumb("verify", "one", address)
    crumb("verify", "two", address)


def test_a_pull_that_waits_for_another_says_so(
    here: Registry, model: str, crumb: Crumb, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.machine import locks
    from client.terminal.console import Console

    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    first = locks.locked(crumb.cwd / "it", Console())
    first.__enter__()
    take, waits = locks.take_lock, threading.Event()

    def watched(handle: int) -> bool:
        taken = take(handle)
        if not taken:
            waits.set()
        return taken

    def end() -> None:
        waits.wait(60)
        time.sleep(0.5)
        first.__exit__(None, None, None)

    monkeypatch.setattr(locks, "take_lock", watched)
    release = threading.Thread(target=end)
    release.start()
    crumb("pull", model, "-o", "it")
    release.join()
    assert crumb.errors == "Another crumb is working in it; waiting for it.\n"


def test_a_pull_killed_while_it_switches_revisions_can_go_on_or_back_or_elsewhere(
    here: Registry, model: str, crumb: Crumb
) -> None:
    recipes = [crumb("compose", model, number, "-q").split()[0] for number in ("1", "2")]
    crumb("pull", f"{model}@{recipes[0]}", "-o", "it")
    code = (
        "import os, signal, client.actions.downloads as downloads, client.actions.transfers as transfers\n"
        "sync, count = downloads.sync_folder, []\n"
        "def counted(folder):\n"
        "    count.append(1)\n"
        "    if len(count) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    sync(folder)\n"
        "downloads.sync_folder = counted\n"
        "transfers.AT_ONCE = 1\n"
        "from client.cli import main\n"
        "main()\n"
    )
    command = ["pull", f"{model}@{recipes[1]}", "-o", str(crumb.cwd / "it"), "--as-files"]
    for ref in (recipes[0], "base", recipes[1]):
        assert launcher.run(code, *command, environment=os.environ).returncode == -signal.SIGKILL
        (crumb.cwd / "it/.crumb" / f"{'0' * 64}.00000000.part").write_bytes(b"half")
        crumb("pull", f"{model}@{ref}", "-o", "it")
        crumb("verify", "it", f"{model}@{ref}")
        assert not list((crumb.cwd / "it").rglob("*.part"))
        crumb("pull", f"{model}@{recipes[0]}", "-o", "it")


def test_a_pull_that_was_killed_goes_on(registry: Registry, model: str, tmp_path: Path) -> None:
    from client.actions.downloads import Wanted
    from client.actions.pulling.pull import pull

    with registry.client() as client:
        revision = client.snapshot(model)
        largest = max(revision.files, key=lambda file: file.size)
        partial = partial_path(Wanted("", tmp_path / "x" / largest.path, largest.sha256, largest.size))
        partial.parent.mkdir(parents=True)
        source = f"/api/v1/models/{model}/revisions/base/files/{largest.path}"
        with client.connection.stream("GET", source) as response:
            partial.write_bytes(response.read()[: largest.size // 2])
        pull(client, model, "base", tmp_path / "x")
    assert (tmp_path / "x" / largest.path).stat().st_size == largest.size
    assert not partial.exists()


def test_a_push_whose_process_is_killed_goes_on_where_it_was(here: Registry, model: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    with here.client() as client:
        transfers.download_snapshot(
            client, client.snapshot(model), base, paths=["model.safetensors.index.json", *WEIGHTS]
        )
    tuned = makers.fine_tuned(base, tmp_path / "tuned", 7)
    patch = tmp_path / "patch"
    info = makers.make_patch(base, tuned, patch, drop_bottom="0", drop_top="0")
    code = (
        "import os, signal, client.api.client as api\n"
        "send, count = api.Client.send_part, []\n"
        "def counted(*a, **k):\n"
        "    count.append(1)\n"
        "    if len(count) == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return send(*a, **k)\n"
        "api.Client.send_part = counted\n"
        "import client.actions.transfers\n"
        "client.actions.transfers.AT_ONCE = 1\n"
        "from client.cli import main\n"
        "main()\n"
    )
    killed = launcher.run(code, "push", str(patch), model, "-m", "killed", environment=os.environ)
    assert killed.returncode == -signal.SIGKILL
    assert info.sha256 is not None
    with here.client() as client:
        session = client.announce_upload(info.sha256, info.size)
        assert session.missing == list(range(3, -(-info.size // session.part_size)))
        from client.actions.push import push

        done = push(client, patch, model, "killed")
        assert done.check == "checked"
        assert push(client, patch, model, "killed").number == done.number
        assert client.announce_upload(info.sha256, info.size).state == "done"


def test_an_upload_goes_on_when_the_registry_is_killed_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, source = tmp_path / "data", tmp_path / "source"
    source.write_bytes(random.Random(1).randbytes(20 * PART))
    monkeypatch.setattr("client.actions.transfers.AT_ONCE", 1)
    token = create_token(data, "ana")
    sent: list[int] = []
    with ExitStack() as first, ExitStack() as second:
        url = first.enter_context(serving(data))
        client = second.enter_context(Client(url, token))
        send = client.send_part

        def part(upload: str, number: int, *rest: Any, **more: Any) -> Any:
            sent.append(number)
            if len(sent) == 8:
                first.close()  # SIGKILL
                second.enter_context(serving(data, int(url.rpartition(":")[2])))
            return send(upload, number, *rest, **more)

        monkeypatch.setattr(client, "send_part", part)
        sha256, size = transfers.upload(client, source)
        assert sent == list(range(20))
        assert client.announce_upload(sha256, size).state == "done"


def test_an_interrupted_wait_says_that_the_registry_goes_on(here: Registry, model: str, crumb: Crumb) -> None:
    code = (
        "import client.actions.jobs as jobs\n"
        "def interrupt(*a, **k): raise KeyboardInterrupt\n"
        "jobs.wait = interrupt\n"
        "from client.cli import main\n"
        "main()\n"
    )
    arguments = ["compose", model, "1", "--alpha", "0.123"]
    done = launcher.run(code, *arguments, environment=os.environ)
    assert done.returncode == 130
    assert "goes on composing" in done.stderr
    assert "Traceback" not in done.stderr
    crumb(*arguments, "-q")


def test_told_to_end_a_command_leaves_nothing_behind(here: Registry, files: Files, crumb: Crumb) -> None:
    code = (
        "import os, signal, time\n"
        "import registry.breadcrumbs.composing.compose as compose\n"
        "def told(*a, **k):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
        "compose.compose = told\n"
        "from client.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "apply", str(files.base), str(files.patches[0]), "-o", "out"]
    done = subprocess.run(command, cwd=crumb.cwd, env=os.environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "")
    assert {path.name for path in crumb.cwd.iterdir()} <= {"home"}  # the cache, with which files are sound
