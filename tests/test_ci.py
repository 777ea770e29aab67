"""`.ci/run` on a checkout of a few lines: what fails is run once more, and what passes then is called flaky."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SETTINGS = """
[tool.pytest.ini_options]
addopts = "-q -m 'not slow'"
markers = ["slow: run by `pytest -m slow`"]
"""
FLAKY = """
    again = pathlib.Path({seen!r}) / "{name}"
    if not again.exists():
        again.touch()
        raise AssertionError("the first time")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts, a README whose environment is the one that runs this test, and an empty folder of tests."""
    folder = tmp_path / "checkout"
    (folder / "tests").mkdir(parents=True)
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    (folder / "pyproject.toml").write_text(SETTINGS)
    bin = tmp_path / "bin"
    bin.mkdir()
    lean = f'PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 exec {sys.executable} -m pytest -p xdist.plugin "$@"'
    for name, line in {"pytest": lean, "chromium": "", "nginx": "", "caddy": ""}.items():
        (bin / name).write_text(f"#!/bin/sh\n{line}\n")
        (bin / name).chmod(0o755)
    write_command(folder, "true && pytest -n 2")
    return folder


def write_command(checkout: Path, command: str) -> None:
    (checkout / "README.md").write_text(f"<!-- tests -->\n```bash\n{command}\n```\n")


def write_tests(checkout: Path, **bodies: str) -> None:
    """Write tests by name; `flaky` is a body that fails the first time."""
    lines = ["import pathlib", "import pytest"]
    for name, body in bodies.items():
        if "slow" in name:
            lines.append("@pytest.mark.slow")
        body = FLAKY.format(seen=str(checkout.parent), name=name) if body == "flaky" else f"    {body}\n"
        lines.append(f"def test_{name}():\n{body}")
    (checkout / "tests" / "test_it.py").write_text("\n".join(lines))


def run(checkout: Path) -> tuple[int, str]:
    """Run everything; return the exit code, and what was printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment = {**kept, "PATH": f"{checkout.parent / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run([checkout / ".ci/run"], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def flaky(output: str) -> list[str]:
    """Return the tests that are listed at the end of the output."""
    _, there, end = output.partition("FLAKY")
    return [line for line in end.splitlines() if line.startswith("tests/")] if there else []


def test_what_passes_when_run_again_is_listed_and_fails_nothing(checkout: Path) -> None:
    write_tests(checkout, sound="assert True", sometimes="flaky", slow_sometimes="flaky")
    code, output = run(checkout)
    assert code == 0, output
    assert flaky(output) == ["tests/test_it.py::test_sometimes", "tests/test_it.py::test_slow_sometimes"]


def test_what_fails_again_fails_the_run(checkout: Path) -> None:
    write_tests(checkout, sometimes="flaky", broken="assert False", slow_never="assert False, 'not reached'")
    code, output = run(checkout)
    assert code == 1
    assert flaky(output) == ["tests/test_it.py::test_sometimes"]
    assert output.count("FAILED tests/test_it.py::test_broken") == 2
    assert "slow_never" not in output


def test_what_is_slow_and_fails_again_fails_the_run(checkout: Path) -> None:
    write_tests(checkout, sound="assert True", slow_broken="assert False")
    code, output = run(checkout)
    assert (code, flaky(output)) == (1, [])
    assert output.count("FAILED tests/test_it.py::test_slow_broken") == 2


@pytest.mark.parametrize("command", ["echo linted && false && pytest -n 2", "echo linted\nfalse\npytest -n 2"])
def test_a_linter_that_complains_is_not_asked_again(checkout: Path, command: str) -> None:
    write_tests(checkout, sound="assert True")
    write_command(checkout, command)
    code, output = run(checkout)
    assert (code, output) == (1, "linted\n")
