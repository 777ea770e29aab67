import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from registry.errors import InvalidPatch, JobFailed
from registry.sandboxes.processes import machine_memory
from registry.sandboxes.sandbox import Sandbox
from tests.support.processes import until


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_result_comes_back_from_another_process_without_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "secret")
    found = Sandbox("tests.support.sandboxed:answer", {"value": [1, "zwei"]}).wait(60)
    assert found["value"] == [1, "zwei"]
    assert found["pid"] != os.getpid()
    assert "DATABASE_URL" not in found["environment"]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("user", [0, 65534])
def test_the_network_is_left_as_root_and_as_anybody_else(user: int) -> None:
    """Where the kernel lets everybody have namespaces; elsewhere a worker says that it is not so."""
    script = f"import os; from registry.sandboxes import sandbox as s; os.setuid({user}); s.leave_network(); "
    found = subprocess.run([sys.executable, "-c", script + "print(s.is_fenced())"], capture_output=True, text=True)
    allowed = user == 0 or int(Path("/proc/sys/user/max_user_namespaces").read_text()) > 0
    assert found.stdout.strip() == str(allowed), found.stderr


def test_an_error_keeps_its_class_sentence_and_field() -> None:
    with pytest.raises(InvalidPatch, match="too short") as caught:
        Sandbox("tests.support.sandboxed:refuse", {}).wait(60)
    assert caught.value.field == "a.values"


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("surprise", "KeyError"),
        ("crash", "SIGSEGV"),
        ("be_killed", "memory ran out"),
        ("quit_early", "exit code 3"),
    ],
)
def test_a_crash_is_a_sentence(function: str, sentence: str) -> None:
    with pytest.raises(JobFailed, match=sentence):
        Sandbox(f"tests.support.sandboxed:{function}", {}).wait(60)


def test_a_process_that_is_kept_is_called_again_and_ends_with_an_error() -> None:
    kept = Sandbox("tests.support.sandboxed:answer", {"value": 1}, keep=True)
    first = kept.wait(60)
    kept.again({"value": 2})
    second = kept.wait(60)
    assert (first["value"], second["value"]) == (1, 2)
    assert first["pid"] == second["pid"] == kept.pid
    kept.again({"unknown": 3})
    with pytest.raises(JobFailed, match="TypeError"):
        kept.wait(60)
    assert kept.pid is not None
    assert not alive(kept.pid)
    with pytest.raises(OSError):
        kept.again({"value": 4})


def test_memory_is_limited() -> None:
    with pytest.raises(JobFailed, match="memory"):
        Sandbox("tests.support.sandboxed:take_memory", {}, memory=6 * 2**30).wait(60)


def test_memory_is_limited_to_most_of_the_machine_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.sandboxes.sandbox.machine_memory", lambda: 8 * 2**30)
    with pytest.raises(JobFailed, match="memory"):
        Sandbox("tests.support.sandboxed:take_memory", {}).wait(60)
    assert machine_memory() > 2**28


def test_progress_arrives_and_killing_ends_the_process(tmp_path: Path) -> None:
    sandbox = Sandbox("tests.support.sandboxed:work", {"path": str(tmp_path / "pid")})
    until(lambda: sandbox.wait(0.05) is None and sandbox.progress > 0.2)
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    sandbox.kill()
    until(lambda: not alive(pid))


def test_the_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "from registry.sandboxes.sandbox import Sandbox\n"
        f"Sandbox('tests.support.sandboxed:work', {{'path': {str(tmp_path / 'pid')!r}}}).wait(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not alive(pid))


def test_modules_in_the_folder_it_was_started_in_are_not_taken(tmp_path: Path) -> None:
    strange, program = tmp_path / "registry", tmp_path / "bin" / "program.py"
    for file, text in (
        (strange / "__init__.py", "raise SystemExit('of a stranger')"),
        (
            program,
            "from registry.sandboxes.sandbox import Sandbox\n"
            "if __name__ == '__main__':\n"
            "    print(Sandbox('tests.support.sandboxed:answer', {'value': 'ours'}).wait(60)['value'])\n",
        ),
    ):
        file.parent.mkdir()
        file.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run([sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "ours\n", done.stderr


def test_the_program_that_starts_it_is_not_run_again(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "print('run')\n"
        "from registry.sandboxes.sandbox import Sandbox\n"
        "print(Sandbox('tests.support.sandboxed:answer', {'value': 'ours'}).wait(60)['value'], __spec__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True)
    assert done.stdout == "run\nours None\n", done.stderr
