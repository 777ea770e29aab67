"""Modules as weights: what a torch module holds, read as a fine-tuned checkpoint is, and written in place."""

from itertools import pairwise
from types import TracebackType
from typing import Self

import torch

from client.live.elements import CODES, Place, Strided
from client.live.naming import find_places
from registry.breadcrumbs.formats.header import DTYPES, TensorSpec, show
from registry.errors import InvalidRequest


class ModuleWeights:
    """The weights of a module that runs, by the names that saving it would give them.

    Reading and writing must not happen while the module computes.

    Args:
        module: The module; what it moves or replaces later, as `module.to` does, is not seen: see `BoundWeights.moved`.

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

    def memory(self, name: str) -> tuple[object, ...]:
        """Return where a tensor is: equal for names of one tensor."""
        place = self._places[name]
        if not isinstance(place, Strided):
            return (name,)
        tensor = place.tensor
        return tensor.device, tensor.data_ptr() or name, tensor.shape, tensor.stride()

    def octets(self, name: str) -> torch.Tensor | None:
        """Return the bytes of a tensor where they are, uint8 [bytes]; None if they do not follow each other there."""
        place = self._places[name]
        if not isinstance(place, Strided) or not place.tensor.is_contiguous() or not place.tensor.numel():
            return None
        return place.tensor.view(-1).view(torch.uint8)

    def check_apart(self) -> None:
        """Check that no two tensors overlap in memory that are not one.

        Raises:
            InvalidRequest: Two do.
        """
        held = {self.memory(name): place.tensor for name, place in self._places.items() if isinstance(place, Strided)}
        whole = [tensor for tensor in held.values() if tensor.numel() and tensor.is_contiguous()]
        ends = sorted((str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in whole)
        if any(one[0] == other[0] and other[1] < one[2] for one, other in pairwise(ends)):
            raise InvalidRequest(
                "Two tensors of the model share a part of their memory, so that changing one changes the other; give "
                "each its own.",
                field="model",
            )

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
