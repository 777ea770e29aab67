"""What the fixtures of the client's tests hand out."""

import io
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client import Client
from client.api.calls import Item
from client.cli import run
from tests.support import launcher
from tests.support.databases import seed
from tests.support.launcher import SERVER

PART = 1024  # bytes of an upload's part: small, so that a small model has many
WEIGHTS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]  # of the base


def environment() -> dict[str, str]:
    """The environment of a server: ours without what would change its settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "DATABASE_URL"))}
    return {**kept, "REGISTRY_PART_BYTES": str(PART), "REGISTRY_POLL_SECONDS": "0.2", "OMP_NUM_THREADS": "1"}


@contextmanager
def serving(data: Path, port: int = 0, more: Sequence[str] = ()) -> Iterator[str]:
    """`crumb-server serve`, killed at the end; yields its address."""
    seed(data)
    command = ["serve", "--data", str(data), "--port", str(port), *more]
    log = data.with_name("log")
    with log.open("ab") as errors:
        process = launcher.start(SERVER, command, environment(), stdout=subprocess.PIPE, stderr=errors.fileno())
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("Listening on "), log.read_text()
            yield line.removeprefix("Listening on ").strip()
        finally:
            process.kill()


def create_token(data: Path, user: str, *options: str) -> str:
    """Create a token with `crumb-server`."""
    seed(data)
    command = ["token", "create", user, *options, "--data", str(data), "--json"]
    return str(json.loads(launcher.run(SERVER, *command, environment=environment(), check=True).stdout)["token"])


@dataclass(frozen=True)
class Registry:
    url: str
    data: Path
    token: Callable[[str], str]

    def client(self, user: str = "ana") -> Client:
        return Client(self.url, self.token(user))


@dataclass(frozen=True)
class Files:
    """A base, two fine-tuned models and their patches."""

    base: Path
    tuned: tuple[Path, Path]
    patches: tuple[Path, Path]


class Crumb:
    """`crumb` in this process, which saves the seconds of importing torch each time; `main` is tested apart."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.errors = ""

    def __call__(self, *arguments: object, code: int = 0, stdin: str = "", **environment: str) -> str:
        out, errors = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
            patch.chdir(self.cwd)
            patch.setattr("sys.stdin", io.StringIO(stdin))
            for name, value in environment.items():
                patch.setenv(name, value)
            found = run(list(map(str, arguments)))
        self.errors = errors.getvalue()
        assert found == code, (found, out.getvalue(), self.errors)
        return out.getvalue()

    def json(self, *arguments: object, **more: Any) -> Any:
        """Run a command with --json, and return what it printed."""
        return json.loads(self(*arguments, "--json", **more))


def eventually(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def model_with_patches(registry: Registry, files: Files, name: str) -> str:
    """Create a model with two checked patches of ana's; return its name."""
    from client.actions.models import create
    from client.actions.push import push

    with registry.client() as client:
        create(client, name, files.base)
        for patch, title in zip(files.patches, ("one", "two"), strict=True):
            assert push(client, patch, name, title, task="math" if title == "one" else None).check == "checked"
    return name


def publish_model(
    registry: Registry, name: str, base: Path, patches: Sequence[Path], releases: Mapping[str, Sequence[Item]]
) -> None:
    """Create a model of ana's with accepted patches and published releases; `stable` points at the newest."""
    from client.actions.models import create
    from client.actions.push import push

    with registry.client() as client:
        create(client, name, base)
        client.update_model(name, min_approvals=0)
        for number, patch in enumerate(patches, 1):
            push(client, patch, name, f"patch {number}", propose=True)
            client.accept(name, number, "Good.")
    for version, items in releases.items():
        publish_release(registry, name, version, items)


def publish_release(registry: Registry, name: str, version: str, items: Sequence[Item]) -> None:
    """Publish a release of a model of ana's, and point `stable` at it."""
    from client.actions.jobs import wait

    with registry.client() as client:
        release = client.cut_release(name, version, items, alpha="0.5")
        if release.job is not None:
            wait(client, release.job, timeout=60)
        built = client.snapshot(name, version)
        assert built.recipe is not None
        client.report_build(name, built.recipe.digest, built.weights_digest)  # as if ana had composed it, too
        client.publish_release(name, version)
        client.move_channel(name, "stable", version)
