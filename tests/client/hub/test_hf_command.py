"""`hf crumb`: the Hub's own command runs ours; nobody else's extension is touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.hub import hf_command
from tests.support.visitors import Crumb

HF = Path(sys.executable).with_name("hf")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `hf` looks for the extension, for a person who has none yet."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path / ".local/share/hf/extensions/hf-crumb"


def hf(*arguments: str, code: int = 0) -> str:
    """Run the real `hf`, which asks nobody for updates."""
    environment = {**os.environ, "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    done = subprocess.run([HF, *arguments], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == code, done
    return done.stdout + done.stderr


def test_hf_runs_crumb_with_its_arguments_and_exit_code(crumb: Crumb, folder: Path) -> None:
    made = json.loads(crumb("integrate", "hf", "--json"))
    assert made["manifest"] == str(folder / "manifest.json")
    assert "No registry is known" in hf("crumb", "whoami", code=1)
    assert "Missing option" in hf("crumb", "push", "x", "n/m", code=2)
    assert hf("crumb", "--help").startswith("Usage: crumb ")
    assert hf_command.ABOUT in hf("--help")
    listed = hf("extensions", "list")
    assert "hf crumb" in listed
    assert "crumb.local/hf-crumb" in listed


def test_it_can_be_done_again_and_undone(crumb: Crumb, folder: Path) -> None:
    crumb("integrate", "hf")
    before = (folder / "manifest.json").read_bytes()
    assert crumb("integrate", "hf", "-q").strip() == str(folder / "manifest.json")
    assert (folder / "manifest.json").read_bytes() == before
    (folder / ".latest_commit").write_text("")  # as `hf extensions list` leaves it
    assert json.loads(crumb("integrate", "hf", "--remove", "--json")) == {"removed": True}
    assert not folder.exists()
    assert json.loads(crumb("integrate", "hf", "--remove", "--json")) == {"removed": False}


def test_a_crumb_that_moved_is_found_again(crumb: Crumb, folder: Path) -> None:
    crumb("integrate", "hf")
    manifest = folder / "manifest.json"
    table = json.loads(manifest.read_text())
    assert Path(table["executable_path"]).parent == Path(sys.executable).parent
    manifest.write_text(json.dumps({**table, "executable_path": "/gone/bin/crumb"}))
    crumb("integrate", "hf")
    assert json.loads(manifest.read_text())["executable_path"] == table["executable_path"]


@pytest.mark.parametrize("manifest", [None, "", "[]", '{"owner": "ana", "short_name": "crumb"}', "[" * 99999])
def test_another_extension_of_that_name_stays_as_it_is(manifest: str | None, crumb: Crumb, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "hf-crumb").write_text("theirs")
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for more in ((), ("--remove",)):
        crumb("integrate", "hf", *more, code=1)
        assert "is another extension" in crumb.errors
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_without_a_crumb_to_run_nothing_is_written(
    crumb: Crumb, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_command.sysconfig, "get_path", lambda *_: str(tmp_path / "none"))
    crumb("integrate", "hf", code=1)
    assert "has no command crumb" in crumb.errors
    assert not folder.exists()


def test_its_owner_is_a_name_that_github_gives_to_nobody() -> None:
    assert "." in hf_command.OWNER  # where `hf extensions update` would run what it finds
