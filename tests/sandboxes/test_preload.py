"""The server that sandboxes are forked from: what its processes need not load any more, and what it can do without."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.files.hashing import hash_file
from registry.sandboxes import tasks
from registry.sandboxes.sandbox import Sandbox
from tests.support.makers import fine_tuned, make_checkpoint, make_patch

DEVICE = {"device": "cpu", "device_memory": None}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Arguments of the tasks: a model with tensors of several dtypes, and two patches, one of them with indices."""
    folder = tmp_path_factory.mktemp("warm")
    base = make_checkpoint(folder / "base")
    tuned = fine_tuned(base, folder / "tuned")
    options = ({"drop_bottom": "0.5", "drop_top": "0"}, {"drop_bottom": "0.99", "drop_top": "0"})
    paths = [folder / f"{number}.safetensors" for number in range(len(options))]
    for path, params in zip(paths, options, strict=True):
        make_patch(base, tuned, path, **params)
    patches = {hash_file(path): str(path) for path in paths}
    files = {path.name: str(path) for path in base.iterdir() if path.suffix in (".safetensors", ".json")}
    imported = tasks.import_base(files, lambda _: None)
    digest, (sha256, path) = imported["weights_digest"], next(iter(patches.items()))
    recipe = {"base": digest, "alpha": "0.3", "items": [(name, "1") for name in patches], "method": "ties"}
    hashed = {name: (file, hash_file(Path(file))) for name, file in files.items()}
    out = folder / "out"
    out.mkdir()
    specs = [(name, dtype, shape) for name, dtype, shape, _ in imported["tensors"]]
    shared = folder / "shared"
    shared.write_bytes(bytes(1000))
    piece = {"key": "k", "base": files, "name": "model.safetensors", "start": 1000, "stop": 2000, "out": str(shared)}
    return {
        "compose_range": {**piece, "patches": patches, "recipe": recipe},
        "compose": {"base": hashed, "patches": patches, "recipe": recipe, "out": str(out), **DEVICE},
        "check": {"path": path, "sha256": sha256, "base": digest, "tensors": specs, "files": files},
    }


@pytest.mark.parametrize("task", ["compose", "compose_range", "check"])
def test_a_task_imports_and_compiles_nothing_that_the_server_of_sandboxes_had_not(
    words: dict[str, dict[str, Any]], task: str
) -> None:
    assert Sandbox(f"tests.support.warmed:{task}", words[task]).wait(120) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_sandboxes_have_no_torch() -> None:
    assert Sandbox("tests.support.warmed:torch", {}).wait(120) == []


def test_a_warm_up_that_fails_is_told_and_leaves_sandboxes_as_they_were() -> None:
    program = (
        "import resource, tempfile\n"
        "from registry.sandboxes.sandbox import Sandbox\n"
        "tempfile.gettempdir()  # found by writing a file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # as on a full disk\n"
        "print(Sandbox('tests.support.sandboxed:answer', {'value': 'cold'}).wait(120)['value'], flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == "cold\n", done.stderr
    assert "No usable temporary directory" in done.stderr


def test_the_process_that_is_forked_has_one_thread() -> None:
    """A thread would not be in the processes that are forked, but the locks that it holds."""
    program = "import threading, registry.sandboxes.preload; print(threading.active_count())"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
