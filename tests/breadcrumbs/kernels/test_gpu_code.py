"""The GPU kernels are compiled for a GPU that need not be here, and the code is looked at."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

SCRIPT = """
import json, re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from registry.breadcrumbs.kernels import constants, gpu

POINTERS = {"arena": "*u8", "base": "*u8", "out": "*u8", "table": "*i64", "scales": "*fp64", "starts": "*i32",
            "lost": "*i64", "size": "i32", "patches": "i32", "blocks": "i32"}
CUTS = {"size": "i64", "bottom": "i32", "bottom_ties": "i32", "top": "i32", "top_ties": "i32"}
CHOICES = {"DTYPE": "constexpr", "METHOD": "constexpr"}
KERNELS = [(gpu._compose, POINTERS | CHOICES, {"DTYPE": code, "METHOD": method})
           for code in gpu.CODES.values() for method in constants.METHODS.values()] + [
    (gpu._set_bits, {"indices": "*i32", "mask": "*i32", "size": "i32", "first": "i64"}, {}),
    (gpu._count_high, {"delta": "*fp32", "high": "*i64", "size": "i64"}, {}),
    (gpu._count_low, {"delta": "*fp32", "low": "*i64", "wanted": "i32", "size": "i64"}, {}),
    (gpu._count_ties, {"delta": "*fp32", "ties": "*i64", "size": "i64", "bottom": "i32", "top": "i32"}, {}),
    (gpu._mark, {"delta": "*fp32", "before": "*i64", "mask": "*u8", "counts": "*i64"} | CUTS, {}),
    (gpu._gather, {"delta": "*fp32", "before": "*i64", "starts": "*i64", "values": "*fp32"} | CUTS, {}),
]
found = []
for kernel, signature, constants in KERNELS:
    source = ASTSource(fn=kernel, signature=signature | {"B": "constexpr"}, constexprs=constants | {"B": gpu.BLOCK})
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    ptx = made.asm["ptx"]
    found.append({"name": kernel.__name__, "code": len(made.asm["cubin"]), "floats": sorted(
        set(re.findall(r"^.*?((?:add|sub|mul|div|fma|cvt)[a-z0-9.]*[.]f(?:16|32|64)[a-z0-9.]*)", ptx, re.M)))})
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_and_flush_no_subnormals(tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 18
    for kernel in found:
        assert kernel["code"] > 0
        for operation in kernel["floats"]:
            assert "ftz" not in operation, f"{kernel['name']}: {operation}"
            assert "approx" not in operation
            if not operation.startswith("cvt"):
                assert operation.endswith("f64"), f"{kernel['name']} calculates in {operation}"
