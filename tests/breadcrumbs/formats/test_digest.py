"""The weights digest, which needs nothing but the standard library."""

import hashlib
import subprocess
import sys

import pytest
import torch

from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint, digest_files, weights_digest
from registry.errors import InvalidCheckpoint
from registry.files.folders import INDEX
from tests.support import makers

ONE_BYTE = hashlib.sha256(b"\x01").hexdigest()


def test_a_weights_digest_is_the_sha256_of_sorted_lines():
    lines = [("b", "BF16", (2, 3), "1" * 64), ("a", "F32", (), "0" * 64), ("é", "U8", [0], ONE_BYTE)]
    text = f"a\tF32\t\t{'0' * 64}\nb\tBF16\t2,3\t{'1' * 64}\né\tU8\t0\t{ONE_BYTE}\n"
    assert weights_digest(lines) == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert weights_digest(reversed(lines)) == "sha256:5cc592713a8af97b2e545b2d703f9a3711f71dc4a24070ca4c16350557c8f353"


def test_names_sort_by_their_bytes():
    lines = [(name, "U8", (1,), ONE_BYTE) for name in ("\U00010000", "\uffee", "Z", "a")]
    text = "".join(f"{name}\tU8\t1\t{ONE_BYTE}\n" for name in ("Z", "a", "\uffee", "\U00010000"))
    assert weights_digest(lines) == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", ["a\tb", "a\nb"])
def test_a_name_that_could_forge_a_line_is_refused(name):
    with pytest.raises(InvalidCheckpoint, match="TAB or LF"):
        weights_digest([(name, "U8", (1,), ONE_BYTE)])


@pytest.mark.parametrize("shards", [1, 3])
def test_the_digest_of_a_folders_files_is_that_of_its_checkpoint(tmp_path, shards):
    folder = makers.make_checkpoint(tmp_path / "m", shards=shards, dtypes=(torch.bfloat16, torch.float64))
    with open_checkpoint(folder) as checkpoint:
        assert digest_files({file.name: file for file in folder.iterdir()}) == digest_checkpoint(checkpoint)


def test_a_broken_config_changes_no_digest(tmp_path):
    folder = makers.make_checkpoint(tmp_path / "m")
    files = {file.name: file for file in folder.iterdir()}
    digest = digest_files(files)
    (folder / "config.json").write_text("{")
    assert digest_files(files) == digest


@pytest.mark.parametrize("kind", ["nothing", "twice", "single", "index", "gone"])
def test_the_weights_of_unsound_folders_have_no_digest(tmp_path, kind):
    folder = makers.make_checkpoint(tmp_path / "m", shards=2)
    first = folder / "model-00001-of-00002.safetensors"
    if kind == "nothing":
        folder = tmp_path
    elif kind == "twice":
        (folder / INDEX).unlink()
        for number, name in enumerate(("x.safetensors", "y.safetensors"), 1):
            (folder / f"model-0000{number}-of-00002.safetensors").rename(folder / name)
    elif kind == "single":
        (folder / "model.safetensors").write_bytes(first.read_bytes())
    elif kind == "index":
        (folder / INDEX).write_text('{"weight_map": [1]}')
    else:
        first.unlink()
    with pytest.raises(InvalidCheckpoint):
        digest_files({file.name: file for file in folder.iterdir()})


WITHOUT_LIBRARIES = """
import sys
for name in ("numpy", "numba", "llvmlite", "torch", "triton", "safetensors"):
    sys.modules[name] = None  # importing it fails
from pathlib import Path
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint, digest_files
from registry.breadcrumbs.formats.patchfile import open_patch
import client.actions.pulling.pull

model, patch = map(Path, sys.argv[1:])
with open_checkpoint(model) as checkpoint:
    print(digest_checkpoint(checkpoint))
print(digest_files({path.name: path for path in model.iterdir()}))
with open_patch(patch) as opened:
    print(opened.info.base)
"""


def test_models_are_opened_and_verified_without_numpy_numba_and_torch(tmp_path):
    base = makers.make_checkpoint(tmp_path / "base", shards=2)
    makers.make_patch(base, makers.fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch")
    command = [sys.executable, "-c", WITHOUT_LIBRARIES, str(base), str(tmp_path / "patch")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with open_checkpoint(base) as checkpoint:
        assert done.stdout.split() == [digest_checkpoint(checkpoint)] * 3
