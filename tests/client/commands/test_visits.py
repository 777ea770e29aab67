"""The client against a real registry in a process of its own."""

import json
import shutil
from pathlib import Path

import pytest

from client import Client
from client.actions.jobs import wait
from registry import errors
from tests.support import makers
from tests.support.visitors import (
    Crumb,
    Files,
    Registry,
    create_token,
    eventually,
    model_with_patches,
    serving,
)


@pytest.fixture(scope="module")
def model(registry: Registry, files: Files) -> str:
    """A model with two checked patches."""
    return model_with_patches(registry, files, "ana/llm")


def test_a_login_is_tried_before_it_is_written_down(registry: Registry, crumb: Crumb, home: Path) -> None:
    crumb("login", registry.url, "--token", "hf_" + "x" * 34, code=1)
    assert not home.exists()
    crumb("login", registry.url, code=1, CRUMB_TOKEN=registry.token("ana"), CRUMB_URL="https://other.example/")
    assert "is not sent" in crumb.errors
    assert not home.exists()
    crumb("login", registry.url, CRUMB_TOKEN=registry.token("ana"), CRUMB_URL=registry.url + "/")
    shutil.rmtree(home)
    assert "ana" in crumb("login", registry.url + "/", stdin=registry.token("ana") + "\n")
    assert json.loads(crumb("whoami", "--json"))["user"] == "ana"
    assert registry.token("ana") not in crumb("whoami")
    crumb("logout")
    crumb("whoami", code=1)
    assert "crumb login" in crumb.errors


def test_without_a_token_models_are_read_and_nothing_is_sent(
    here: Registry, model: str, files: Files, crumb: Crumb
) -> None:
    assert "two" in crumb("log", model, CRUMB_TOKEN="")
    crumb("push", files.patches[0], model, "-m", "t", code=1, CRUMB_TOKEN="")
    assert "token" in crumb.errors


def test_a_model_is_created_once_and_shown(here: Registry, files: Files, crumb: Crumb) -> None:
    base = crumb.cwd / "base"
    shutil.copytree(files.base, base)
    (base / "optimizer.pt").write_bytes(b"pickle")
    (crumb.cwd / "card.md").write_text("# Mine\n")
    arguments = ("model", "create", "ana/shown", "--base", base, "--card", "card.md")
    made = json.loads(crumb(*arguments, "--json"))
    assert "optimizer.pt" in crumb.errors
    assert made["state"] == "ready"
    assert made["base"] == crumb("digest", base, "-q").strip()
    assert json.loads(crumb(*arguments, "--json"))["created_at"] == made["created_at"]
    assert "# Mine" in crumb("model", "show", "ana/shown")
    assert "ana/shown" in crumb("model", "list", "--search", "show", "-q").split()
    assert crumb("model", "list", "--author", "nobody", "-q") == ""
    crumb("model", "create", "ana/shown", "--base", base, code=1, CRUMB_TOKEN=here.token("bob"))
    assert "ana" in crumb.errors


def test_a_model_of_unsound_weights_is_refused_before_it_is_sent(here: Registry, crumb: Crumb) -> None:
    (crumb.cwd / "bad").mkdir()
    (crumb.cwd / "bad" / "model.safetensors").write_bytes(b"\xff" * 100)
    crumb("model", "create", "ana/bad", "--base", "bad", code=1)
    assert "model.safetensors" in crumb.errors


def test_a_push_is_numbered_once(here: Registry, model: str, files: Files, crumb: Crumb) -> None:
    assert crumb("push", files.patches[0], model, "-m", "again", "-q") == f"{model}#1\n"
    assert crumb.errors == ""
    assert json.loads(crumb("push", files.patches[0], model, "-m", "again", "--json"))["title"] == "one"
    assert f"already {model}#1, titled 'one'" in crumb.errors
    crumb("push", files.patches[0], model, "-m", "one", "--task", "art", code=0)
    assert "already" in crumb.errors
    crumb("push", files.patches[0], model, "-m", "one", "--task", "math")
    assert crumb.errors == ""
    crumb("push", files.patches[0], model, "-m", "one", "--task", "No task", code=1)
    assert "code/python" in crumb.errors


def test_a_patch_for_another_base_uses_up_no_number(here: Registry, model: str, files: Files, crumb: Crumb) -> None:
    makers.make_patch(files.tuned[0], files.tuned[1], crumb.cwd / "other")
    crumb("push", "other", model, "-m", "t", code=1)
    assert "pinned to" in crumb.errors
    crumb("push", sorted(files.base.glob("*.safetensors"))[0], model, "-m", "t", code=1)
    assert "tensors" in crumb.errors  # a shard is taken for a tuned model, and lacks what the others hold
    with here.client() as client:
        assert client.model(model).patches == 2


def test_a_patch_that_the_registry_refuses_is_told_with_its_reason(here: Registry, files: Files, crumb: Crumb) -> None:
    crumb("model", "create", "ana/strict", "--base", files.base, "-q")
    data = bytearray(files.patches[0].read_bytes())
    data[-4:] = b"\xff\xff\xff\x7f"  # the last value becomes NaN, which no header shows
    (crumb.cwd / "bad").write_bytes(data)
    crumb("push", "bad", "ana/strict", "-m", "t", code=1)
    assert "ana/strict#1 was refused" in crumb.errors
    assert "finite" in crumb.errors.lower() or "nan" in crumb.errors.lower()
    assert "this very file" not in crumb.errors
    crumb("push", "bad", "ana/strict", "-m", "t", code=1)
    assert "ana/strict#1 was this very file, and refused" in crumb.errors
    assert "ana/strict#2 was refused" in crumb.errors
    crumb("push", files.patches[0], "ana/strict", "-m", "t")
    assert crumb.errors == ""


def test_the_log_is_newest_first_and_filtered(here: Registry, model: str, crumb: Crumb) -> None:
    assert crumb("log", model, "-q").split("\n") == ["#2 two", "#1 one", ""]
    assert crumb("log", model, "-q", "--task", "math") == "#1 one\n"
    assert crumb("log", model, "-q", "-n", "1") == "#2 two\n"
    assert crumb("log", model, "-q", "--author", "bob") == ""
    assert crumb("log", model, "-q", "--tensor", "embed", "--density-min", "0.01") == "#2 two\n#1 one\n"
    assert crumb("log", model, "-q", "--density-max", "0.01") == crumb("log", model, "-q", "--tensor", "x_proj") == ""
    assert [patch["number"] for patch in json.loads(crumb("log", model, "--json"))] == [2, 1]
    text = crumb("log", model)
    assert text.startswith("patch #2 (draft)\nAuthor: ana\nDate:   ")
    assert "Task:   math" in text
    shown = json.loads(crumb("show", f"{model}#1", "--json"))
    assert shown["nnz"] == sum(tensor["nnz"] for tensor in shown["tensors"])
    assert "embed.weight" in crumb("show", f"{model}#1")
    assert crumb("show", f"{model}#1", "-q") == shown["sha256"] + "\n"


def test_pages_are_put_together(registry: Registry, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.api.calls.PAGE", 1)
    with registry.client() as client:
        assert [patch.number for patch in client.patches(model)] == [2, 1]
        assert [patch.number for patch in client.patches(model, limit=1)] == [2]
        names = [found.name for found in client.models()]
        assert names == sorted(set(names))
        assert model in names


def test_a_missing_thing_is_told(here: Registry, model: str, crumb: Crumb) -> None:
    crumb("log", "ana/none", code=1)
    assert "ana/none" in crumb.errors
    crumb("show", f"{model}#99", code=1)
    crumb("pull", f"{model}@{'0' * 12}", "-o", "x", code=1)
    assert not (crumb.cwd / "x").exists()
    crumb("compose", model, "99", code=1)
    for alpha in (".3", "1e-3", "0,3"):
        crumb("compose", model, "1", "--alpha", alpha, code=1)
        assert "write it like 0.3" in crumb.errors


def test_jobs_are_seen_and_can_be_cancelled(registry: Registry, model: str) -> None:
    with registry.client() as client:
        made = client.compose(model, [(1, "1")], alpha="0.456")
        assert made.job is not None
        job = client.cancel_job(made.job.id)
        eventually(lambda: client.job(job.id).state in ("cancelled", "done"))
        with pytest.raises(errors.NotFound):
            client.job("00000000-0000-0000-0000-000000000000")


def test_a_wait_has_an_end(registry: Registry, model: str) -> None:
    with registry.client() as client:
        made = client.compose(model, [(2, "1")], alpha="0.789")
        assert made.job is not None
        seen: list[float] = []
        assert wait(client, made.job, progress=seen.append, timeout=60).state == "done"
        assert seen[-1] == 1.0
        running = made.job.model_copy(update={"state": "running"})
        client.job = lambda job: running  # type: ignore[method-assign]
        with pytest.raises(errors.Unavailable, match="still running"):
            wait(client, running, timeout=0)


def test_who_waits_for_no_worker_is_told(
    tmp_path: Path, files: Files, crumb: Crumb, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    token = create_token(data, "ana")
    monkeypatch.setattr("client.actions.jobs.IDLE", 0.1)
    with serving(data, more=["--no-worker"]) as url:
        monkeypatch.setattr("client.actions.jobs.wait", lambda *job, **how: wait(*job, **how, timeout=1))
        crumb("model", "create", "ana/slow", "--base", files.base, code=1, CRUMB_URL=url, CRUMB_TOKEN=token)
    assert crumb.errors.count("no worker is free") == 1
    assert "still queued" in crumb.errors


def test_an_upload_can_be_thrown_away(registry: Registry) -> None:
    with registry.client() as client:
        session = client.announce_upload("1" * 64, 5)
        assert client.upload(session.id).missing == [0]
        client.abort_upload(session.id)
        with pytest.raises(errors.NotFound):
            client.upload(session.id)
    with Client(registry.url) as nobody, pytest.raises(errors.Unauthenticated):
        nobody.announce_upload("1" * 64, 5)
