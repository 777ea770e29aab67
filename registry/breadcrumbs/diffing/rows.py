"""Shared rows: tensors of a tuned checkpoint of which the first dimension grew or shrank, read in the base's shape.

Rows that only the tuned tensor has are not read. Rows that only the base has are the base's own, in the tuned dtype, so
that nothing has changed there.
"""

from collections.abc import Mapping

from registry.breadcrumbs.formats.arrays import NUMPY, read_floats
from registry.breadcrumbs.formats.checkpoint import Checkpoint, Weights
from registry.breadcrumbs.formats.header import DTYPES, TensorSpec


class SharedRows:
    """A tuned checkpoint of which some tensors are read in the shape of the base's.

    Args:
        base: The base.
        tuned: The tuned checkpoint.
        names: The base's name for each tensor of the tuned checkpoint that has more or fewer rows.

    Attributes:
        tensors: dtype and shape of every tensor, as they are read.
        shared: As of the tuned checkpoint.
    """

    def __init__(self, base: Checkpoint, tuned: Weights, names: Mapping[str, str]) -> None:
        self._base, self._tuned, self._names = base, tuned, names
        changed = {name: TensorSpec(tuned.tensors[name].dtype, base.tensors[names[name]].shape) for name in names}
        self.tensors = {**tuned.tensors, **changed}
        self.shared = tuned.shared

    def bytes_of(self, name: str) -> int:
        """Return how many bytes a tensor has."""
        return self.tensors[name].numel * DTYPES[self.tensors[name].dtype]

    def dtype_of(self, name: str) -> str:
        """Return the dtype of a tensor."""
        return self.tensors[name].dtype

    def fill(self, view: memoryview, name: str, start: int) -> None:
        """Fill a view with whole elements of a tensor, from byte `start` on."""
        own = min(len(view), max(0, self._tuned.bytes_of(name) - start))
        if own:
            self._tuned.fill(view[:own], name, start)
        if own < len(view):
            width = DTYPES[self.tensors[name].dtype]
            view[own:] = self._read_base(name, (start + own) // width, (start + len(view)) // width)

    def _read_base(self, name: str, start: int, stop: int) -> bytes:
        """Return elements of the base's tensor, rounded to the dtype of the tuned one."""
        old, new = self._base.dtype_of(self._names[name]), self.tensors[name].dtype
        if old == new:
            raw = bytearray((stop - start) * DTYPES[old])
            self._base.fill(memoryview(raw), self._names[name], start * DTYPES[old])
            return bytes(raw)
        values = read_floats(self._base, self._names[name], start, stop)
        if new == "F64":
            return values.astype("<f8").tobytes()
        singles = values.astype("<f4", copy=False)
        if new != "BF16":
            return singles.astype(NUMPY[new]).tobytes()
        bits = singles.view("<u4").astype("<u8")
        rounded: bytes = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype("<u2").tobytes()
        return rounded
