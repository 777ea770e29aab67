"""SHA-256 of two streams side by side, held to hashlib's."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.breadcrumbs.kernels.sha256 import streams
from registry.breadcrumbs.kernels.sha256.blocks import HAS_SHA

pieces = st.one_of(st.binary(max_size=200), st.sampled_from([0, 1, 55, 56, 63, 64, 65, 128, 1000]).map(bytes))
"""Bytes about the size of a block of 64, and of what padding needs of the last one."""

both_ways = pytest.mark.parametrize(
    "has_sha", [False, pytest.param(True, marks=pytest.mark.skipif(not HAS_SHA, reason="the processor has no SHA"))]
)


@both_ways
@given(fed=st.lists(st.tuples(st.sampled_from([(0,), (1,), (0, 1), (1, 0), (2, 0, 1)]), pieces, pieces, pieces)))
def test_streams_that_are_fed_together_hash_as_each_would_alone(has_sha, fed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "HAS_SHA", has_sha)
        running = [streams.new_hash(start) for start in (b"", b"a", b"header")]
        alone = [hashlib.sha256(start) for start in (b"", b"a", b"header")]
        for which, *data in fed:
            streams.update_each([(running[number], memoryview(data[number])) for number in which])
            for number in which:
                alone[number].update(data[number])
            assert running[which[0]].hexdigest() == alone[which[0]].hexdigest()  # and it goes on
        assert [each.hexdigest() for each in running] == [each.hexdigest() for each in alone]


@both_ways
@given(contents=st.lists(st.binary(max_size=500), max_size=9), size=st.integers(1, 130))
def test_each_of_many_streams_is_hashed_and_counted(has_sha, contents, size):
    counted = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "HAS_SHA", has_sha)
        readers = [lambda data=data: (data[at : at + size] for at in range(0, len(data), size)) for data in contents]
        digests = streams.hash_each(readers, counted.append)
    assert digests == [hashlib.sha256(data).hexdigest() for data in contents]
    assert sum(counted) == sum(map(len, contents))


def test_a_stream_that_fails_fails_all():
    def broken():
        yield b"some"
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        streams.hash_each([lambda: iter([b"other"]), broken], lambda count: None)
