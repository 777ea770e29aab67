"""The same bytes from any processor: vector code of this one, and code for the plainest one."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import hashlib, json, sys, tempfile
from pathlib import Path
import torch
from tests.support.science_makers import write_model
from registry.breadcrumbs.kernels.cpu.target import features
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe

folder, found = Path(sys.argv[1]), []
torch.manual_seed(0)
dtypes = {"a": torch.bfloat16, "b": torch.float16, "c": torch.float32, "d": torch.float64}
base = {name: torch.randn(70, 301, dtype=torch.float64).to(dtype) for name, dtype in dtypes.items()}
base["b"][0] *= 2.0**-22  # subnormals
tuned = {
    name: (tensor.double() + torch.randn(70, 301).double() ** 3 / 64).to(tensor.dtype) for name, tensor in base.items()
}
write_model(folder / "base", base)
write_model(folder / "tuned", tuned)
with open_checkpoint(folder / "base") as b, open_checkpoint(folder / "tuned") as t:
    patches = {}
    masks = [("0.85", "0.007"), ("0.5", "0", "row", "F32"), ("0.99", "0.001", "tensor", "BF16")]
    for number, params in enumerate(masks):
        info = diff(b, t, folder / str(number), MaskParams(*params))
        patches[info.sha256] = open_patch(folder / str(number))
    (folder / "out").mkdir()
    recipe = make_recipe(info.base, "-1.7", [(sha256, "1") for sha256 in patches])
    made = compose(b, patches, recipe, folder / "out", "cpu")
print(json.dumps({"wide": "+avx512vbmi2" in features(), "patches": list(patches), "weights": made.weights_digest}))
"""


def run(folder, **environment):
    folder.mkdir()
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.long
def test_the_plainest_processor_gives_the_same_bytes(tmp_path):
    ours = run(tmp_path / "ours")
    plain = run(tmp_path / "plain", NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert not plain.pop("wide")
    ours.pop("wide")
    assert ours == plain
