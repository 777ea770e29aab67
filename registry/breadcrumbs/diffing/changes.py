"""Changes: what fine-tuning changed in one tensor, found in one pass over its weights and in bounded memory.

    sample --> floor        a key that more elements reach than are kept, guessed from a few thousand of them
    scan   --> candidates   the elements that reach it, block by block, to a scratch file; a count of their keys
    cut    --> keys         exactly where the order is cut at either end, from the candidates alone
    write  --> mask and values of what stays, block by block

If the floor was guessed too high, too few elements reach it, and the tensor is read again without a floor. By rows, the
candidates of a block of whole rows are those that stay, and nothing is cut afterwards; the same holds where a GPU has
found the mask.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.diffing.mask import Groups
from registry.breadcrumbs.formats.arrays import Octets, octets
from registry.breadcrumbs.formats.blocks import blocks
from registry.breadcrumbs.formats.header import DTYPES
from registry.breadcrumbs.kernels.constants import CODES, HIGH_BINS, LOW_BINS, PAD
from registry.breadcrumbs.kernels.diff import (
    count_low,
    keep_between,
    round_values,
    sample_keys,
    take_candidates,
    take_rows,
)
from registry.breadcrumbs.kernels.select import ALL, NONE, Counts, Cut, find_cuts
from registry.files.copying import read_at, write_at

READ_ELEMENTS = 2**18
"""Elements that are read at a time; a multiple of 64."""

SEGMENT_ELEMENTS = 2**22
"""Elements whose candidates are held in memory; those of a larger tensor go to the scratch file."""

SAMPLE_RUNS, RUN_ELEMENTS = 8, 1024
"""A sample is SAMPLE_RUNS runs of RUN_ELEMENTS neighbouring elements."""

Floats = npt.NDArray[np.float32]
Write = Callable[[memoryview], None]


class Pair(Protocol):
    """A tensor of the base and its partner, both floating-point and of the same shape."""

    @property
    def numel(self) -> int:
        """Return how many elements each has."""

    @property
    def dtypes(self) -> tuple[str, str]:
        """Return the dtypes of the base's tensor and of its partner."""

    def read(self, start: int, base: memoryview, tuned: memoryview) -> None:
        """Fill both views with the tensors' bytes from element `start` on."""


@dataclass(frozen=True)
class Changes:
    """The candidates of a tensor, on the scratch file of the workspace that found them.

    Args:
        nnz: How many candidates stay.
        total: How many elements changed, of those that were counted: all of them, or all candidates.
        not_finite: How many deltas are NaN or Inf; unless it is 0, nothing else is meaningful.
        bottom, top: The cuts between which candidates stay.
    """

    nnz: int
    total: int
    not_finite: int
    bottom: Cut = ALL
    top: Cut = NONE


@dataclass(frozen=True)
class Marked:
    """The mask of a tensor, as a GPU finds it.

    Args:
        total: How many elements changed.
        not_finite: How many deltas are NaN or Inf; unless it is 0, nothing else is meaningful.
        mask: uint8 [ceil(numel / 8)], which elements stay, lowest bit first.
        values: float32 [nnz], the task direction of those, in the order of the elements.
    """

    total: int
    not_finite: int
    mask: Octets
    values: Floats


Block = tuple[int, int, Octets, Octets]
"""Elements start..stop - 1 of a tensor and its partner: start, stop, and the bytes of both, reused by the next."""


class MaskFinder(Protocol):
    """A GPU that finds the mask of one tensor at a time; gpu_masks.py has it."""

    def claim(self, numel: int) -> bool:
        """Reserve the GPU for a tensor of `numel` elements, if it fits and the GPU is free; say whether it did."""

    def release(self) -> None:
        """Free the GPU for another tensor."""

    def find(self, numel: int, dtypes: tuple[str, str], blocks: Iterator[Block], groups: Groups) -> Marked:
        """Find the mask of a tensor that is one group.

        Args:
            numel, dtypes: As of its Pair.
            blocks: All of it, in order.
            groups: How many elements are dropped.
        """


class Workspace:
    """Buffers and a scratch file of one thread, for one tensor after another; use it with `with`.

    Args:
        folder: Where the scratch file is made; it has no name.
        gpu: Used where it is free, the tensor fits, and groups are whole tensors.
    """

    def __init__(self, folder: Path, gpu: MaskFinder | None = None) -> None:
        self._gpu = gpu
        self._scratch = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._high: Counts = np.zeros(HIGH_BINS, np.int64)
        self._low: Counts = np.zeros((2, LOW_BINS), np.int64)
        self._make(READ_ELEMENTS, SEGMENT_ELEMENTS)

    def _make(self, block: int, segment: int) -> None:
        """Make buffers for blocks and segments of so many elements; their memory is touched when it is needed."""
        self._room = block
        self._base, self._tuned, self._out = (np.empty(8 * block + PAD, np.uint8) for _ in range(3))
        self._kept = np.empty(block + PAD, np.float32)
        self._mask, self._values = np.empty(segment // 8 + PAD, np.uint8), np.empty(segment + PAD, np.float32)

    def _begin(self, numel: int, block: int) -> None:
        """Forget the candidates, and prepare for a tensor of `numel` elements that is read `block` at a time."""
        self._numel, self._block, self._counts = numel, block, list[int]()
        self._segment = max(1, SEGMENT_ELEMENTS // block) * block
        if min(block, numel) > self._room:
            self._make(min(block, numel), min(self._segment, numel))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scratch.close()

    def find(self, pair: Pair, groups: Groups, visit: Write = lambda view: None) -> Changes:
        """Find the breadcrumb mask of a tensor.

        Args:
            pair: The tensor and its partner.
            groups: Which elements compete with each other, and how many are dropped.
            visit: Called with the base's bytes, in order, each once.

        Returns:
            What changed; `write` then writes it.
        """
        if groups.count > 1:
            return self._find_by_rows(pair, groups, visit)
        if self._gpu and self._gpu.claim(pair.numel):
            try:
                return self._find_on_gpu(self._gpu, pair, groups, visit)
            finally:
                self._gpu.release()
        floor = self._guess_floor(pair, groups.n_first) if pair.numel > 2 * READ_ELEMENTS and groups.n_bottom else 1
        not_finite = self._scan(pair, floor, visit)
        if floor > 1 and sum(self._counts) < groups.n_first and not not_finite:
            not_finite = self._scan(pair, 1, lambda view: None)
        total = sum(self._counts)
        bottom, top = find_cuts(self._high, self._count_low, groups.n_first, groups.n_top)
        return Changes(max(0, min(groups.n_first, total) - groups.n_top), total, not_finite, bottom, top)

    def _guess_floor(self, pair: Pair, wanted: int) -> int:
        """Guess a key that a little more than `wanted` elements reach; 1 where that is everything that changed."""
        keys = np.empty((SAMPLE_RUNS, RUN_ELEMENTS), np.uint32)
        codes = [CODES[dtype] for dtype in pair.dtypes]
        for number in range(SAMPLE_RUNS):
            self._read(pair, number * (pair.numel - RUN_ELEMENTS) // (SAMPLE_RUNS - 1), RUN_ELEMENTS)
            sample_keys(self._base, codes[0], self._tuned, codes[1], RUN_ELEMENTS, keys[number])
        ordered = np.sort(keys, axis=None)

        def reached_by(share: float) -> int:
            return int(ordered[max(0, int(ordered.size * (1 - share)))])

        share = wanted / pair.numel
        # Neighbours resemble each other, so how much runs differ says how far the guess may be off.
        spread = float((keys >= reached_by(share)).mean(axis=1).std()) / SAMPLE_RUNS**0.5
        return max(1, reached_by(share + 4 * spread + 0.01))

    def _read(self, pair: Pair, start: int, size: int) -> memoryview:
        """Read a block of both tensors; return the base's bytes."""
        base, tuned = (
            memoryview(buffer.data)[: size * DTYPES[dtype]]
            for buffer, dtype in zip((self._base, self._tuned), pair.dtypes, strict=True)
        )
        pair.read(start, base, tuned)
        return base

    def _scan(self, pair: Pair, floor: int, visit: Write) -> int:
        """Take every block's candidates, and count the high parts of their keys; return how many are NaN or Inf."""
        self._high[:] = 0
        codes, not_finite = [CODES[dtype] for dtype in pair.dtypes], 0

        def take(start: int, size: int, mask: Octets, values: Floats) -> int:
            nonlocal not_finite
            visit(self._read(pair, start, size))
            count, more = take_candidates(
                self._base, codes[0], self._tuned, codes[1], size, np.uint32(floor), mask, values, self._high
            )
            not_finite += more
            return int(count)

        self._take(pair.numel, READ_ELEMENTS, take)
        return not_finite

    def _find_by_rows(self, pair: Pair, groups: Groups, visit: Write) -> Changes:
        codes, total, not_finite = [CODES[dtype] for dtype in pair.dtypes], 0, 0

        def take(start: int, size: int, mask: Octets, values: Floats) -> int:
            nonlocal total, not_finite
            visit(self._read(pair, start, size))
            rows, row = size // groups.size, groups.size
            count, changed, more = take_rows(
                self._base, codes[0], self._tuned, codes[1], rows, row, groups.n_top, groups.n_first, mask, values
            )
            total, not_finite = total + changed, not_finite + more
            return int(count)

        whole = max(8, READ_ELEMENTS // groups.size // 8 * 8) * groups.size  # whole rows, and whole bytes of the mask
        self._take(pair.numel, whole, take)
        return Changes(sum(self._counts), total, not_finite)

    def _find_on_gpu(self, gpu: MaskFinder, pair: Pair, groups: Groups, visit: Write) -> Changes:
        def read() -> Iterator[Block]:
            for start, stop in blocks(pair.numel, READ_ELEMENTS):
                visit(self._read(pair, start, stop - start))
                widths = [DTYPES[dtype] for dtype in pair.dtypes]
                yield start, stop, self._base[: (stop - start) * widths[0]], self._tuned[: (stop - start) * widths[1]]

        marked = gpu.find(pair.numel, pair.dtypes, read(), groups)
        if marked.not_finite:
            return Changes(0, 0, marked.not_finite)
        used = 0

        def take(start: int, size: int, mask: Octets, values: Floats) -> int:
            nonlocal used
            part = marked.mask[start // 8 : (start + size + 7) // 8]
            count = int(np.bitwise_count(part).sum())
            mask[: part.size] = part
            values[:count] = marked.values[used : used + count]
            used += count
            return count

        self._take(pair.numel, READ_ELEMENTS, take)
        return Changes(sum(self._counts), marked.total, 0)

    def _take(self, numel: int, block: int, take: Callable[[int, int, Octets, Floats], int]) -> None:
        """Take candidates block after block, and keep them in memory or, segment by segment, on the scratch file.

        Args:
            numel: Elements of the tensor.
            block: Elements of a block.
            take: Called with the first element of a block, its number of elements, and room for its mask and its
                values; fills both and returns how many values there are.
        """
        self._begin(numel, block)
        for start, stop in blocks(numel, self._segment):
            held = 0
            for first, last in blocks(stop - start, block):
                count = take(start + first, last - first, self._mask[first // 8 :], self._values[held:])
                self._counts.append(count)
                held += count
            length = (stop - start + 7) // 8
            self._mask[length : length + 8] = 0  # kernels read whole words
            if numel > self._segment:
                before = sum(self._counts) - held
                write_at(self._scratch.fileno(), memoryview(self._mask.data)[:length], start // 8)
                write_at(self._scratch.fileno(), self._bytes_of_values(held), self._values_at(before))

    def _segments(self) -> Iterator[tuple[int, list[int]]]:
        """Bring back the candidates, segment by segment; yield its elements and how many each of its blocks has."""
        before, per_segment = 0, self._segment // self._block
        for number, (start, stop) in enumerate(blocks(self._numel, self._segment)):
            counts = self._counts[number * per_segment : (number + 1) * per_segment]
            if self._numel > self._segment:
                length = (stop - start + 7) // 8
                read_at(self._scratch.fileno(), memoryview(self._mask.data)[:length], start // 8)
                self._mask[length : length + 8] = 0
                read_at(self._scratch.fileno(), self._bytes_of_values(sum(counts)), self._values_at(before))
            yield stop - start, counts
            before += sum(counts)

    def _bytes_of_values(self, count: int) -> memoryview:
        """Return the bytes of the first `count` values in memory."""
        return octets(self._values)[: 4 * count]

    def _values_at(self, number: int) -> int:
        """Return the byte of the scratch file at which value `number` starts, after the whole mask."""
        return (self._numel + 7) // 8 + 4 * number

    def _count_low(self, bins: Counts) -> Counts:
        """Count the low parts of the candidates' keys that have one of these high parts, as `find_cuts` has it."""
        low = self._low[: bins.size]
        low[:] = 0
        for _, counts in self._segments():
            count_low(self._values, sum(counts), bins, low)
        return low

    def write(self, changes: Changes, index_width: int, dtype: str, write_mask: Write, write_values: Write) -> int:
        """Write what stays of the candidates of the last `find`, block by block.

        Args:
            changes: What `find` returned.
            index_width: Bytes of an index, or 0 for a bitmask.
            dtype: Of the values: BF16, F16 or F32.
            write_mask, write_values: Called with the next bytes of the mask and of the values.

        Returns:
            How many values became infinite in their dtype.
        """
        cuts = np.array([changes.bottom.key, changes.bottom.ties, changes.top.key, changes.top.ties], np.int64)
        start = written = lost = 0
        for segment, counts in self._segments():
            held = 0
            for (first, last), count in zip(blocks(segment, self._block), counts, strict=True):
                size, mask, values = last - first, self._mask[first // 8 :], self._values[held:]
                kept = keep_between(mask, size, start + first, values, count, cuts, index_width, self._out, self._kept)
                write_mask(memoryview(self._out.data)[: index_width * kept if index_width else (size + 7) // 8])
                lost += round_values(self._kept, kept, CODES[dtype], self._out)
                write_values(memoryview(self._out.data)[: kept * DTYPES[dtype]])
                held, written = held + count, written + kept
            start += segment
        assert written == changes.nnz
        return lost
