"""What holds for the source as a whole: who imports what, and what is never called."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

from tests.support.sources import BENCHMARKS, ROOT, SOURCES

# Readers that run or believe what a file says. Strangers' bytes meet the parser in registry/breadcrumbs only.
BANNED_CALLS = {"torch.load", "torch.hub.load", "eval", "exec", "os.system"}
BANNED_CALLS |= {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"}
BANNED_PARTS = {"torch.sparse"}
BANNED_MODULES = {"pickle", "dill", "joblib", "shelve", "marshal", "yaml", "safetensors"}


# by safe_load, or nodes alone; the other loaders are banned there, too
READS_YAML = [ROOT / "registry/documents/front_matter.py", ROOT / "client/mergekit/yaml.py"]


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the names of the top-level modules it loaded."""
    program = f"{code}\nimport sys; print('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_client_loads_neither_database_nor_server() -> None:
    assert not loaded_by("import client; client.Client") & {
        "sqlalchemy",
        "fastapi",
        "starlette",
        "alembic",
        "numpy",
        "torch",
    }


def test_importing_the_client_alone_loads_next_to_nothing() -> None:
    assert not loaded_by("import client") & {"httpx2", "pydantic", "rich", "torch"}


def test_work_on_files_here_loads_nothing_that_talks_to_a_registry() -> None:
    loaded = loaded_by("import client.cli, client.actions.patching, registry.breadcrumbs.composing.compose")
    assert not loaded & {"httpx2", "pydantic", "torch"}


def test_help_loads_no_torch() -> None:
    code = "import sys, contextlib, io\nfrom client.cli import run\nwith contextlib.redirect_stdout(io.StringIO()):"
    loaded = loaded_by(f"{code}\n    assert run(['--help']) == 0")
    assert not loaded & {"torch", "numpy", "sqlalchemy", "fastapi", "transformers", "huggingface_hub"}


def test_server_and_worker_load_no_numpy_for_only_disposable_processes_compute() -> None:
    loaded = loaded_by("import registry.cli, registry.server.app, registry.worker.worker")
    assert not loaded & {"numpy", "numba", "torch", "transformers"}
    assert not loaded & {"boto3", "botocore"}, "only a registry with a bucket needs them"
    assert not loaded_by("import registry.tracing") & {"opentelemetry"}, "only REGISTRY_TRACES needs it"


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` of such an expression, or an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        whole = dotted(node.value)
        return f"{whole}.{node.attr}" if whole else ""
    return ""


def dangers(source: str) -> list[str]:
    """Return every use of a reader that executes or trusts what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in BANNED_MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            full = {f"{module}.{alias.name}" for alias in node.names} | {module}
            found += [module for name in [module] if name.split(".")[0] in BANNED_MODULES]
            found += sorted(full & (BANNED_PARTS | BANNED_CALLS))
        elif isinstance(node, ast.Attribute) and dotted(node) in BANNED_PARTS:
            found.append(dotted(node))
        elif isinstance(node, ast.Call):
            if (name := dotted(node.func)) in BANNED_CALLS:
                found.append(name)
            found += [f"{word.arg}=" for word in node.keywords if word.arg in ("allow_pickle", "trust_remote_code")]
            shell = [word for word in node.keywords if word.arg == "shell"]
            found += ["shell=" for word in shell if not (isinstance(word.value, ast.Constant) and not word.value.value)]
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_here_executes_or_trusts_what_it_reads(file: Path) -> None:
    assert dangers(file.read_text("utf-8")) == (["yaml"] if file in READS_YAML else [])


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from yaml import load",
        "import torch\ntorch.load('x')",
        "from torch import load, sparse\nfrom torch import sparse",
        "torch.sparse.mm(a, b)",
        "np.load(f, allow_pickle=True)",
        "subprocess.run('ls', shell=True)",
    ],
)
def test_the_check_above_sees_what_it_should(source: str) -> None:
    assert dangers(source)


SERVER_SIDE = {"registry.cli", "registry.server", "registry.services", "registry.worker"}
IMPORTERS = {  # who may import a room or a library; pyproject.toml has the layers
    "registry.breadcrumbs": {
        "registry.documents",
        "registry.services",
        "registry.sandboxes",
        "registry.worker",
        "client",
    },
    "registry.db": SERVER_SIDE,
    "registry.storage": SERVER_SIDE | {"registry.sandboxes"},
    "registry.outside.hub": {"registry.sandboxes", "registry.server", "registry.services", "registry.worker"},
    "registry.outside.egress": {"registry.outside", "registry.services.events", "registry.worker.courier"},
    "registry.outside.primary": {"registry.cli", "registry.worker.mirror"},
    "registry.outside.issuers": {"registry.outside.provider", "registry.server.edge.providers"},
    "registry.outside.provider": {"registry.server.edge.providers"},
    "registry.outside.mail": {"registry.worker.mailer"},
    "registry.documents": {"registry.sandboxes", "registry.server", "registry.services", "registry.worker", "client"},
    "registry.services": {"registry.cli", "registry.server", "registry.worker"},
    "registry.server": {"registry.cli"},
    "registry.server.pages": {"registry.server.app"},
    "registry.worker": {"registry.cli"},
    "registry.sandboxes": {"registry.cli", "registry.server", "registry.worker"},
    "registry.settings": {"registry.cli", "registry.server", "registry.worker"},
    "registry.schemas": {"registry.server", "registry.worker.mirror", "client"},
    "torch": {  # for GPUs alone; what runs on a CPU does without it
        "registry.breadcrumbs.comparing.cuda_engine",
        "registry.breadcrumbs.comparing.torch_engine",
        "registry.breadcrumbs.composing.gpu.direct",
        "registry.breadcrumbs.composing.gpu.engine",
        "registry.breadcrumbs.composing.gpu.held",
        "registry.breadcrumbs.composing.gpu.launches",
        "registry.breadcrumbs.composing.gpu.residents",
        "registry.breadcrumbs.composing.gpu.work",
        "registry.breadcrumbs.composing.gpu.tensor_arena",
        "registry.breadcrumbs.diffing.gpu_masks",
        "registry.breadcrumbs.kernels.cuda",
        "registry.breadcrumbs.kernels.devices",
        "registry.breadcrumbs.kernels.dtypes",
        "registry.breadcrumbs.kernels.gpu",
        "client.demo.models",
        "client.demo.tasks",
        "client.live",
    },
    "numpy": {
        "registry.breadcrumbs.checking",
        "registry.breadcrumbs.comparing",
        "registry.breadcrumbs.composing",
        "registry.breadcrumbs.deltas",
        "registry.breadcrumbs.diffing",
        "registry.breadcrumbs.formats.arrays",
        "registry.breadcrumbs.kernels",
        "client.live.serving",
    },
    "llvmlite": {
        "registry.breadcrumbs.kernels.cpu",
        "registry.breadcrumbs.kernels.machine_code",
    },
    "numba": {"registry.breadcrumbs.kernels.cpu"},
    "triton": {"registry.breadcrumbs.kernels.gpu"},
    "cuda": {"registry.breadcrumbs.kernels.cuda"},
    "sqlalchemy": {"registry.db", "registry.server", "registry.services", "registry.worker"},
    "alembic": {"registry.db"},
    "fastapi": {"registry.server"},
    "starlette": {"registry.server"},
    "jinja2": {"registry.server.pages"},
    "markdown_it": {"registry.server.pages"},
    "markupsafe": {"registry.server.pages"},
    "nh3": {"registry.server.pages"},
    "limits": {"registry.server.edge.limits"},
    "typer": {"registry.cli", "client"},
    "httpx2": {"client", "registry.outside"},  # with smtplib the only ways out of the server
    "smtplib": {"registry.outside.mail"},
    "huggingface_hub": {"client", "registry.documents.cards"},  # which writes cards
    "authlib": {"registry.outside.provider"},
    "joserfc": {"registry.outside.issuers", "registry.outside.provider"},
    "boto3": {"registry.storage.s3"},
    "botocore": {"registry.storage.bucket", "registry.storage.multipart", "registry.storage.s3"},
    "cryptography": {"registry.documents.signing.bundles"},
    "model_signing": {"registry.documents.signing.bundles"},
    "optuna": {"client.trials.sampling"},
    "opentelemetry": {"registry.tracing"},
    "ray": {"registry.worker.cluster.driver"},
}


def layer_of(file: Path) -> str:
    """Return the layer that a source file is in: `registry.<room>`, or `client` for all of the client."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:2]) if parts[0] == "registry" else parts[0]


@functools.cache
def imports(*packages: str) -> dict[str, frozenset[str]]:
    """Return what each module of packages imports: lazily, too, and for type checkers alone."""
    graph = grimp.build_graph(*packages, include_external_packages=True)
    return {name: frozenset(graph.find_modules_directly_imported_by(name)) for name in graph.modules}


def within(module: str, room: str) -> bool:
    """Say whether a module is a room, or in it."""
    return module == room or module.startswith(f"{room}.")


def circle(arrows: dict[str, set[str]]) -> list[str] | None:
    """Return names that import each other in a circle, if any do."""
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return None


@pytest.mark.parametrize("imported", IMPORTERS)
def test_a_room_or_library_is_imported_where_it_may_be_and_nowhere_else(imported: str) -> None:
    graph = imports("registry", "client")
    users = {name for name, others in graph.items() if any(within(other, imported) for other in others)}
    outside = {name for name in users if not within(name, imported)}
    assert outside, f"nobody imports {imported}"
    assert {name for name in outside if not any(within(name, room) for room in IMPORTERS[imported])} == set()


@pytest.mark.parametrize("packages", [("registry", "client"), ("benchmarks",)], ids=" and ".join)
def test_modules_do_not_import_each_other_in_circles(packages: tuple[str, ...]) -> None:
    assert circle({name: set(others) for name, others in imports(*packages).items()}) is None


ROOMS = sorted({file.parent for file in (*SOURCES, *BENCHMARKS)})


@pytest.mark.parametrize("folder", ROOMS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_rooms_do_not_import_each_other_in_circles(folder: Path) -> None:
    package = ".".join(folder.relative_to(ROOT).parts)
    depth = package.count(".") + 2
    arrows: dict[str, set[str]] = {}
    packages = ("benchmarks",) if within(package, "benchmarks") else ("registry", "client")
    for name, others in imports(*packages).items():
        for other in others:
            if within(name, package) and within(other, package) and package not in (name, other):
                start, end = (".".join(module.split(".")[:depth]) for module in (name, other))
                arrows.setdefault(start, set()).update({end} - {start})
    assert circle(arrows) is None


@pytest.mark.parametrize("layer", sorted({layer_of(file) for file in SOURCES}))
def test_a_class_has_a_name_of_its_own_within_its_layer(layer: str) -> None:
    places: dict[str, list[str]] = {}
    for file in SOURCES:
        if layer_of(file) == layer:
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_room_holds_more_than_twelve_modules() -> None:
    rooms = [room for room in ROOMS if room.name != "versions"]
    crowded = {room: len([file for file in room.glob("*.py") if file.stem != "__init__"]) for room in rooms}
    assert {str(room): count for room, count in crowded.items() if count > 12} == {}


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {file.parent for file in SOURCES}
    renamed = {str(ROOT / folder): name for name, folder in project["package-dir"].items()}
    names = {renamed.get(str(folder), ".".join(folder.relative_to(ROOT).parts)) for folder in folders}
    assert names == set(project["packages"])


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    names = [re.match(r"[A-Za-z0-9_.-]+(?=[=<>])", line) for line in lines]
    pinned = {name[0].lower().replace("_", "-") for name in names if name}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    asked = {re.match(r"[A-Za-z0-9_.-]+", line)[0].lower().replace("_", "-") for line in wanted}  # type: ignore[index]
    assert asked - {project["name"]} <= pinned
