"""Headers at their limits: accepted within measured time and memory, and refused beyond."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from registry.breadcrumbs.formats.checkpoint import HEADERS, open_checkpoint
from registry.breadcrumbs.formats.header import CHECKPOINT_LIMITS, PATCH_LIMITS, TensorSpec, format_header
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.places import patch_header
from registry.errors import InvalidCheckpoint
from tests.support.many import name_of, write_many

MEASURE = """
import json, resource, sys, time
from pathlib import Path
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, began = peak(), time.process_time()
with {"patch": open_patch, "checkpoint": open_checkpoint}[sys.argv[1]](Path(sys.argv[2])) as opened:
    held = len(opened.info.tensors if sys.argv[1] == "patch" else opened.tensors)
print(json.dumps([held, peak() - before, time.process_time() - began]))
"""


def measure(kind: str, file: Path) -> tuple[int, int, float]:
    """Open a file in a process of its own: how many tensors it has, and the bytes and seconds that this takes."""
    ask = [sys.executable, "-c", MEASURE, kind, str(file)]
    held, memory, seconds = json.loads(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)
    return held, memory, seconds


def sparse_file(file: Path, header: bytes, data: int) -> int:
    """Write a header and a hole of so many bytes after it; return the bytes of the JSON text."""
    with file.open("wb") as out:
        out.write(header)
        out.truncate(len(header) + data)
    return len(header) - 8


def test_a_patch_of_140_000_entries_is_opened_in_little_memory(tmp_path):
    count, spec = 70_000, TensorSpec("BF16", (2048, 7168))
    names = sorted(
        f"model.layers.{number // 1152}.{name_of(number).partition('mlp.')[2]}.{number}" for number in range(count)
    )
    nnz = dict.fromkeys(names, 1_000_000)
    header = patch_header(dict.fromkeys(names, spec), nnz, f"sha256:{'0' * 64}", MaskParams())
    size = sparse_file(tmp_path / "p.safetensors", header, count * (spec.numel // 8 + 2 * 1_000_000))
    held, memory, seconds = measure("patch", tmp_path / "p.safetensors")
    assert held == count
    assert memory < 5 * size  # 178 MB of a header of 25 before
    assert seconds < 20  # one or two on a free machine


@pytest.mark.slow
def test_a_checkpoint_of_a_million_tensors_is_opened_in_a_third_of_a_gigabyte(tmp_path):
    count = CHECKPOINT_LIMITS.entries
    header = format_header([(f"{number:x}", "U8", ()) for number in range(count)])
    assert sparse_file(tmp_path / "m.safetensors", header, count) <= CHECKPOINT_LIMITS.header_bytes
    held, memory, _ = measure("checkpoint", tmp_path / "m.safetensors")
    assert held == count
    assert memory < 400 * 10**6  # 866 MB before


def test_the_limits_are_those_that_the_specification_asks_for():
    for limits in (CHECKPOINT_LIMITS, PATCH_LIMITS):
        assert limits.header_bytes >= 64_000_000
        assert limits.entries >= 1_000_000


def test_all_headers_of_a_checkpoint_together_are_bounded(tmp_path):
    base = write_many(tmp_path / "base", 60, shards=2 * HEADERS)
    longest = max(int.from_bytes(file.read_bytes()[:8], "little") for file in base.glob("*.safetensors"))
    limits = dataclasses.replace(CHECKPOINT_LIMITS, header_bytes=10 * longest)
    open_checkpoint(base, limits).close()
    (base / "model.safetensors.index.json").unlink()
    limits = dataclasses.replace(CHECKPOINT_LIMITS, header_bytes=longest)
    with pytest.raises(InvalidCheckpoint, match=f"more than the {HEADERS * longest} bytes allowed"):
        open_checkpoint(base, limits)
