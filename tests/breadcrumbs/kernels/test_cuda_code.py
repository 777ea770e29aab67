"""The CUDA kernels are compiled for a GPU that need not be here, and the code is looked at."""

import re
import subprocess
from pathlib import Path

import pytest

from registry.breadcrumbs.kernels.cuda import launching
from tests.support.host_lanes import KERNELS

pytestmark = pytest.mark.skipif(not launching.has_nvrtc(), reason="cuda-core or NVRTC is not installed")

ARCH = "sm_90"
MOST = {"BF16": 13, "F16": 15, "F32": 12}
"""Instructions for a bit that is set, by the dtype of the values; a half is widened in two steps."""


def disassembler() -> Path:
    """Return Triton's nvdisasm; the test is skipped where it is not installed."""
    triton = pytest.importorskip("triton", reason="Triton, which brings a disassembler, is not installed")
    found = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    if not found.exists():
        pytest.skip("Triton came without a disassembler")
    return found


def disassemble(source: str, expression: str, folder: Path) -> list[str]:
    """Compile a kernel; return its instructions, and the labels between them."""
    tool, file = disassembler(), folder / "kernel.cubin"
    file.write_bytes(launching.compile_kernel(source, expression, ARCH).code)
    done = subprocess.run([tool, "-c", file], capture_output=True, text=True, check=True)
    lines = re.findall(r"^(\.L\w+):|^\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", done.stdout, re.M)
    return [label or code for label, code in lines]


def inner_loops(lines: list[str]) -> list[list[str]]:
    """Return the instructions of each loop that has no other label inside."""
    found = []
    for at, line in enumerate(lines):
        if line.startswith(".L"):
            end = next((to for to in range(at + 1, len(lines)) if lines[to].startswith(".L") or "BRA" in lines[to]), 0)
            if f"`({line})" in lines[end]:
                found.append(lines[at + 1 : end + 1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "expression"), [(source, name) for source, names in KERNELS.items() for name in names]
)
def test_a_kernel_compiles_and_flushes_no_subnormals(tmp_path, source, expression):
    code = "\n".join(disassemble(source, expression, tmp_path))
    assert "EXIT" in code
    assert [line for line in code.split("\n") if "FTZ" in line and "F2I" not in line] == []  # a division of integers
    for operation in re.findall(r"\b(?:FADD|FMUL|MUFU)\S*", code):
        subtracting = expression.startswith("subtract") and operation == "FADD"
        dividing = operation.startswith("MUFU.RCP")  # which begins with a guess
        assert subtracting or dividing, f"{expression} calculates {operation}"


@pytest.mark.parametrize("dtype", range(4))
def test_a_bit_that_is_set_takes_few_instructions(tmp_path, dtype):
    loops = inner_loops(disassemble("compose.cu", f"compose<{dtype}, 0>", tmp_path))
    walks = [loop for loop in loops if any("FLO" in code for code in loop)]
    assert len(walks) == len(MOST)
    for loop, most in zip(sorted(walks, key=len), sorted(MOST.values()), strict=True):
        assert len(loop) <= most
        loads = [code for code in loop if re.match(r"(?:@!?P\d )?LD", code)]
        assert sorted(re.sub(r"\.U16|\.CONSTANT", "", code.split()[0]) for code in loads) == ["LDG.E", "LDS.64"]
