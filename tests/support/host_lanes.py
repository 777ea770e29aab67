"""The CUDA kernels on a CPU: the same C++, compiled here with a header that stands in for a GPU's lanes."""

import ctypes
import hashlib
import mmap
import os
import re
import shutil
import subprocess
import sys
import threading
from itertools import product
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch

from registry.breadcrumbs.kernels.cuda import launching

HEADER = Path(__file__).with_name("host_lanes.h")
COMPILER = next(filter(None, map(shutil.which, ("g++", "clang++"))), None)
OPTIONS = "-std=c++17 -O1 -fPIC -shared -ffp-contract=off -fno-strict-aliasing"
WARNINGS = "-Wall -Werror -Wno-unused-function -Wno-unknown-pragmas"
CHECKS = "-fsanitize=undefined -fsanitize-undefined-trap-on-error"
"""What is not defined, such as an unaligned load or a shift by too much, ends the program."""

KERNELS = {
    "compose.cu": [
        *(f"compose<{dtype}, {method}, 3>" for dtype, method in product(range(4), range(3))),
        *(f"compose<{dtype}, 0, {kind}>" for dtype, kind in product(range(4), range(3))),
    ],
    "counting.cu": ["count_values", "set_bits"],
    "select.cu": [
        "count",
        "rank",
        "mark",
        *(f"subtract<{base}, {tuned}>" for base, tuned in product(range(4), repeat=2)),
    ],
    "conflicts.cu": ["own", "census", "pairs"],
}
"""Every kernel that is launched, by its source."""


def symbol_of(expression: str) -> str:
    """Return the name under which the library has a kernel."""
    return "run_" + re.sub(r"\W+", "_", expression).strip("_")


DEVICE = torch.device("cuda")
if not (torch.cuda.is_available() and launching.can_launch(DEVICE)):
    DEVICE = torch.device("cpu")
"""Where kernels run in tests, and tensors for them are to be: on a GPU if there is one that can."""


class Lanes(Protocol):
    """Launches kernels.

    Attributes:
        launched: How many times each kernel was launched.
    """

    launched: dict[str, int]

    def launch(self, source: str, expression: str, grid: int, threads: int, *arguments: torch.Tensor | int) -> None:
        """Launch a kernel, as `launching.launch` does."""


class GpuLanes:
    """Launches kernels on the GPU, and counts them."""

    def __init__(self) -> None:
        self._launch, self._lock = launching.launch, threading.Lock()
        self.launched: dict[str, int] = {}

    def launch(self, source: str, expression: str, grid: int, threads: int, *arguments: torch.Tensor | int) -> None:
        """Launch a kernel."""
        assert expression in KERNELS[source], f"{expression} is not among those that are compiled"
        self._launch(source, expression, grid, threads, *arguments)
        with self._lock:
            self.launched[expression] = self.launched.get(expression, 0) + 1


class HostLanes:
    """Launches kernels on the CPU, with tensors that are there.

    Args:
        libraries: That of each source.

    Attributes:
        launched: How many times each kernel was launched.
    """

    def __init__(self, libraries: dict[str, Path]) -> None:
        self._libraries = {source: ctypes.CDLL(str(library)) for source, library in libraries.items()}
        self._lock = threading.Lock()
        self.launched: dict[str, int] = {}

    def launch(self, source: str, expression: str, grid: int, threads: int, *arguments: torch.Tensor | int) -> None:
        """Launch a kernel, as `launching.launch` does on a GPU."""
        assert expression in KERNELS[source], f"{expression} is not among those that are compiled"
        values = [ctypes.c_int64(_number_of(argument)) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        with self._lock:  # one block at a time, of one thread
            getattr(self._libraries[source], symbol_of(expression))(grid, threads, pointers)
            self.launched[expression] = self.launched.get(expression, 0) + 1


def fenced(size: int) -> torch.Tensor:
    """Return uint8 [size] on the CPU that ends where memory that nobody may touch begins: whoever does so is killed.

    Args:
        size: Bytes; a multiple of 64, so that its start is aligned.
    """
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    whole = np.frombuffer(memory, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(whole.ctypes.data + pages), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    return torch.from_numpy(whole[pages - size : pages])


def _number_of(argument: torch.Tensor | int) -> int:
    if isinstance(argument, torch.Tensor):
        assert argument.is_contiguous()
        assert argument.device.type == "cpu"
        return argument.data_ptr()
    return argument


def compile_kernels(source: str, folder: Path) -> Path:
    """Compile the kernels of a source for this machine, unless the folder has the library already; return it."""
    assert COMPILER is not None
    lines = [f'#include "{HEADER}"', f'#include "{launching.SOURCES / source}"']
    lines += [f"EXPORT({symbol_of(name)}, {name})" for name in KERNELS[source]]
    texts = [file.read_text() for file in (HEADER, launching.SOURCES / source, launching.SOURCES / "lanes.cuh")]
    digest = hashlib.sha256("\0".join([*lines, *texts, OPTIONS, CHECKS]).encode()).hexdigest()[:16]
    library = folder / f"lanes-{digest}.so"
    if not library.exists():
        text, made = folder / f"lanes-{os.getpid()}.cpp", folder / f"lanes-{os.getpid()}.so"
        text.write_text("\n".join(lines) + "\n")
        command = [COMPILER, *f"{OPTIONS} {WARNINGS} {CHECKS}".split(), str(text), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:5000]
        text.unlink()
        made.replace(library)
    return library


@pytest.fixture(scope="session")
def lanes_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the libraries of kernels, compiled once for all workers of a test run."""
    if sys.platform != "linux":
        pytest.skip("lanes are made of Linux's contexts")
    if COMPILER is None:
        pytest.skip("neither g++ nor clang++ is installed, so no kernel can be compiled for the CPU")
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    return {source: compile_kernels(source, folder) for source in KERNELS}


@pytest.fixture
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Lanes:
    """Have kernels launched on DEVICE: on the CPU's lanes, unless a GPU has lanes of its own."""
    found = GpuLanes() if DEVICE.type == "cuda" else HostLanes(request.getfixturevalue("lanes_libraries"))
    monkeypatch.setattr(launching, "launch", found.launch)
    return found
