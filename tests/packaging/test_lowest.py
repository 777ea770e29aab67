"""The client at the lowest versions that it says it takes, against a registry at the newest.

The client is in an environment of its own, with the oldest version of each of its direct dependencies; the registry and
what needs an extra run here.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.environments import ROOT, build, install
from tests.support import makers
from tests.support.hub_stand_in import TOKEN, open_hub
from tests.support.processes import Person, open_registry, person

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MODEL = "ana/tiny"


@dataclass(frozen=True)
class Old:
    """Somebody whose `crumb` is in an environment of lowest versions."""

    person: Person
    commands: Path
    cwd: Path

    def __call__(self, *arguments: object, code: int = 0, stdin: str = "", **more: str) -> str:
        done = subprocess.run(
            [self.commands / "crumb", *map(str, arguments)],
            cwd=self.cwd,
            env={**self.person.environment, "PYTHONPATH": "", **more},
            input=stdin,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, f"crumb {arguments}: {done.stdout}{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    def json(self, *arguments: object, **more: str) -> Any:
        return json.loads(self(*arguments, "--json", **more))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built"))[1]


@pytest.fixture
def people(wheel: Path, tmp_path: Path) -> Iterator[tuple[Old, Old]]:
    """A maintainer and a contributor, at one registry."""
    commands = install(wheel, tmp_path / "venv", ["-r", ROOT / "pyproject.toml"])
    with open_registry(tmp_path / "registry") as registry:
        registry.serve()
        yield Old(person(registry, "ana"), commands, tmp_path), Old(person(registry, "ben"), commands, tmp_path)


@pytest.mark.long
def test_the_lowest_client_takes_a_patch_from_push_to_release(people: tuple[Old, Old], tmp_path: Path) -> None:
    ana, ben = people
    base = makers.make_checkpoint(tmp_path / "base", shards=2)
    for seed in (1, 2):
        makers.make_patch(
            base, makers.fine_tuned(base, tmp_path / f"tuned{seed}", seed), tmp_path / f"{seed}.safetensors"
        )
    ana("login", ana.person.registry.url, stdin=f"{ana.person.token}\n")
    assert ana.json("whoami")["user"] == "ana"
    ana("model", "create", MODEL, "--base", base, "--card", base / "README.md")
    assert [model["name"] for model in ana.json("model", "list")] == [MODEL]
    for number in (1, 2):
        ben("push", f"{number}.safetensors", MODEL, "-m", f"Task {number}")
        ben("propose", MODEL, number)
    assert "Task 2" in ben("log", MODEL)
    ben("show", f"{MODEL}#1")
    ana("comment", MODEL, 1, "-m", "How was it trained?")
    ana("review", MODEL, 1, "--approve", "-m", "Reproduced.")
    ana("accept", MODEL, 1)
    ana("conflicts", MODEL, 1, 2)
    recipe = ana.json("compose", MODEL, 1, "2:0.5")["recipe"]["digest"]
    ben("pull", f"{MODEL}@{recipe[:12]}", "-o", "pulled")
    ben("verify", "pulled", f"{MODEL}@{recipe}")
    ana("eval", "add", f"{MODEL}@base", "--task", "t", "--dataset", "d", "--metric", "m", "--value", "0.5")
    ana("release", "cut", MODEL, "1.0.0", 1)
    refused = ana("release", "publish", MODEL, "1.0.0", "--recompose", code=1)
    assert "pip install 'breadcrumb-registry[local]'" in refused
    ana.person.crumb("release", "publish", MODEL, "1.0.0", "--recompose")  # composes: here, where the extra is
    ana("channel", "move", MODEL, "stable", "1.0.0", "-m", "First.")
    ben("pull", MODEL, "-o", "stable")
    ben("verify", "stable", f"{MODEL}@1.0.0")
    (tmp_path / "stable" / "config.json").write_text("{}")
    ben("verify", "stable", f"{MODEL}@1.0.0", code=3)
    # The registry answers as the Hub does, so this is the old Hub library's own download; and then it publishes.
    hub = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    ana("model", "create", "ana/again", "--base", f"{MODEL}@1.0.0", HF_ENDPOINT=ana.person.registry.url, **hub)
    with open_hub(tmp_path / "hub") as there:
        to = {**hub, "HF_ENDPOINT": there.url, "HF_TOKEN": TOKEN}
        made = ana.json("publish", f"{MODEL}@1.0.0", "hf://hubert/tiny", "--private", **to)
        assert there.repos["hubert/tiny"].private and made["commit"] == there.repos["hubert/tiny"].tags["v1.0.0"]
        assert ana.json("publish", f"{MODEL}@1.0.0", "hf://hubert/tiny", "--private", **to)["sent"] == []
    refused = ana("publish", f"{MODEL}@1.0.0", "hf://hubert/tiny", code=1, **to)
    assert "The Hub does not answer" in refused and "/api/" not in refused


def test_the_lowest_local_extra_makes_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    commands = install(wheel, tmp_path / "venv", ["-r", ROOT / "pyproject.toml", "--extra", "local"])
    base = makers.make_checkpoint(tmp_path / "base", shards=2)
    makers.fine_tuned(base, tmp_path / "tuned")
    old, new = [commands / "crumb"], [sys.executable, "-c", "from client.cli import main; main()"]
    made = {}
    for name, program in (("old", old), ("new", new)):
        for arguments in (
            ["diff", "base", "tuned", "-o", f"{name}.safetensors"],
            ["apply", "base", f"{name}.safetensors", "-o", f"{name}-model", "--alpha", "0.3"],
        ):
            done = subprocess.run([*program, *arguments], cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        files = sorted((tmp_path / f"{name}-model").glob("*.safetensors"))
        made[name] = [file.read_bytes() for file in (tmp_path / f"{name}.safetensors", *files)]
    assert len(made["new"]) > 1
    assert made["old"] == made["new"]
