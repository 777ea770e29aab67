import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry.storage.store import Store
from tests.support.world import open_world


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from registry.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )


def test_a_token_is_made_on_a_fresh_folder_and_printed_once(tmp_path: Path) -> None:
    made = run("token", "create", "alice", "--expires", "30", "--data", str(tmp_path / "new" / "data"), "--json")
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert found["user"] == "alice"
    assert found["token"].startswith("hf_")
    assert found["expires_at"] is not None


def test_a_revoked_token_is_dead_and_a_wrong_prefix_revokes_nothing(tmp_path: Path) -> None:
    token = run("token", "create", "alice", "--data", str(tmp_path)).stdout.strip()
    assert run("token", "revoke", "hf_absent", "--data", str(tmp_path)).returncode == 1
    assert "alice" in run("token", "revoke", token[:9], "--data", str(tmp_path)).stdout
    with open_world(tmp_path, None) as world:
        refused = world.client(None).get("/api/v1/whoami", headers={"Authorization": f"Bearer {token}"})
        assert refused.status_code == 401


@pytest.mark.parametrize("name", ["Alice", "../x", "api", "a--b", ""])
def test_a_bad_name_is_one_sentence_and_exit_1(tmp_path: Path, name: str) -> None:
    refused = run("token", "create", name, "--data", str(tmp_path))
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "Traceback" not in refused.stderr


def test_check_lists_what_is_wrong_and_exits_1(tmp_path: Path) -> None:
    assert run("migrate", "--data", str(tmp_path)).returncode == 0
    fine = run("check", "--data", str(tmp_path))
    assert (fine.returncode, fine.stderr) == (0, "")
    sha256, _ = Store(tmp_path).put([b"unknown"])
    wrong = run("check", "--data", str(tmp_path), "--json")
    assert wrong.returncode == 1
    assert sha256 in json.loads(wrong.stdout)["problems"][0]


def test_check_asks_for_migrations_first(tmp_path: Path) -> None:
    refused = run("check", "--data", str(tmp_path))
    assert refused.returncode == 1
    assert "crumb-server migrate" in refused.stderr


def test_a_database_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    refused = run("migrate", "--data", str(tmp_path), DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "database" in refused.stderr


def test_help_needs_no_torch_and_no_server() -> None:
    script = "import sys; from registry.cli import app; print('torch' in sys.modules, 'fastapi' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout == "False False\n"
