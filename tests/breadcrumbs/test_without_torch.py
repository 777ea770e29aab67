"""On a CPU nothing needs torch: commands on files, a worker's tasks, blame."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support import makers

ROOT = Path(__file__).parents[2]
DEVICE = ["--device", "cpu"] if torch.cuda.is_available() else []  # elsewhere `auto` must not look for a GPU by torch

COMMANDS = """
import json, sys
sys.modules["torch"] = None  # importing it fails
from client.cli import run
for command in json.loads(sys.argv[1]):
    assert run(command) == 0, command
print({"torch", "triton", "safetensors", "transformers"} & {name for name, module in sys.modules.items() if module})
"""

TASKS = """
import json, sys
sys.modules["torch"] = None
from pathlib import Path
from registry.breadcrumbs.comparing.blame import blame_model, blame_weight
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe
from registry.files.hashing import hash_file
from registry.sandboxes import tasks

folder, device = Path(sys.argv[1]), sys.argv[2]
files = {path.name: str(path) for path in (folder / "base").iterdir() if path.suffix in (".safetensors", ".json")}
imported = tasks.import_base(files, lambda done: None)
base = imported["weights_digest"]
specs = [tensor[:3] for tensor in imported["tensors"]]
patches = {hash_file(folder / name): str(folder / name) for name in ("one.safetensors", "two.safetensors")}
for sha256, path in patches.items():
    checked = tasks.check_patch(path, sha256, base, specs, files, lambda done: None)
    assert {check["status"] for check in checked["checks"]} == {"pass"}, checked
recipe = {"base": base, "alpha": "0.3", "items": [(sha256, "1") for sha256 in patches]}
hashed = {name: (path, hash_file(Path(path))) for name, path in files.items()}
(folder / "composed").mkdir()
out = str(folder / "composed")
composed = tasks.compose(hashed, patches, recipe, out, device, None, lambda done: None)
assert composed["device"] == "cpu"
compared = tasks.conflicts(patches, [tuple(patches)], "auto", None, lambda done: None)
assert len(compared["pairs"]) == 1
made = make_recipe(base, "0.3", recipe["items"])
opened = {sha256: open_patch(Path(path)) for sha256, path in patches.items()}
with open_checkpoint(folder / "base") as checkpoint:
    assert len(blame_model(checkpoint, opened, made).total) == 2
    blame_weight(checkpoint, opened, made, "scale", ())
print({"torch", "triton", "safetensors", "transformers"} & {name for name, module in sys.modules.items() if module})
"""


@pytest.fixture
def folder(tmp_path):
    base = makers.make_checkpoint(tmp_path / "base", dtypes=(torch.bfloat16, torch.float16, torch.float32))
    for seed, name in enumerate(("one", "two"), 1):
        makers.make_patch(
            base, makers.fine_tuned(base, tmp_path / f"tuned-{name}", seed), tmp_path / f"{name}.safetensors"
        )
    return tmp_path


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_commands_on_files_load_no_torch(folder):
    base, tuned, out = (str(folder / name) for name in ("base", "tuned-one", "out"))
    patch, other = str(folder / "new.safetensors"), str(folder / "two.safetensors")
    commands = [
        ["diff", base, tuned, "--output", patch],
        ["show", patch],
        ["apply", base, patch, other, "--output", out, *DEVICE],
        ["digest", out],
    ]
    assert run(COMMANDS, json.dumps(commands)) == "set()"
    assert (folder / "new.safetensors").read_bytes() == (folder / "one.safetensors").read_bytes()


def test_tasks_and_blame_load_no_torch(folder):
    assert run(TASKS, str(folder), "cpu" if DEVICE else "auto") == "set()"
