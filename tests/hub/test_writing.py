"""What people get who write to a registry with the Hub's habits: git, and the library's own upload by Xet."""

import os
import subprocess
from pathlib import Path

import httpx2
import pytest
from huggingface_hub.utils._xet import XetTokenType, get_xet_session, xet_connection_info_refresh_url

from tests.support.hubs import NAME, Hub


def git(*arguments: str) -> str:
    """Run git, which has to fail; return what it prints."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C"}
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 128, done.stderr
    return done.stderr


@pytest.mark.parametrize("tail", ["", ".git"])
def test_git_says_how_a_model_is_pulled(hub: Hub, tmp_path: Path, tail: str) -> None:
    told = git("clone", f"{hub.url}/{NAME}{tail}", str(tmp_path / "here"))
    assert "remote: This registry is no git server." in told
    assert f"remote:   HF_ENDPOINT={hub.url} hf download {NAME} --local-dir tiny-llama" in told
    assert f"remote:   crumb pull {NAME} -o tiny-llama" in told


def test_git_is_told_nothing_of_who_has_which_model(hub: Hub) -> None:
    secret, none = (git("ls-remote", f"{hub.url}/alice/{name}") for name in ("secret", "nobody"))
    assert secret.replace("secret", "nobody") == none
    assert "crumb pull NS/NAME" in git("ls-remote", f"{hub.url}/one/two/three")


def test_an_upload_by_xet_ends_with_what_to_set(hub: Hub) -> None:
    refresh = xet_connection_info_refresh_url(
        token_type=XetTokenType.WRITE, repo_id=NAME, repo_type="model", revision="main", endpoint=hub.url
    )
    headers = {"authorization": f"Bearer {hub.tokens['alice']}"}
    with (
        pytest.raises(Exception, match="HF_HUB_DISABLE_XET=1"),
        get_xet_session().new_upload_commit(token_refresh_url=refresh, token_refresh_headers=headers) as commit,
    ):
        commit.start_upload_bytes(b"x" * 1000)
    answer = httpx2.get(refresh, headers=headers, follow_redirects=True)
    assert (answer.status_code, answer.json()["error"]) == (400, answer.headers["x-error-message"])
    assert "set HF_HUB_DISABLE_XET=1 in the environment" in answer.json()["error"]
