"""Commands that README and docs name: they exist, and so do their options."""

import functools
import os
import re
import subprocess

import pytest
import typer
from typer.testing import CliRunner

from tests.support.sources import PROSE, README, ROOT


def block_after(marker: str) -> str:
    """Return the fenced block that follows a marker in README, as .ci/run takes it."""
    found = re.search(rf"^<!-- {marker} -->\n+```\w*\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    if found is None:
        pytest.skip(f"README has no block marked {marker}")
    return found[1]


def named_commands() -> list[tuple[str, ...]]:
    """Return every `crumb ...` and `crumb-server ...` that README and docs name: in code blocks, between backticks."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", PROSE, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```\w*\n.*?^```", "", PROSE, flags=re.DOTALL | re.MULTILINE))
    lines = [line for block in fenced for line in re.sub(r"\\\n", " ", block).splitlines()] + inline
    found: dict[tuple[str, ...], None] = {}
    for line in lines:
        for part in re.split(r"&&|\||;|\$\(", line):
            if said := re.match(
                r"\s*(?:\$ |\S*/bin/)?(crumb-server|crumb)(?![\w-])((?: [a-z][a-z-]*(?![\w/@#.:]))*)(.*)", part
            ):
                options = re.findall(r"(?<=\s)(--?[a-z][a-z-]*)", re.split(r" #| -- ", said[3])[0])
                found[said[1], *said[2].split(), *options] = None
    return list(found)


@functools.cache
def command_of(program: str) -> "typer.core.TyperGroup":
    """Return the command that a program runs."""
    if program == "crumb":
        from client.cli import app
    else:
        from registry.cli import app
    made = typer.main.get_command(app)
    assert isinstance(made, typer.core.TyperGroup)
    return made


@pytest.mark.parametrize("said", named_commands(), ids=" ".join)
def test_commands_in_readme_exist(said: tuple[str, ...]) -> None:
    command = command_of(said[0])
    words = [word for word in said[1:] if not word.startswith("-")]
    while words and hasattr(command, "commands"):  # what follows the command's own name are its arguments
        assert words[0] in command.commands, f"{' '.join(said)}: no command {words[0]}"
        command = command.commands[words.pop(0)]
    known = {"-h", "--help", "--version"}
    known |= {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    assert {word for word in said[1:] if word.startswith("-")} <= known


def test_every_command_is_in_help() -> None:
    for program in ("crumb", "crumb-server"):
        app = command_of(program)
        from client.cli import app as crumb
        from registry.cli import app as server

        told = CliRunner().invoke(crumb if program == "crumb" else server, ["--help"]).output
        assert all(name in told for name in app.commands)


def test_readme_shows_the_two_commands() -> None:
    demo, tests = block_after("demo"), block_after("tests")
    for block in (demo, tests):
        assert "python3 -m venv .venv" in block
        assert "pip install -c constraints.txt" in block
    assert "crumb demo" in demo
    for check in ("ruff format --check .", "ruff check .", "mypy registry client", "lint-imports", "pytest"):
        assert check in tests


def test_ci_runs_the_command_that_readme_shows() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    shown = subprocess.run([str(script), "--show"], capture_output=True, text=True, check=False)
    assert shown.stdout == block_after("tests")
