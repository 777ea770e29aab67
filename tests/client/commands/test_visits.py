"""The client against a real registry in a process of its own."""

import json
import os
import random
import shutil
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
from client.actions.jobs import wait
from registry import errors, schemas
from tests.support import launcher, makers
from tests.support.visitors import PART, Crumb, Files, Registry, create_token, eventually, serving

WEIGHTS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture(scope="module")
def model(registry: Registry, files: Files) -> str:
    """A model with two checked patches."""
    from client.actions.models import create
    from client.actions.push import push

    with registry.client() as client:
        create(client, "ana/llm", files.base)
        for patch, title in zip(files.patches, ("one", "two"), strict=True):
            assert push(client, patch, "ana/llm", title, task="math" if title == "one" else None).check == "checked"
    return "ana/llm"


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
    assert "not a breadcrumb patch" in crumb.errors
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


def test_a_subset_is_composed_pulled_both_ways_and_verified(
    here: Registry, model: str, files: Files, crumb: Crumb, home: Path
) -> None:
    made = json.loads(crumb("compose", model, "2:0.5", "#1", "--alpha", "0.7", "--json"))
    recipe, weights = made["recipe"]["digest"], made["weights_digest"]
    assert crumb("compose", model, "1", "2:0.50", "--alpha", "0.70", "-q") == f"{recipe} {weights}\n"
    address = f"{model}@{recipe[:10]}"

    crumb("pull", address, "-o", "merged")
    assert crumb("digest", "merged", "-q").strip() == weights
    for name, extra in (("local", ["--base", files.base]), ("cached", [])):
        crumb("pull", address, "-o", name, "--as-patches", *extra)
        subprocess.run(["diff", "-r", "merged", name], cwd=crumb.cwd, check=True)
    assert (home / "cache" / "patches").is_dir()
    applied = crumb(
        "apply", files.base, files.patches[0], f"{files.patches[1]}:0.5", "--alpha", "0.7", "-o", "ap", "-q"
    )
    assert applied.strip() == weights

    assert json.loads(crumb("verify", "merged", address, "--recompose", "--json")) == {
        "ok": True,
        "expected": weights,
        "found": weights,
        "recomposed": weights,
        "different": [],
        "strays": [],
        "signed": None,
    }
    crumb("verify", "merged", f"{model}@base", code=3)
    crumb("pull", address, "-o", "x", "--as-patches", "--base", files.tuned[0], code=1)
    assert "base" in crumb.errors
    assert [path.name for path in (crumb.cwd / "x").iterdir()] == [".crumb"]


def test_verify_shows_both_digests_when_a_weight_differs(here: Registry, model: str, crumb: Crumb) -> None:
    crumb("pull", model, "-o", "base")
    weights = sorted((crumb.cwd / "base").glob("*.safetensors"))[0]
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    shown = json.loads(crumb("verify", "base", f"{model}@base", "--json", code=3))
    assert shown["ok"] is False
    assert shown["expected"] != shown["found"]
    text = crumb("verify", "base", f"{model}@base", code=3)
    assert shown["expected"] in text
    assert shown["found"] in text
    crumb("pull", model, "-o", "base", code=1)  # what a person changed is not written over
    assert "changed" in crumb.errors


def test_a_pull_brings_the_folder_up_to_date_and_touches_no_other(here: Registry, model: str, crumb: Crumb) -> None:
    recipe, weights = crumb("compose", model, "1", "-q").split()
    crumb("pull", model, "-o", "it")
    note = json.loads((crumb.cwd / "it/.crumb/source.json").read_text())
    assert (note["model"], note["ref"], note["complete"]) == (model, "base", True)
    crumb("pull", f"{model}@{recipe}", "-o", "it")
    assert crumb("digest", "it", "-q").strip() == weights
    (crumb.cwd / "it" / "notes.txt").write_text("mine")
    crumb("pull", model, "-o", "it")
    assert (crumb.cwd / "it" / "notes.txt").read_text() == "mine"
    (crumb.cwd / "it" / "README.md").write_text("mine")
    crumb("pull", f"{model}@{recipe}", "-o", "it", code=1)
    assert "README.md" in crumb.errors
    assert "changed" in crumb.errors
    assert (crumb.cwd / "it" / "README.md").read_text() == "mine"


def test_a_pull_whose_weights_are_not_those_announced_is_never_complete(
    here: Registry, model: str, crumb: Crumb, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Client.snapshot

    def lie(client: Client, model: str, ref: str = "base") -> schemas.Snapshot:
        return ask(client, model, ref).model_copy(update={"weights_digest": "sha256:" + "0" * 64})

    monkeypatch.setattr(Client, "snapshot", lie)
    assert crumb("pull", model, "-o", "it", code=3) == ""
    assert "sha256:000" in crumb.errors
    assert json.loads((crumb.cwd / "it/.crumb/source.json").read_text())["complete"] is False


def test_verify_compares_every_file_and_names_what_else_may_be_loaded(here: Registry, model: str, crumb: Crumb) -> None:
    crumb("pull", model, "-o", "it")
    crumb("verify", "it")
    it = crumb.cwd / "it"
    (it / "README.md").write_text("my words")
    (it / "notes.txt").write_text("mine")
    assert "the same" in crumb("verify", "it", f"{model}@base")
    config = (it / "config.json").read_bytes()
    (it / "config.json").write_text("{}")
    (it / "tokenizer.json").unlink()
    shown = json.loads(crumb("verify", "it", "--json", code=3))
    assert shown["different"] == ["config.json", "tokenizer.json"]
    assert shown["found"] == shown["expected"]
    assert "The files DIFFER" in crumb("verify", "it", code=3)
    (it / "config.json").write_bytes(config)
    crumb("pull", model, "-o", "it", code=1)
    (it / "README.md").unlink()
    crumb("pull", model, "-o", "it")
    for name in ("model.safetensors", "adapter_config.json", "pytorch_model.bin", "x.pt", "modeling.py"):
        (it / name).write_bytes(b"x")
        assert json.loads(crumb("verify", "it", "--json", code=3))["strays"] == [name]
        assert name in crumb("verify", "it", code=3)
        crumb("pull", model, "-o", "it")
        assert name in crumb.errors
        (it / name).unlink()
    crumb("verify", "it")
    weights = it / WEIGHTS[0]
    weights.write_bytes(b"\xff" * 100)
    assert "unreadable" in crumb("verify", "it", code=3)
    (it / ".crumb" / "source.json").unlink()
    crumb("verify", "it", code=1)
    assert "NS/NAME@REF" in crumb.errors


def test_the_same_weights_in_other_files_verify(here: Registry, model: str, crumb: Crumb) -> None:
    crumb("pull", model, "-o", "it")
    it = crumb.cwd / "it"
    tensors = makers.read_weights(it)
    for name in WEIGHTS:
        (it / name).unlink()
    (it / "model.safetensors.index.json").unlink()
    makers.write_weights(it, tensors)
    assert json.loads(crumb("verify", "it", "--json"))["ok"] is True
    tensors["scale"] += 1
    makers.write_weights(it, tensors)
    crumb("verify", "it", code=3)


def test_pull_and_verify_load_no_torch(here: Registry, model: str, crumb: Crumb) -> None:
    code = (
        "import sys\n"
        "from client.cli import run\n"
        f"assert run(['pull', {model!r}, '-o', 'it']) == run(['verify', 'it']) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=crumb.cwd, env=os.environ, check=True)


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
    command = ["pull", f"{model}@{recipes[1]}", "-o", str(crumb.cwd / "it")]
    for ref in (recipes[0], "base", recipes[1]):
        assert launcher.run(code, *command, environment=os.environ).returncode == -signal.SIGKILL
        (crumb.cwd / "it/.crumb" / f"{'0' * 64}.00000000.part").write_bytes(b"half")
        crumb("pull", f"{model}@{ref}", "-o", "it")
        crumb("verify", "it", f"{model}@{ref}")
        assert not list((crumb.cwd / "it").rglob("*.part"))
        crumb("pull", f"{model}@{recipes[0]}", "-o", "it")


def test_a_base_in_other_shards_is_no_fraud(here: Registry, model: str, files: Files, crumb: Crumb) -> None:
    address = f"{model}@{crumb('compose', model, '1', '-q').split()[0]}"
    whole = crumb.cwd / "whole"
    makers.write_weights(whole, makers.read_weights(files.base))
    crumb("pull", address, "-o", "it", "--as-patches", "--base", whole, code=1)
    assert "in other files" in crumb.errors
    assert "operator" not in crumb.errors
    named = crumb.cwd / "named"  # the same names, another order of the tensors within
    shutil.copytree(files.base, named)
    index = json.loads((named / "model.safetensors.index.json").read_text())
    index["weight_map"] = {
        name: WEIGHTS[1 - WEIGHTS.index(file)] for name, file in index["weight_map"].items()
    }  # fmt: skip
    (named / "model.safetensors.index.json").write_text(json.dumps(index))
    (named / WEIGHTS[0]).rename(named / "x")
    (named / WEIGHTS[1]).rename(named / WEIGHTS[0])
    (named / "x").rename(named / WEIGHTS[1])
    crumb("pull", address, "-o", "it", "--as-patches", "--base", named, code=1)
    assert "in other files" in crumb.errors
    crumb("pull", address, "-o", "it", "--as-patches")


def test_a_pull_that_was_killed_goes_on(registry: Registry, model: str, tmp_path: Path) -> None:
    from client.actions.downloads import Wanted
    from client.actions.pull import pull

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
    assert list(crumb.cwd.iterdir()) == []


def test_an_upload_can_be_thrown_away(registry: Registry) -> None:
    with registry.client() as client:
        session = client.announce_upload("1" * 64, 5)
        assert client.upload(session.id).missing == [0]
        client.abort_upload(session.id)
        with pytest.raises(errors.NotFound):
            client.upload(session.id)
    with Client(registry.url) as nobody, pytest.raises(errors.Unauthenticated):
        nobody.announce_upload("1" * 64, 5)
