"""Imports of the server that sandboxes are forked from: the science, warmed up once for all on a tiny model.

What a process runs for the first time costs it a third of a second, before it has read a byte: imports, then each
kernel. Here the tasks that people wait for are run once, so that processes which are
forked find all of it loaded. It is the CPU's alone: what a GPU's driver has begun does not survive a fork.
"""

import array
import gc
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

from registry.breadcrumbs.formats.header import TensorSpec, format_header
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.places import patch_header
from registry.files.hashing import hash_file
from registry.sandboxes import pushed, ranges, tasks  # noqa: F401  # pushed and ranges need what these run

WEIGHTS = 4096
SPEC = TensorSpec("F32", (WEIGHTS,))
CHANGED = {"few": 1, "many": WEIGHTS}  # weights of each tensor: a patch has indices of the one, a bitmask of the other


def warm_up(folder: Path) -> None:
    """Check a patch and compose it, in an empty folder."""
    base, patch, out = folder / "model.safetensors", folder / "patch.safetensors", folder / "out"
    header = format_header([(name, SPEC.dtype, SPEC.shape) for name in CHANGED])
    base.write_bytes(header + floats(WEIGHTS) * len(CHANGED))
    files = {base.name: str(base)}
    imported = tasks.import_base(files, done)
    digest = imported["weights_digest"]
    header = patch_header(dict.fromkeys(CHANGED, SPEC), CHANGED, digest, MaskParams("0", "0"))
    patch.write_bytes(header + bytes(4) + floats(1) + b"\xff" * (WEIGHTS // 8) + floats(WEIGHTS))
    sha256 = hash_file(patch)
    specs = [(name, dtype, shape) for name, dtype, shape, _ in imported["tensors"]]
    tasks.check_patch(str(patch), sha256, digest, specs, files, done)
    recipe = {"base": digest, "alpha": "1", "items": [(sha256, "1")]}
    out.mkdir()
    hashed = {base.name: (str(base), hash_file(base))}
    tasks.compose(hashed, {sha256: str(patch)}, recipe, str(out), "cpu", None, done)


def floats(count: int) -> bytes:
    """Return the bytes of so many float32."""
    return array.array("f", [1.0] * count).tobytes()


def done(_: float) -> None:
    """Take no note of progress."""


try:
    with TemporaryDirectory(prefix="crumb-") as place:
        warm_up(Path(place))
except Exception:  # no room for files, say: then each process warms up for itself
    traceback.print_exc()
gc.collect()
gc.freeze()  # what is here stays: processes need not look through it, and share its memory
