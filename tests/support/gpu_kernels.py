"""The Triton kernels: on a GPU where there is one, and in Triton's interpreter on the CPU elsewhere."""

import math
from fractions import Fraction

import pytest
import torch

from registry.breadcrumbs.composing import compose as compose_module
from registry.breadcrumbs.composing import held
from registry.breadcrumbs.composing.gpu.residents import Residents
from registry.breadcrumbs.kernels import constants

CUDA = torch.cuda.is_available()

gpu, gpu_engine, gpu_masks = (
    pytest.importorskip(f"registry.breadcrumbs.{name}", reason="Triton is not installed", exc_type=ModuleNotFoundError)
    for name in ("kernels.gpu", "composing.gpu.engine", "diffing.gpu_masks")
)
GpuEngine = gpu_engine.GpuEngine

DEVICE = "cuda" if CUDA else "cpu"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
FORMS = {torch.bfloat16: (8, -133, 128), torch.float16: (11, -24, 16), torch.float32: (24, -149, 128)}
"""Of each dtype: digits; exponents of the smallest subnormal and of what is just too large."""
LEAST = {dtype: 2.0**least for dtype, (_, least, _) in FORMS.items()} | {torch.float64: 2.0**-1074}
ALL_DTYPES = pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=list(DTYPES))
BLOCK = 64
GUARD = 64


def nearest(value: float | Fraction, dtype: torch.dtype) -> float:
    """Round a number that is no NaN to a dtype, nearest even, in fractions: no float arithmetic is trusted."""
    if value in (math.inf, -math.inf):
        return value
    digits, least, most = FORMS[dtype]
    unit = Fraction(2) ** max(math.frexp(value)[1] - digits, least)
    rounded = abs(round(Fraction(value) / unit) * unit)
    return math.copysign(math.inf if rounded >= Fraction(2) ** most else float(rounded), value)


def keep_bases(monkeypatch: pytest.MonkeyPatch) -> Residents:
    """Let compositions use a GPU that keeps bases, and return those that it keeps."""
    kept = Residents()
    monkeypatch.setattr(gpu_engine, "RESIDENTS", kept)
    monkeypatch.setattr(gpu_engine, "find_gpu", lambda memory: (torch.device(DEVICE), 2**27))
    for module in (compose_module, held):
        monkeypatch.setattr(module, "pick_device", lambda device: device)
    monkeypatch.setattr(GpuEngine, "ARENA_BYTES", 2**20)
    monkeypatch.setattr(GpuEngine, "CHUNKS", 3 if CUDA else 1)
    monkeypatch.setattr(gpu, "BLOCK", BLOCK)
    monkeypatch.setattr(gpu.compose_chunk, "__defaults__", (constants.SUM, BLOCK))
    return kept
