"""Arenas whose memory is a torch tensor's, so that a GPU can copy from it and to it."""

import torch

from registry.breadcrumbs.composing.staging import Arena
from registry.breadcrumbs.formats.arrays import Octets


class TensorArena(Arena):
    """An arena in a torch tensor.

    Args:
        size: Bytes to begin with.
        pinned: Whether its memory is pinned, as a GPU needs it.

    Attributes:
        tensor: uint8, all of the buffer.
    """

    def __init__(self, size: int, pinned: bool) -> None:
        self.pinned = pinned
        super().__init__(size)

    def allocate(self, size: int) -> Octets:
        """Return the memory of a new tensor: uint8 [size]."""
        self.tensor = torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned)
        memory: Octets = self.tensor.numpy()
        return memory
