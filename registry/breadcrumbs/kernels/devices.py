"""Devices: whether the CPU or a GPU computes, and how much of the GPU's memory.

torch is imported for a GPU only: the import takes a second and 130 MB, and the CPU's kernels do without it.
"""

import ctypes
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import InvalidRequest

if TYPE_CHECKING:
    import torch

GiB = 2**30
DRIVER_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")

MIN_GPU_BYTES = 2**26
"""Fewest bytes of a GPU's memory that make sense."""


def pick_device(device: str) -> str:
    """Return `cpu` or `cuda` for `auto`, `cpu` or `cuda`.

    Raises:
        InvalidRequest: The device is another word, or there is no CUDA device.
    """
    if device == "auto":
        return "cuda" if has_cuda() else "cpu"
    if device not in ("cpu", "cuda"):
        raise InvalidRequest(f"Device {device[:40]!r} is unknown; choose auto, cpu or cuda.", field="device")
    if device == "cuda" and not torch_has_cuda():
        raise InvalidRequest(
            "There is no CUDA device here, or no torch that can use it; choose cpu or auto.", field="device"
        )
    return device


def has_cuda() -> bool:
    """Say whether torch can use a GPU; torch is imported only where there is a driver for one."""
    return has_driver() and torch_has_cuda()


def has_driver() -> bool:
    """Say whether NVIDIA's driver library can be loaded, as torch would load it, or AMD's kernel driver is there."""
    for library in DRIVER_LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return Path("/dev/kfd").exists()  # a ROCm build of torch brings its library along


def torch_has_cuda() -> bool:
    """Say whether torch is installed and finds a GPU."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def find_gpu(memory: int | None) -> "tuple[torch.device, int]":
    """Return the GPU, and how many bytes of its memory to use: the smaller of 4 GiB and a quarter of what is free.

    Args:
        memory: How many bytes to use instead; None for that default.

    Raises:
        InvalidRequest: That is too little to work with.
    """
    import torch

    if memory is not None and memory < MIN_GPU_BYTES:
        raise InvalidRequest(
            f"A device memory of {memory} bytes is too little; allow {MIN_GPU_BYTES} or more.", field="device_memory"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)  # what this process keeps is its own
    return device, memory or min(4 * GiB, free // 4)
