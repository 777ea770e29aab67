"""Every dtype of safetensors travels; only four of them have a task direction."""

import struct
from pathlib import Path

import pytest
from safetensors import safe_open

from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.header import BITS, FLOATS
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import Item, make_recipe
from registry.errors import CheckpointMismatch, InvalidCheckpoint
from tests.support.science_makers import build

OTHERS = sorted(BITS.keys() - FLOATS)


def write(path: Path, weight: float, other: bytes = b"") -> Path:
    """Write a file with a weight and a tensor of 8 elements of every other dtype."""
    entries = [("w", "F32", [1], struct.pack("<f", weight))]
    for dtype in OTHERS:
        raw = bytes(range(BITS[dtype]))
        entries.append((f"t.{dtype}", dtype, [8], other + raw[len(other) :]))
    path.write_bytes(build(None, sorted(entries, key=lambda entry: entry[0])))
    return path


def test_tensors_of_every_dtype_are_carried(tmp_path):
    base, tuned = write(tmp_path / "b.safetensors", 1), write(tmp_path / "t.safetensors", 2)
    with safe_open(base, "np") as file:  # the library opens them, too
        assert len(file.keys()) == len(OTHERS) + 1
    with open_checkpoint(base) as before, open_checkpoint(tuned) as after:
        info = diff(before, after, tmp_path / "p", MaskParams("0", "0"))
        with open_patch(tmp_path / "p") as patch:
            recipe = make_recipe(info.base, "1", [Item(info.sha256, "1")])
            (tmp_path / "out").mkdir()
            compose(before, {info.sha256: patch}, recipe, tmp_path / "out", "cpu")
    assert (tmp_path / "out/b.safetensors").read_bytes() == tuned.read_bytes()


def test_a_message_names_the_kind_of_what_differs(tmp_path):
    base, tuned = write(tmp_path / "b.safetensors", 1), write(tmp_path / "t.safetensors", 2, b"\x07")
    with open_checkpoint(base) as before, open_checkpoint(tuned) as after:
        with pytest.raises(CheckpointMismatch, match=r"^BOOL and C64 and F4 and .*F8_E4M3 .* tensors differ: "):
            diff(before, after, tmp_path / "p")
        keep = [f"t.{dtype}" for dtype in OTHERS if dtype != "F8_E4M3"]
        with pytest.raises(
            CheckpointMismatch, match=r"^F8_E4M3 tensors differ: 't\.F8_E4M3'\. They are quantised weights"
        ):
            diff(before, after, tmp_path / "p", exclude=keep)


def test_elements_that_do_not_fill_whole_bytes_are_refused(tmp_path):
    (tmp_path / "b.safetensors").write_bytes(build(None, [("t", "F4", [3], b"\x00")]))
    with pytest.raises(InvalidCheckpoint, match="does not fill whole bytes"):
        open_checkpoint(tmp_path / "b.safetensors")
