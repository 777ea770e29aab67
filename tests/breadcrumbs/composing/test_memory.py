"""Peak memory, measured in a process of its own on a tensor of 16 Mi elements."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from tests.support.science_makers import write_model

SIZE = 2**24
SCRIPT = """
import json, resource, sys
from pathlib import Path
from registry.breadcrumbs.checking.check import check_patch
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.composing.ranges import ComposedWeights
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def check(folder):
    with open_checkpoint(folder / "base") as base:
        return check_patch(folder / "patch", digest_checkpoint(base), base.tensors)

def merge(folder):
    (folder / "out").mkdir()
    with open_checkpoint(folder / "base") as base, open_patch(folder / "patch") as patch:
        recipe = make_recipe(patch.info.base, "0.3", [("a" * 64, "1")])
        compose(base, {"a" * 64: patch}, recipe, folder / "out", "cpu")

def read(folder):
    with open_checkpoint(folder / "base") as base, open_patch(folder / "patch") as patch:
        recipe = make_recipe(patch.info.base, "0.3", [("a" * 64, "1")])
        for piece in ComposedWeights(base, {"a" * 64: patch}, recipe).read("model.safetensors", 1):
            pass

def make(folder):
    params = MaskParams(*sys.argv[4:])
    with open_checkpoint(folder / "base") as base, open_checkpoint(folder / "tuned") as tuned:
        diff(base, tuned, folder / "patch", params)

steps = {"make": make, "check": check, "merge": merge, "read": read}
used = {}
for folder in (Path(sys.argv[1]), Path(sys.argv[2])):
    for name in sys.argv[3].split(","):
        before = peak()
        steps[name](folder)
        used[name] = peak() - before
print(json.dumps(used))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    small, large = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("large")
    for folder, size in ((small, 1000), (large, SIZE)):
        base = (torch.arange(size, dtype=torch.int32) % 8191).float().div_(8191).bfloat16()
        write_model(folder / "base", {"w": base.reshape(-1, 8)})
        (folder / "tuned").mkdir()
        save_file({"w": (base * 1.25 + 0.01).reshape(-1, 8)}, folder / "tuned/model.safetensors")
    return small, large


def measure(folders, steps, *params):
    command = [sys.executable, "-c", SCRIPT, *map(str, folders), steps, *params]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["row", "tensor"])
def test_diff_check_and_compose_stay_within_their_memory(folders, granularity):
    """The bound to meet is three of the tensor in float64; it is kept by far."""
    used = measure(folders, "make", "0.5", "0", granularity)
    assert used["make"] < 5 * SIZE + 96 * 2**20 < 3 * 8 * SIZE
    for folder in folders:
        for old in (folder / "out").glob("*"):
            old.unlink()
        if (folder / "out").exists():
            (folder / "out").rmdir()
    used = measure(folders, "check,merge")
    assert used["check"] < 32 * 2**20
    assert used["merge"] < 96 * 2**20
    assert measure(folders, "read")["read"] < 64 * 2**20
