"""A missing library is one sentence that names the extra: in `crumb`, in `crumb-server` and in Python."""

import ast
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from registry.errors import MissingExtra
from registry.extras import EXTRAS, naming_extras

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

# Runs a command, or nothing, where some libraries are not installed.
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({hidden!r}))
from {module} import main
sys.argv = {arguments!r}
main()
"""


def brought_by(requirements: list[str]) -> set[str]:
    """Return the distributions that requirements install, with what those need in turn."""
    found, waiting = set[str](), list(requirements)
    while waiting:
        wanted = Requirement(waiting.pop())
        name = canonicalize_name(wanted.name)
        if name == PROJECT["name"]:
            waiting += [line for extra in wanted.extras for line in PROJECT["optional-dependencies"][extra]]
        elif name not in found and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            found.add(name)
            with suppress(metadata.PackageNotFoundError):  # Triton, where torch came without CUDA
                waiting += [line for line in metadata.requires(name) or () if "extra ==" not in line]
    return found


def imported() -> set[str]:
    """Return the top-level names of the libraries that client and registry import anywhere."""
    trees = [
        ast.parse(file.read_text("utf-8")) for room in ("client", "registry") for file in (ROOT / room).rglob("*.py")
    ]
    names = {
        alias.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    names |= {node.module or "" for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    others = {"vllm", "kvikio"}  # the first loads our plugin, and is there then; the second is used where it is there
    return {name.partition(".")[0] for name in names} - {"client", "registry", *others, *sys.stdlib_module_names}


def test_every_library_comes_with_the_client_or_with_the_extra_that_the_table_names() -> None:
    base = brought_by(PROJECT["dependencies"])
    homes = metadata.packages_distributions()
    wrong = {}
    for library in imported():
        dists = {canonicalize_name(name) for name in homes.get(library, [library])}
        if not dists & base:
            extra = EXTRAS.get(library)
            if extra is None or not dists & brought_by([f"{PROJECT['name']}[{extra}]"]):
                wrong[library] = extra
    assert wrong == {}


def test_the_client_alone_is_small() -> None:
    heavy = {"alembic", "cryptography", "fastapi", "numba", "numpy", "sqlalchemy", "torch", "transformers"}
    base = brought_by(PROJECT["dependencies"])
    assert not base & heavy
    assert len(base) <= 35


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("crumb diff base tuned -o patch.safetensors", "local"),
        ("crumb demo", "demo"),
        ("crumb tune base tuned --sampler optuna -- true", "optuna"),
        ("crumb key make private.pem public.pem", "sign"),
        ("crumb-server serve", "server"),
        ("crumb-server token create alice", "server"),
    ],
)
def test_a_command_names_the_extra_that_it_lacks(command: str, extra: str, tmp_path: Path) -> None:
    program, *arguments = command.split()
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
    code = WITHOUT.format(
        hidden=sorted(EXTRAS),
        module="client.cli" if program == "crumb" else "registry.cli",
        arguments=[program, *arguments],
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.endswith(f"run `pip install 'breadcrumb-registry[{extra}]'`.\n")
    assert done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"base", "tuned"}


@pytest.mark.parametrize("module", ["client.cli", "registry.cli"])
def test_help_and_version_need_no_extra(module: str) -> None:
    code = WITHOUT.format(hidden=sorted(EXTRAS), module=module, arguments=["program", "--help"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_in_python_it_is_an_error_of_ours_and_an_import_error() -> None:
    with pytest.raises(MissingExtra, match=r"needs numba.*breadcrumb-registry\[local\]") as caught, naming_extras():
        raise ModuleNotFoundError("No module named 'numba.core'", name="numba.core")
    assert isinstance(caught.value, ImportError)


def test_other_missing_modules_stay_what_they_are() -> None:
    with pytest.raises(ModuleNotFoundError, match="somebody"), naming_extras():
        raise ModuleNotFoundError("No module named 'somebody.elses'", name="somebody.elses")
