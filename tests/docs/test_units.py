"""The unit files for systemd in the guide: they are valid, strict, and run commands that there are."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from registry.cli import app

UNITS = sorted((Path(__file__).parents[2] / "docs" / "guides" / "operate").glob("*.service"))
WORST = 2.5  # of 10, as `systemd-analyze security` rates what a unit may do


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_runs_a_command_that_there_is(unit: Path) -> None:
    found = re.search(r"^ExecStart=\S+/crumb-server (.*)$", unit.read_text(), re.MULTILINE)
    assert found is not None
    name, *arguments = found[1].split()
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert command.make_context(name, arguments).params["data"] == Path("/var/lib/crumbs/registry-data")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_valid_and_strict(unit: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/crumbs/bin/crumb-server", sys.executable))
    verified = subprocess.run([program, "verify", "--man=no", str(copy)], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run([program, "security", "--offline=yes", str(copy)], capture_output=True, text=True)
    exposure = re.search(r"exposure level for \S+: ([0-9.]+)", rated.stdout)
    assert exposure is not None and float(exposure[1]) <= WORST
