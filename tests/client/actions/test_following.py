"""`crumb follow`: a folder and a command that follow a channel, whatever happens between its moves."""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import client
from client.actions.pulling import following
from client.actions.pulling.deltas import apply_delta
from client.actions.pulling.following import Followed, follow, read_followed
from registry.errors import InvalidRequest, JobFailed
from tests.support.visitors import Crumb, Files, Registry, eventually, publish_model

MODEL = "ana/followed"
NOTE = """\
import json, os, sys
names = ("CRUMB_MODEL", "CRUMB_REF", "CRUMB_DELTA")
with open(sys.argv[1], "a") as file:
    print(json.dumps([sys.argv[2:], [os.environ[name] for name in names]]), file=file)
if os.path.exists("fail"):
    sys.exit(3)
if sys.argv[4:]:
    import shutil
    shutil.copy(sys.argv[4], "delta.safetensors")
"""


@pytest.fixture(scope="module")
def model(registry: Registry, files: Files) -> str:
    publish_model(registry, MODEL, files.base, files.patches, {"1.0.0": [(1, "1")], "1.1.0": [(1, "1"), (2, "1")]})
    return MODEL


@pytest.fixture
def crumb(here: Registry, model: str, crumb: Crumb) -> Iterator[Crumb]:
    (crumb.cwd / "note.py").write_text(NOTE)
    with here.client() as session:
        session.move_channel(MODEL, "stable", "1.0.0")
    yield crumb


def noted(crumb: Crumb) -> list[list[list[str]]]:
    log = crumb.cwd / "log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def run(crumb: Crumb, *words: str, code: int = 0) -> str:
    command = ["--", sys.executable, "note.py", "log", "{model}", "{ref}", *words]
    return crumb("follow", f"{MODEL}@stable", "-o", "served", "--once", *command, code=code)


def test_a_command_is_run_once_for_each_revision(crumb: Crumb, here: Registry) -> None:
    assert "1.0.0" in run(crumb)
    assert noted(crumb) == [[["served", "1.0.0"], ["served", "1.0.0", ""]]]
    run(crumb)
    assert len(noted(crumb)) == 1
    with here.client() as session:
        session.move_channel(MODEL, "stable", "1.1.0")
    run(crumb)
    assert noted(crumb)[1:] == [[["served", "1.1.0"], ["served", "1.1.0", ""]]]
    assert client.verify(crumb.cwd / "served", f"{MODEL}@1.1.0", quiet=True).ok


def test_a_command_with_delta_gets_the_bits_from_what_it_was_run_for(
    crumb: Crumb, here: Registry, tmp_path: Path
) -> None:
    run(crumb, "{delta}")
    assert noted(crumb) == []  # an engine loads the first revision from the folder
    client.pull(f"{MODEL}@1.0.0", tmp_path / "engine", quiet=True)
    with here.client() as session:
        session.move_channel(MODEL, "stable", "1.1.0")
    (crumb.cwd / "fail").touch()
    run(crumb, "{delta}", code=1)
    assert "exit code 3 for 1.1.0" in crumb.errors
    (crumb.cwd / "fail").unlink()
    run(crumb, "{delta}")  # the folder has moved already, the engine has not
    assert [line[0][1] for line in noted(crumb)] == ["1.1.0", "1.1.0"]
    apply_delta(tmp_path / "engine", crumb.cwd / "delta.safetensors")
    assert client.verify(tmp_path / "engine", f"{MODEL}@1.1.0", quiet=True).ok
    assert client.verify(crumb.cwd / "served", f"{MODEL}@1.1.0", quiet=True).ok


def test_a_move_is_followed_while_it_runs(
    crumb: Crumb, here: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Exception):
        pass

    done: list[Followed] = []
    moved = threading.Event()
    ended: list[BaseException] = []

    def note(followed: Followed) -> None:
        done.append(followed)
        moved.set()
        if len(done) == 2:
            raise Ended

    def run_it() -> None:
        with here.client() as session:
            try:
                follow(session, MODEL, "stable", tmp_path / "served", [sys.executable, "-c", ""], done=note)
            except BaseException as why:
                ended.append(why)

    thread = threading.Thread(target=run_it)
    thread.start()
    eventually(moved.is_set, 60)
    with here.client() as session:
        session.update_model(MODEL, license="mit")  # which moves nothing
        session.move_channel(MODEL, "stable", "1.1.0")
    thread.join(60)
    assert [one.ref for one in done] == ["1.0.0", "1.1.0"] and isinstance(ended[0], Ended)
    assert read_followed(tmp_path / "served") == done[1]


def test_what_never_moves_or_cannot_be_run_is_refused(here: Registry, model: str, tmp_path: Path, crumb: Crumb) -> None:
    with here.client() as session:
        for ref in ("1.0.0", "#1", "0123abcd"):
            with pytest.raises(InvalidRequest, match="never moves"):
                follow(session, MODEL, ref, tmp_path / "f", ["true"])
        with pytest.raises(InvalidRequest, match="cannot be run"):
            follow(session, MODEL, "stable", tmp_path / "f", ["no-such-command"], once=True)
        with pytest.raises(JobFailed, match="exit code 1 for"):
            follow(session, MODEL, "stable", tmp_path / "f", ["false"], once=True)
    assert read_followed(tmp_path / "f") is None
    crumb("follow", f"{MODEL}@stable", "-o", "served", code=1)
    assert "No command is given" in crumb.errors


def test_changes_are_waited_for(here: Registry, model: str) -> None:
    with here.client() as session:
        newest = session.changes(following.NEWEST).next
        answers: list[int] = []
        waiting = threading.Thread(target=lambda: answers.append(len(session.changes(newest, wait=20).items)))
        waiting.start()
        session.update_model(MODEL, license="apache-2.0")
        session.update_model(MODEL, license="mit")
        waiting.join(15)
        assert answers and answers[0] >= 1
        assert session.changes(session.changes(following.NEWEST).next, wait=0.1).items == []
