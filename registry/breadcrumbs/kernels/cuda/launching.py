"""Launching: kernels that NVRTC compiles on first use, started on torch's current stream.

Memory and streams are torch's: a kernel gets the addresses of tensors. Numbers are passed as int64.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

SOURCES = Path(__file__).parent
"""The folder that has the kernels' C++."""

LEAST = 8, 0
"""The least compute capability of a GPU: from here on two numbers are rounded to BF16 or F16 at once."""


@cache
def has_nvrtc() -> bool:
    """Say whether kernels can be compiled here: cuda-core is installed, and NVRTC can be loaded."""
    try:
        import cuda.core  # noqa: F401
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError):  # the library is missing, or NVRTC's own
        return False
    return True


def can_launch(device: torch.device) -> bool:
    """Say whether these kernels run on a device: an NVIDIA GPU from `LEAST` on, where one of them does its work."""
    if device.type != "cuda" or torch.version.cuda is None or not has_nvrtc():
        return False
    return _runs_on(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _runs_on(index: int) -> bool:
    if torch.cuda.get_device_capability(index) < LEAST:
        return False
    device = torch.device("cuda", index)
    try:
        indices, mask = torch.tensor([3]).to(device), torch.zeros(2, dtype=torch.int32, device=device)
        launch("counting.cu", "set_bits", 1, 128, indices, mask, 1, 8, 0)
        return bool(mask.tolist() == [8, 0])
    except Exception:  # cuda-core's own: NVRTC is newer than the driver, say, or does not know the GPU
        return False


def arch_for(capability: tuple[int, int], known: Sequence[int]) -> str:
    """Return what to compile for: a GPU, or where NVRTC does not know it yet, the newest before, for its driver to end.

    Args:
        capability: The GPU's compute capability.
        known: Those that NVRTC knows, like 90 for 9.0.

    Raises:
        ValueError: NVRTC knows none that is old enough.
    """
    number = 10 * capability[0] + capability[1]
    return f"sm_{number}" if number in known else f"compute_{max(one for one in known if one < number)}"


@cache
def _arch(index: int) -> str:
    from cuda.bindings import nvrtc

    _, known = nvrtc.nvrtcGetSupportedArchs()
    return arch_for(torch.cuda.get_device_capability(index), known)


def _target(arch: str) -> str:
    return "cubin" if arch.startswith("sm_") else "ptx"


def compile_kernel(source: str, expression: str, arch: str) -> Any:
    """Compile a kernel for a GPU that need not be here; return cuda-core's ObjectCode.

    Nothing is fused that the text does not fuse, no subnormal is flushed, and a division is rounded to nearest.

    Args:
        source: The name of a file of this folder.
        expression: The kernel's name, with its template's arguments.
        arch: The kind of GPU, like sm_90; or like compute_90, for which the driver compiles the rest.
    """
    from cuda.core import Program

    text = (SOURCES / source).read_text("utf-8")
    return Program(text, "c++", _options(source, arch)).compile(_target(arch), name_expressions=(expression,))


def _options(source: str, arch: str) -> Any:
    from cuda.core import ProgramOptions

    return ProgramOptions(
        arch=arch, std="c++17", fma=False, ftz=False, prec_div=True, include_path=str(SOURCES), name=source
    )


def find_kernel(source: str, expression: str, arch: str, folder: Path | None = None) -> Any:
    """Return a kernel from the user's cache of cuda-core, or compile it, which takes a second, and keep it there.

    Args:
        source, expression, arch: As of `compile_kernel`.
        folder: Of the cache; cuda-core's own when None. One that cannot be used is done without.
    """
    from cuda.core import ObjectCode
    from cuda.core.utils import FileStreamProgramCache, make_program_cache_key

    key = make_program_cache_key(
        code=(SOURCES / source).read_text("utf-8"),
        code_type="c++",
        options=_options(source, arch),
        target_type=_target(arch),
        name_expressions=(expression,),
        extra_digest=sha256((SOURCES / "lanes.cuh").read_bytes()).digest(),
    )
    named = key + b" name"  # what the compiler calls the kernel
    try:
        kept = FileStreamProgramCache(folder)
        code, name = kept.get(key), kept.get(named)
    except (OSError, RuntimeError):  # nobody knows the user's home, say
        return compile_kernel(source, expression, arch)
    if code and name:
        read = ObjectCode.from_cubin if _target(arch) == "cubin" else ObjectCode.from_ptx
        return read(code, name=source, symbol_mapping={expression: name})
    compiled = compile_kernel(source, expression, arch)
    with suppress(OSError):
        kept[named], kept[key] = compiled.symbol_mapping[expression], bytes(compiled.code)
    return compiled


@cache
def _load(source: str, expression: str, index: int) -> Any:
    return find_kernel(source, expression, _arch(index)).get_kernel(expression)


def launch(source: str, expression: str, grid: int, threads: int, *arguments: torch.Tensor | int) -> None:
    """Launch a kernel on the GPU of its first tensor, on torch's current stream there; nothing waits for it.

    Args:
        source, expression: As of `compile_kernel`.
        grid: How many blocks.
        threads: Lanes of a block.
        arguments: Of the kernel: contiguous tensors on one GPU, and integers that it takes as int64.
    """
    import cuda.core

    assert grid < 2**31, "a launch has at most 2^31 - 1 blocks"
    device = next(argument.device for argument in arguments if isinstance(argument, torch.Tensor))
    given = [argument.data_ptr() if isinstance(argument, torch.Tensor) else argument for argument in arguments]
    with torch.cuda.device(device):
        cuda.core.Device(device.index).set_current()  # this thread may not have touched the GPU yet
        kernel = _load(source, expression, device.index)
        stream = cuda.core.Stream.from_handle(torch.cuda.current_stream(device).cuda_stream)
        cuda.core.launch(stream, cuda.core.LaunchConfig(grid=grid, block=threads), kernel, *given)
