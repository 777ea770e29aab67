"""Elements of torch tensors as bytes: read and written where they are, on whatever device, in whatever strides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

CODES: dict[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL", torch.complex64: "C64",
}  # fmt: skip
"""The safetensors code of each dtype of whole bytes."""


class Strided:
    """A checkpoint's tensor that is a view of a module's memory.

    Args:
        tensor: The view, in the shape that the checkpoint has.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.dtype, self.shape = tensor.dtype, tuple(tensor.shape)

    def read(self, start: int, out: torch.Tensor) -> None:
        """Copy elements from `start` on into a flat tensor in memory."""
        for piece, at in pieces(self.tensor, start, start + len(out)):
            out[at - start : at - start + piece.numel()].view(piece.shape).copy_(piece)

    def write(self, start: int, elements: torch.Tensor) -> None:
        """Copy a flat tensor in memory over the elements from `start` on."""
        for piece, at in pieces(self.tensor, start, start + len(elements)):
            piece.copy_(elements[at - start : at - start + piece.numel()].view(piece.shape))


@dataclass(frozen=True)
class FlatTensor:
    """A parameter of a module, flat, and the number of its first element among those of all."""

    flat: torch.Tensor
    first: int


class Scattered:
    """A checkpoint's tensor whose elements are at other places in one or more parameters of a module.

    Args:
        sources: The parameters.
        places: Which of their elements each of its own is: an integer tensor in the checkpoint's shape.
    """

    def __init__(self, sources: Sequence[FlatTensor], places: torch.Tensor) -> None:
        low, high = (int(places.min()), int(places.max())) if places.numel() else (0, -1)
        self._sources = [one for one in sources if one.first <= high and low < one.first + one.flat.numel()]
        self._places = places.reshape(-1)
        self.dtype, self.shape = sources[0].flat.dtype, tuple(places.shape)

    def read(self, start: int, out: torch.Tensor) -> None:
        """Copy elements from `start` on into a flat tensor in memory."""
        for source, mine, theirs in self._parts(start, len(out)):
            out[mine] = source[theirs].to(out.device)

    def write(self, start: int, elements: torch.Tensor) -> None:
        """Copy a flat tensor in memory over the elements from `start` on."""
        for source, mine, theirs in self._parts(start, len(elements)):
            source[theirs] = elements[mine].to(source.device)

    def _parts(self, start: int, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        places = self._places[start : start + count].long()
        for source in self._sources:
            mine = ((places >= source.first) & (places < source.first + source.flat.numel())).nonzero().reshape(-1)
            yield source.flat, mine, (places[mine] - source.first).to(source.flat.device)


Place = Strided | Scattered
"""Where a checkpoint's tensor is in a module."""


def pieces(tensor: torch.Tensor, start: int, stop: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Cut elements start..stop - 1 of a tensor into views, each with the number of its first element."""
    if start >= stop:
        return
    if tensor.is_contiguous():
        yield tensor.view(-1)[start:stop], start
        return
    row = tensor.numel() // tensor.shape[0]
    first, last = -(-start // row), stop // row  # the rows that are wanted whole
    if first > last:  # part of one row
        yield from _within(tensor, last, start, stop, row)
        return
    yield from _within(tensor, first - 1, start, first * row, row)
    if first < last:
        yield tensor[first:last], first * row
    yield from _within(tensor, last, last * row, stop, row)


def _within(tensor: torch.Tensor, index: int, start: int, stop: int, row: int) -> Iterator[tuple[torch.Tensor, int]]:
    if start < stop:
        for piece, at in pieces(tensor[index], start - index * row, stop - index * row):
            yield piece, at + index * row
