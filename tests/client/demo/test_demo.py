"""`crumb demo`, whole; and that its registry never outlives it."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import httpx2
import pytest

from client.demo.server import environment, start
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.errors import MissingExtra, Unavailable, WrongState

CRUMB = str(Path(sysconfig.get_path("scripts")) / "crumb")


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz", timeout=5, trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def test_the_registry_of_the_demo_ends_with_it_even_on_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), start(tmp_path / "registry") as registry:
        token = registry.users(["ada"]).result()["ada"]
        headers = {"Authorization": f"Bearer {token}"}
        said = httpx2.get(f"{registry.url}/api/v1/whoami", headers=headers, trust_env=False).json()
        assert said["user"] == "ada"
        assert answers(registry.url)
        raise ZeroDivisionError
    assert not answers(registry.url)


def test_the_registry_of_the_demo_ends_when_the_demo_is_terminated(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from client.demo.server import start\n"
        "with start(pathlib.Path(sys.argv[1])) as registry: print(registry.url, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "registry")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert answers(url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert not answers(url)


def test_a_registry_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "crumb-server"
    program.write_text("#!/bin/sh\necho 'crumb-server: the disk is full.' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr("client.demo.server.server_program", lambda: str(program))
    with pytest.raises(Unavailable, match="the disk is full"), start(tmp_path / "registry"):
        pass


def test_the_demo_never_sees_another_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REGISTRY_DATA", "CRUMB_TOKEN"):
        monkeypatch.setenv(name, "elsewhere")
    assert "elsewhere" not in environment().values()


def test_the_demo_keeps_away_from_a_folder_in_use(tmp_path: Path) -> None:
    from client.demo.run import run_demo

    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(WrongState, match="not empty"):
        run_demo(tmp_path, True, False)


def test_without_its_extra_the_demo_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from client.demo.run import run_demo

    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtra, match=r"needs sklearn.*'breadcrumb-registry\[demo\]'"):
        run_demo(None, True, False)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_six_people_push_what_six_tasks_taught_and_it_is_composed_tuned_and_drawn(tmp_path: Path) -> None:
    """One whole run, of which the folder is kept."""
    folder = tmp_path / "kept"
    done = subprocess.run(
        [CRUMB, "demo", "--json", "--keep", str(folder)], env=os.environ, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    print(f"the demo took {outcome['seconds']['all']:.0f} s")
    six_patches_are_small_and_know_their_task(outcome)
    both_compositions_were_pulled_and_have_their_digests(folder, outcome)
    what_was_tuned_is_what_was_composed_and_helps(outcome)
    assert outcome["picture"] == str(folder / "crumb-demo.svg")
    assert (folder / "crumb-demo.svg").read_text().startswith("<svg")
    assert any((folder / "crumb" / "cache" / "patches").iterdir()), "the cache of this person is left alone"
    program = str(Path(sysconfig.get_path("scripts")) / "crumb-server")
    checked = subprocess.run(
        [program, "check", "--data", str(folder / "registry")], env=environment(), capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def six_patches_are_small_and_know_their_task(outcome: dict[str, Any]) -> None:
    assert [patch["number"] for patch in outcome["patches"]] == [1, 2, 3, 4, 5, 6]
    assert len({patch["author"] for patch in outcome["patches"]}) == 6
    for patch in outcome["patches"]:
        task = patch["task"]
        assert outcome["accuracy"]["fine_tuned"][task] > outcome["accuracy"]["base"][task] + 5
        assert 0.1 < patch["density"] < 0.15
        assert patch["size"] < patch["model_size"] / 4


def both_compositions_were_pulled_and_have_their_digests(folder: Path, outcome: dict[str, Any]) -> None:
    merges = outcome["merges"]
    assert merges["composed"]["patches"] == dict.fromkeys("123456", "1")
    for way, name in (("composed", "auto"), ("composed_tuned", "tuned")):
        assert merges[way]["composed_here"] == merges[way]["weights_digest"]
        for place in ("pulled", "applied"):
            with open_checkpoint(folder / place / name) as checkpoint:
                assert digest_checkpoint(checkpoint) == merges[way]["weights_digest"]
    with open_checkpoint(folder / "base") as checkpoint:
        assert digest_checkpoint(checkpoint) == outcome["base"]["weights_digest"]


def what_was_tuned_is_what_was_composed_and_helps(outcome: dict[str, Any]) -> None:
    assert outcome["images"] == {"train": 997, "validation": 300, "test": 500}
    chosen, merge = outcome["chosen"]["composed_tuned"], outcome["merges"]["composed_tuned"]
    assert merge["alpha"] == chosen["alpha"]
    weights = dict(enumerate(chosen["weights"], 1))
    assert merge["patches"] == {str(number): weight for number, weight in weights.items() if weight != "0"}
    assert all(3 < tried <= 24 for tried in outcome["tried"].values())
    mean = {way: accuracy["mean"] for way, accuracy in outcome["accuracy"].items()}
    assert mean["base"] < mean["composed_tuned"] < mean["fine_tuned"]
