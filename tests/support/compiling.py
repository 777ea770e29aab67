"""Compiling: kernels, compiled once for all processes of a test run, where each would compile them for itself.

numba keeps what it compiled beside the sources. A new checkout has nothing of it, and the processes of pytest-xdist
start so close together that all of them would compile the same. So the one that only hands out tests does it while the
others collect them.
"""

import subprocess
import sys
import tempfile
from itertools import combinations
from pathlib import Path


def start_compiling() -> "subprocess.Popen[bytes]":
    """Start a process that compiles kernels; nobody waits for it, and it may be killed."""
    command = [sys.executable, "-m", __name__]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def compile_all(folder: Path) -> None:
    """Diff, check, compare and compose tiny models in an empty folder."""
    import torch

    from client.library import apply, diff
    from registry.breadcrumbs.comparing.conflicts import analyse
    from registry.breadcrumbs.formats.patchfile import open_patch
    from registry.sandboxes import preload  # noqa: F401  # which checks and composes when it is imported
    from tests.support.makers import fine_tuned, make_checkpoint

    for dtype in (torch.float32, torch.bfloat16):
        base = make_checkpoint(folder / str(dtype), dtypes=[dtype])
        patches = []
        for granularity in ("tensor", "row"):
            patch = folder / f"{dtype}-{granularity}.safetensors"
            tuned = fine_tuned(base, folder / f"{dtype}-{granularity}", seed=len(patches))
            diff(base, tuned, patch, granularity=granularity)
            patches.append(patch)
        for method in ("sum", "ties", "mean"):
            apply(base, patches, folder / f"{dtype}-{method}", method=method, device="cpu")
        with open_patch(patches[0]) as one, open_patch(patches[1]) as two:
            opened = {"one": one, "two": two}
            analyse(opened, list(combinations(opened, 2)), device="cpu")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        compile_all(Path(place))
