"""Launching: kernels that NVRTC compiles on first use, started on torch's current stream.

Memory and streams are torch's: a kernel gets the addresses of tensors. Numbers are passed as int64.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch

SOURCES = Path(__file__).parent
"""The folder that has the kernels' C++."""


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
    """Say whether these kernels run on a device: an NVIDIA GPU, where they can be compiled."""
    return device.type == "cuda" and torch.version.cuda is not None and has_nvrtc()


def compile_kernel(source: str, expression: str, arch: str) -> Any:
    """Compile a kernel for a GPU that need not be here; return cuda-core's ObjectCode.

    Nothing is fused that the text does not fuse, no subnormal is flushed, and a division is rounded to nearest.

    Args:
        source: The name of a file of this folder.
        expression: The kernel's name, with its template's arguments.
        arch: The kind of GPU, like sm_90.
    """
    from cuda.core import Program, ProgramOptions

    options = ProgramOptions(
        arch=arch, std="c++17", fma=False, ftz=False, prec_div=True, include_path=str(SOURCES), name=source
    )
    return Program((SOURCES / source).read_text("utf-8"), "c++", options).compile(
        "cubin", name_expressions=(expression,)
    )


@cache
def _load(source: str, expression: str, index: int) -> Any:
    from cuda.core import Device

    return compile_kernel(source, expression, f"sm_{Device(index).arch}").get_kernel(expression)


def launch(source: str, expression: str, grid: int, threads: int, *arguments: torch.Tensor | int) -> None:
    """Launch a kernel on torch's current stream; nothing waits for it.

    Args:
        source, expression: As of `compile_kernel`.
        grid: How many blocks.
        threads: Lanes of a block.
        arguments: Of the kernel: contiguous tensors on the GPU, and integers that it takes as int64.
    """
    import cuda.core

    stream, index = torch.cuda.current_stream(), torch.cuda.current_device()
    cuda.core.Device(index).set_current()  # this thread may not have touched the GPU yet
    given = [argument.data_ptr() if isinstance(argument, torch.Tensor) else argument for argument in arguments]
    kernel = _load(source, expression, index)
    cuda.core.launch(stream, cuda.core.LaunchConfig(grid=grid, block=threads), kernel, *given)
