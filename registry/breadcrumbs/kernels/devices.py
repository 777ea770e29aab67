"""Which device computes, and how much of its memory."""

import torch

from registry.errors import InvalidRequest

GiB = 2**30
SMALLEST = 2**26
"""Fewest bytes of a GPU's memory that make sense."""


def pick_device(device: str) -> str:
    """Return `cpu` or `cuda` for `auto`, `cpu` or `cuda`.

    Raises:
        InvalidRequest: It is another word, or there is no CUDA device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise InvalidRequest(f"Device {device[:40]!r} is unknown; choose auto, cpu or cuda.", field="device")
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest("There is no CUDA device here; choose cpu or auto.", field="device")
    return device


def find_gpu(memory: int | None) -> tuple[torch.device, int]:
    """Return the GPU, and how many bytes of its memory to use: the smaller of 4 GiB and a quarter of what is free.

    Args:
        memory: What is wanted instead; None for that.

    Raises:
        InvalidRequest: That is too little to work with.
    """
    if memory is not None and memory < SMALLEST:
        raise InvalidRequest(
            f"A device memory of {memory} bytes is too little; allow {SMALLEST} or more.", field="device_memory"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    return device, memory or min(4 * GiB, torch.cuda.mem_get_info(device)[0] // 4)
