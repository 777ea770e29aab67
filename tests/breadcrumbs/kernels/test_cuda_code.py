"""The CUDA kernels are compiled for a GPU that need not be here, and the code is looked at."""

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from registry.breadcrumbs.kernels.cuda import launching
from registry.breadcrumbs.kernels.cuda.compose import MIXED
from tests.support.host_lanes import KERNELS

pytestmark = pytest.mark.skipif(not launching.has_nvrtc(), reason="cuda-core or NVRTC is not installed")

ARCH = "sm_90"
MOST = {0: 13, 1: 13, 2: 12, 3: 15}
"""Instructions for a bit that is set, by the kind of patches: values in BF16, F16, F32, or mixed."""

MOST_BESIDES = 72
"""Instructions of a warp for a patch besides, where patches are of one kind."""


def disassembler() -> Path:
    """Return Triton's nvdisasm; the test is skipped where it is not installed."""
    triton = pytest.importorskip("triton", reason="Triton, which brings a disassembler, is not installed")
    found = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    if not found.exists():
        pytest.skip("Triton came without a disassembler")
    return found


def disassemble(source: str, expression: str, folder: Path, arch: str = ARCH) -> list[str]:
    """Compile a kernel; return its instructions, and the labels between them."""
    tool, file = disassembler(), folder / "kernel.cubin"
    file.write_bytes(launching.compile_kernel(source, expression, arch).code)
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


@pytest.mark.slow
@pytest.mark.parametrize("expression", ["compose<0, 0, 0>", "compose<0, 0, 3>", "compose<2, 1, 3>", "compose<3, 2, 3>"])
@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120"])
def test_composing_keeps_to_registers_on_every_gpu_from_ampere_on(tmp_path, arch, expression):
    code = disassemble("compose.cu", expression, tmp_path, arch)
    assert any("EXIT" in line for line in code)
    assert [line for line in code if "FTZ" in line or " STL" in f" {line}" or " LDL" in f" {line}"] == []


def around(lines: list[str], place: int) -> list[str]:
    """Return the instructions of the largest loop around one of them."""
    labels = {line: at for at, line in enumerate(lines) if line.startswith(".L")}
    jumps = [(at, labels[to]) for at, line in enumerate(lines) for to in re.findall(r"BRA `\((\.L\w+)\)", line)]
    loops = [lines[start : end + 1] for end, start in jumps if start < place < end]
    return [line for line in max(loops, key=len) if not line.startswith(".L")]


@pytest.mark.parametrize("kind", list(MOST))
@pytest.mark.parametrize("dtype", [0, 3])
def test_a_bit_that_is_set_takes_few_instructions(tmp_path, dtype, kind):
    lines = disassemble("compose.cu", f"compose<{dtype}, 0, {kind}>", tmp_path)
    walks = [loop for loop in inner_loops(lines) if any("FLO" in code for code in loop)]
    assert len(walks) == (3 if kind == MIXED else 1)
    for walk in walks:
        assert len(walk) <= MOST[kind]
        loads = [code.split()[0] for code in walk if code.startswith("LD")]
        assert sorted(re.sub(r"\.U16|\.CONSTANT", "", name) for name in loads) == ["LDG.E", "LDS.64"]
    if kind != MIXED:
        place = next(at for at, code in enumerate(lines) if "FLO" in code)
        assert len(around(lines, place)) - len(walks[0]) <= MOST_BESIDES


def test_a_compiled_kernel_is_kept_for_the_next_process(tmp_path, monkeypatch):
    ask = "counting.cu", "set_bits", ARCH, tmp_path
    made = launching.find_kernel(*ask)
    monkeypatch.setattr(launching, "compile_kernel", lambda *asked: pytest.fail("it is compiled again"))
    found = launching.find_kernel(*ask)
    assert (found.code, found.symbol_mapping) == (made.code, made.symbol_mapping)


@pytest.mark.parametrize("edited", ["counting.cu", "lanes.cuh"])
def test_a_kernel_whose_text_has_changed_is_compiled_anew(tmp_path, monkeypatch, edited):
    sources = tmp_path / "sources"
    shutil.copytree(launching.SOURCES, sources)
    monkeypatch.setattr(launching, "SOURCES", sources)
    ask = "counting.cu", "set_bits", ARCH, tmp_path / "cache"
    other = SimpleNamespace(symbol_mapping={"set_bits": b"n"}, code=b"c")
    launching.find_kernel(*ask)
    (sources / edited).write_text((sources / edited).read_text() + "// changed\n")
    monkeypatch.setattr(launching, "compile_kernel", lambda *asked: other)
    assert launching.find_kernel(*ask).code == b"c"


def test_a_cache_that_cannot_be_used_is_done_without(tmp_path):
    (tmp_path / "file").touch()
    assert launching.find_kernel("counting.cu", "set_bits", ARCH, tmp_path / "file").code


def test_without_a_home_kernels_are_compiled_all_the_same(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert launching.find_kernel("counting.cu", "set_bits", ARCH).code
