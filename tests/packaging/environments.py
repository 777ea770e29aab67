"""The package as people get it: built from its sdist, and installed into environments of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def uv(*arguments: object) -> None:
    """Run uv, with pip's package index where pip has been given one: uv does not read pip's configuration."""
    asked = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    index = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    environment = {**({"UV_DEFAULT_INDEX": index} if index else {}), **os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "uv", "--quiet", *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def build(folder: Path) -> tuple[Path, Path]:
    """Build sdist and wheel, the wheel from the sdist, and return both.

    Of a copy: setuptools leaves folders where it builds, and takes what they hold for sources the next time.
    """
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info"))
    uv("build", source, "--out-dir", folder, "--python", sys.executable, "--no-build-isolation", "--offline")
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def install(wheel: Path, folder: Path, requirements: Sequence[object] = ()) -> Path:
    """Make an environment with the wheel and what is required beside it, and return its folder of commands."""
    uv("venv", folder, "--python", sys.executable)
    python = folder / "bin" / "python"
    if requirements:
        uv(
            "pip",
            "install",
            "--python",
            python,
            "--resolution",
            "lowest-direct",
            "--only-binary",
            ":all:",
            *requirements,
        )
    uv("pip", "install", "--python", python, "--no-deps", wheel)
    return folder / "bin"


def install_only(folder: Path, *requirements: str) -> Path:
    """Make an environment with these packages alone, and return its Python."""
    uv("venv", folder, "--python", sys.executable)
    uv("pip", "install", "--python", folder / "bin" / "python", "--only-binary", ":all:", *requirements)
    return folder / "bin" / "python"


def borrow(folder: Path) -> None:
    """Let an environment find the packages of this one, after its own."""
    (own,) = (folder / "lib").glob("python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (own / "borrowed.pth").write_text("\n".join(others) + "\n")
