"""Bytes as numpy arrays, against torch, which has every dtype."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from registry.breadcrumbs.formats.arrays import (
    count_not_finite,
    from_floats,
    octets,
    read_floats,
    read_numbers,
    read_raw,
    round_to,
    to_floats,
)
from tests.support.science_makers import CODES, raw

KINDS = {code: kind for kind, code in CODES.items()}


class InMemory:
    """Bytes of one dtype, as a source of any name."""

    def __init__(self, content: bytes, dtype: str) -> None:
        self.content, self.dtype = content, dtype

    def dtype_of(self, name: str) -> str:
        return self.dtype

    def fill(self, view: memoryview, name: str, start: int) -> None:
        view[:] = self.content[start : start + len(view)]


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_16_bit_float_is_read_as_torch_reads_it(dtype):
    every = torch.arange(2**16).to(torch.uint16).view(KINDS[dtype])
    values = read_floats(InMemory(raw(every), dtype), "", 0, 2**16)
    assert values.dtype == np.float32
    finite = every.isfinite()
    assert values[finite.numpy()].tobytes() == raw(every[finite].float())
    assert np.isnan(values).tolist() == every.isnan().tolist()
    assert np.isinf(values).tolist() == every.isinf().tolist()
    assert count_not_finite(octets_of(every), dtype) == int((~finite).sum())


def octets_of(tensor: torch.Tensor) -> np.ndarray:
    return np.frombuffer(raw(tensor), np.uint8)


@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_wider_floats_are_read_as_they_are(dtype):
    numbers = torch.tensor([1.5, -0.0, math.inf, -math.inf, math.nan, 2.0**-149, 3.0], dtype=KINDS[dtype])
    source = InMemory(raw(numbers), dtype)
    assert octets(read_floats(source, "", 0, 7)).tobytes() == raw(numbers)
    assert octets(read_floats(source, "", 1, 3)).tobytes() == raw(numbers[1:3])
    assert count_not_finite(octets_of(numbers), dtype) == 3
    assert read_floats(source, "", 2, 2).size == 0


def test_integers_are_read_as_they_are():
    source = InMemory(np.array([-5, 2**40], np.int64).tobytes(), "I64")
    assert read_numbers(source, "", 0, 2).tolist() == [-5, 2**40]
    assert read_raw(source, "", 1, 2).tobytes() == (2**40).to_bytes(8, "little")


ROUNDED_EVENLY = [1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8 + 2.0**-20, 65504.0, 65519.99, 65520.0, 2.0**-24, 2.0**-25]
BEYOND = [math.inf, -math.inf, math.nan, 3.3895e38, 3.3961e38, 3.4e38, -3.5e38, 1e300, 2.0**-150, -1e-45, 0.0, -0.0]
EDGES = st.sampled_from([*ROUNDED_EVENLY, *BEYOND])


@given(EDGES | st.floats() | st.floats(width=32) | st.floats(width=16), st.sampled_from(sorted(KINDS)))
def test_a_number_is_rounded_as_torch_rounds_it(value, dtype):
    exact = torch.tensor(value, dtype=torch.float64)
    expected = value if dtype == "F64" else float(exact.float().to(KINDS[dtype]).double())
    rounded = round_to(value, dtype)
    assert (
        math.isnan(rounded)
        if math.isnan(expected)
        else (rounded, math.copysign(1, rounded))
        == (
            expected,
            math.copysign(1, expected),
        )
    )


@pytest.mark.parametrize("dtype", sorted(KINDS))
def test_nan_of_any_bits_stays_nan(dtype):
    numbers = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF80FFFF], np.uint32).view(np.float32)
    assert np.isnan(to_floats(from_floats(numbers, dtype), dtype)).all()
