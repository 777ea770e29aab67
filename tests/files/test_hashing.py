import hashlib
from functools import partial
from pathlib import Path

import pytest

from registry.files.hashing import BLOCK, hash_each, hash_file, read_file
from registry.files.progress import Meter


@pytest.mark.parametrize("size", [0, 1, BLOCK, 2 * BLOCK + 5])
def test_a_file_has_one_digest_with_or_without_progress(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "x").write_bytes(data[:size])
    seen: list[tuple[int, int]] = []
    expected = hashlib.sha256(data[:size]).hexdigest()
    assert hash_file(tmp_path / "x") == expected
    assert hash_file(tmp_path / "x", lambda done, total: seen.append((done, total))) == expected
    assert [done for done, _ in seen][-1:] == ([size] if size else [])
    assert {total for _, total in seen} <= {size}
    assert hash_each([partial(read_file, tmp_path / "x")] * 3, lambda _: None, 1) == [expected] * 3


def test_a_meter_counts_back_what_must_be_done_again() -> None:
    seen: list[int] = []
    meter = Meter(10, lambda done, total: seen.append(done))
    for count in (6, -6, 10):
        meter.add(count)
    assert seen == [6, 0, 10]
