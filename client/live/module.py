"""Modules as weights: what a torch module holds, read as a fine-tuned checkpoint is, and written in place."""

from types import TracebackType
from typing import Self

import torch

from client.live.elements import CODES, Place
from client.live.naming import find_places
from registry.breadcrumbs.formats.header import DTYPES, TensorSpec, show
from registry.errors import InvalidRequest


class ModuleWeights:
    """The weights of a module that runs, by the names that saving it would give them.

    Reading and writing must not happen while the module computes.

    Args:
        module: The module; tensors that it replaces by others later are not seen.

    Attributes:
        tensors: dtype and shape of every tensor, in name order.
        shared: Empty: all tensors are the module's own.

    Raises:
        InvalidRequest: A tensor is not in this process's memory, or of a dtype that no checkpoint has.
    """

    shared: frozenset[str] = frozenset()

    def __init__(self, module: torch.nn.Module) -> None:
        places = find_places(module)
        self._places: dict[str, Place] = {name: places[name] for name in sorted(places)}
        for name, place in self._places.items():
            if place.dtype not in CODES:
                raise InvalidRequest(f"{show(name)} is {place.dtype}, which a checkpoint does not hold.", field="model")
        self.tensors = {name: TensorSpec(CODES[place.dtype], place.shape) for name, place in self._places.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def bytes_of(self, name: str) -> int:
        """Return how many bytes a tensor has."""
        return self.tensors[name].bytes

    def dtype_of(self, name: str) -> str:
        """Return the dtype of a tensor."""
        return self.tensors[name].dtype

    @torch.no_grad()
    def fill(self, view: memoryview, name: str, start: int) -> None:
        """Fill a view with whole elements of a tensor, from byte `start` on."""
        if len(view):
            place = self._places[name]
            place.read(start // DTYPES[self.dtype_of(name)], torch.frombuffer(view, dtype=place.dtype))

    @torch.no_grad()
    def write(self, view: memoryview, name: str, start: int) -> None:
        """Write whole elements over those of a tensor, from byte `start` on."""
        if len(view):
            place = self._places[name]
            place.write(start // DTYPES[self.dtype_of(name)], torch.frombuffer(view, dtype=place.dtype))
