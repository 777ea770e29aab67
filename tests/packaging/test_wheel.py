"""The wheel works by itself: built from the sdist, and run where no source is."""

import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import httpx2
import pytest

from tests.packaging.environments import ROOT, borrow, build, install
from tests.support.processes import open_registry

pytestmark = pytest.mark.slow


def test_the_wheel_serves_from_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdist, wheel = build(tmp_path / "built")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "constraints.txt", "pyproject.toml", "tests/test_architecture.py"} <= held
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"client/py.typed", "registry/py.typed", "registry/migrations/env.py"} <= names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"client", "registry"}
    assert {f"registry/breadcrumbs/kernels/cuda/{name}" for name in ("compose.cu", "lanes.cuh")} <= names
    migrations = {path.name for path in (ROOT / "migrations" / "versions").glob("*.py")}
    assert {f"registry/migrations/versions/{name}" for name in migrations} <= names
    commands = install(wheel, tmp_path / "venv")
    borrow(tmp_path / "venv")
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it could lead back to the source
    empty = tmp_path / "empty"
    empty.mkdir()

    def run(*command: str) -> str:
        done = subprocess.run([commands / command[0], *command[1:]], cwd=empty, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("python", "-c", "import client, registry; print(client.__file__, registry.__file__)").split()
    assert all(Path(path).is_relative_to(tmp_path / "venv") for path in where)
    assert "pull" in run("crumb", "--help")
    with open_registry(tmp_path / "registry") as registry:
        registry.program = commands / "crumb-server"
        registry.serve()
        page = httpx2.get(f"{registry.url}/")
        assert page.status_code == 200
        for name in ("style.css", "app.js", "htmx.min.js"):
            (address,) = re.findall(rf'(?:href|src)="([^"]*{name}[^"]*)"', page.text)
            assert httpx2.get(f"{registry.url}{address}").status_code == 200
        assert httpx2.get(f"{registry.url}/healthz").status_code == 200
        run("crumb-server", "check", "--data", str(registry.data))
