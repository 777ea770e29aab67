"""Files of a model folder as people name them, from one machine to another."""

import shutil
from urllib.parse import quote

import httpx2
import pytest

from tests.support.visitors import Crumb, Files, Registry

NAMES = ["images/fig (1).png", "it's, a [note].md", "~draft & $more.txt"]


@pytest.fixture
def folder(registry: Registry, files: Files, crumb: Crumb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUMB_URL", registry.url)
    monkeypatch.setenv("CRUMB_TOKEN", registry.token("ana"))
    shutil.copytree(files.base, crumb.cwd / "base")
    for name in (*NAMES, "vocab.npy"):
        (crumb.cwd / "base" / name).parent.mkdir(exist_ok=True)
        (crumb.cwd / "base" / name).write_text(name)


@pytest.mark.usefixtures("folder")
def test_what_the_client_sends_the_registry_takes_and_every_client_can_pull(registry: Registry, crumb: Crumb) -> None:
    crumb("model", "create", "ana/names", "--base", "base")
    assert "vocab.npy" in crumb.errors  # left out, and the person knows
    crumb("pull", "ana/names", "-o", "there")
    for name in NAMES:
        assert (crumb.cwd / "there" / name).read_text() == name
    assert not (crumb.cwd / "there" / "vocab.npy").exists()
    crumb("verify", "there", "ana/names@base")
    for name in NAMES:  # as the Hub's clients do
        answer = httpx2.get(f"{registry.url}/ana/names/resolve/main/{quote(name)}")
        assert (answer.status_code, answer.text) == (200, name)
