"""`crumb follow`: a folder and a command that follow a channel, whatever happens between its moves."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import client
from client.actions.pulling import following
from client.actions.pulling.deltas import apply_delta
from client.actions.pulling.following import Followed, follow, read_followed
from registry.errors import InvalidRequest, JobFailed, StorageFull, TooMany, Unavailable
from tests.support.visitors import Crumb, Files, Registry, eventually, publish_model

MODEL = "ana/followed"
NOTE = """\
import json, os, sys
names = ("CRUMB_MODEL", "CRUMB_REF", "CRUMB_DELTA")
with open(sys.argv[1], "a") as file:
    print(json.dumps([sys.argv[2:], [os.environ[name] for name in names]]), file=file)
assert "CRUMB_TOKEN" not in os.environ
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


def move(here: Registry, version: str) -> None:
    with here.client() as session:
        session.move_channel(MODEL, "stable", version)


def test_a_rollback_after_a_command_that_failed_brings_the_folder_and_the_command_back(
    crumb: Crumb, here: Registry
) -> None:
    run(crumb)
    move(here, "1.1.0")
    (crumb.cwd / "fail").touch()
    run(crumb, code=1)
    (crumb.cwd / "fail").unlink()
    move(here, "1.0.0")
    run(crumb)
    assert [line[0][1] for line in noted(crumb)] == ["1.0.0", "1.1.0", "1.0.0"]
    assert client.verify(crumb.cwd / "served", f"{MODEL}@1.0.0", quiet=True).ok
    client.pull(f"{MODEL}@1.1.0", crumb.cwd / "served", quiet=True)  # by somebody else
    run(crumb)
    assert len(noted(crumb)) == 4 and client.verify(crumb.cwd / "served", f"{MODEL}@1.0.0", quiet=True).ok


def test_no_delta_leads_on_from_a_command_that_failed(crumb: Crumb, here: Registry) -> None:
    assert "was not run" in run(crumb, "{delta}")
    move(here, "1.1.0")
    (crumb.cwd / "fail").touch()
    run(crumb, "{delta}", code=1)
    (crumb.cwd / "fail").unlink()
    move(here, "1.0.0")
    run(crumb, "{delta}", code=1)
    assert "what the engine holds is not known" in crumb.errors and len(noted(crumb)) == 1
    (crumb.cwd / "served" / ".crumb" / "followed.json").unlink()  # as the message says
    assert "was not run" in run(crumb, "{delta}")
    assert client.verify(crumb.cwd / "served", f"{MODEL}@1.0.0", quiet=True).ok
    move(here, "1.1.0")
    assert "the command was run" in run(crumb, "{delta}")


def test_a_delta_starts_at_what_the_command_was_run_for(crumb: Crumb, here: Registry) -> None:
    run(crumb, "{delta}")
    record = crumb.cwd / "served" / ".crumb" / "followed.json"
    record.write_text(json.dumps({"ref": "1.0.0", "weights_digest": "sha256:" + "0" * 64}))
    move(here, "1.1.0")
    run(crumb, "{delta}", code=1)
    assert "No delta leads from 1.0.0" in crumb.errors and "start the engine again" in crumb.errors
    assert noted(crumb) == []


@pytest.mark.parametrize("error", [Unavailable("It rests."), TooMany("Later."), StorageFull("No room.")])
def test_an_error_on_the_way_is_noted_and_tried_again(
    crumb: Crumb, here: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Ended(Exception):
        pass

    faults: list[Exception] = []
    look, done, pauses = following.find_snapshot, list[str](), list[float]()

    def failing(*arguments: Any) -> Any:
        if faults:
            raise faults.pop()
        return look(*arguments)

    def note(followed: Followed, ran: bool) -> None:
        done.append(followed.ref)
        if len(done) == 2:
            raise Ended
        faults.extend([error, error])
        move(here, "1.1.0")

    monkeypatch.setattr(following, "find_snapshot", failing)
    monkeypatch.setattr(following.time, "sleep", pauses.append)
    with here.client() as session, pytest.raises(Ended):
        follow(session, MODEL, "stable", tmp_path / "served", [sys.executable, "-c", ""], done=note)
    assert done == ["1.0.0", "1.1.0"] and pauses[-2:] == [following.PAUSE, 2 * following.PAUSE]


def test_a_move_is_followed_while_it_runs(
    crumb: Crumb, here: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Exception):
        pass

    done: list[Followed] = []
    moved = threading.Event()
    ended: list[BaseException] = []

    def note(followed: Followed, ran: bool) -> None:
        assert ran
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


HOLD = """\
import os, sys, time
with open("begun", "a") as file:
    print(sys.argv[1], file=file)
while os.path.exists("hold"):
    time.sleep(0.05)
"""


@pytest.mark.slow
def test_what_is_killed_goes_on_with_what_its_command_did_not_end(crumb: Crumb, here: Registry) -> None:
    """Killed while the command runs, and while it waits for a change that comes when it is dead."""
    (crumb.cwd / "hold.py").write_text(HOLD)
    (crumb.cwd / "hold").touch()
    follow_it = ["follow", f"{MODEL}@stable", "-o", "served", "--", sys.executable, "hold.py", "{ref}"]

    def begun() -> list[str]:
        file = crumb.cwd / "begun"
        return file.read_text().splitlines() if file.exists() else []

    @contextlib.contextmanager
    def running() -> Iterator[None]:
        command = [sys.executable, "-c", "from client.cli import main; main()", *follow_it]
        process = subprocess.Popen(command, cwd=crumb.cwd, start_new_session=True)
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def ended(ref: str) -> bool:
        followed = read_followed(crumb.cwd / "served")
        return followed is not None and followed.ref == ref

    with running():
        eventually(lambda: begun() == ["1.0.0"], 120)
    assert not ended("1.0.0")
    (crumb.cwd / "hold").unlink()
    with running():
        eventually(lambda: ended("1.0.0"), 120)
    assert begun() == ["1.0.0", "1.0.0"]
    with here.client() as session:
        session.move_channel(MODEL, "stable", "1.1.0")
    with running():
        eventually(lambda: ended("1.1.0"), 120)
    assert begun() == ["1.0.0", "1.0.0", "1.1.0"]
    assert client.verify(crumb.cwd / "served", f"{MODEL}@1.1.0", quiet=True).ok
