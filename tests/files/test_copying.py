"""Copying between files: every byte to its place, and whole blocks by themselves, which file systems can share."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.files.copying import copy_range

BLOCK = 4096


def copied(folder: Path, content: bytes, start: int, stop: int, to: int) -> bytes:
    source, target = folder / "source", folder / "target"
    source.write_bytes(content)
    target.write_bytes(bytes(len(content) + 2 * BLOCK))
    with source.open("rb") as opened, target.open("r+b") as written:
        copy_range(opened.fileno(), written.fileno(), start, stop, to)
    return target.read_bytes()


@given(st.integers(0, 5 * BLOCK), st.integers(0, 5 * BLOCK), st.integers(-BLOCK, BLOCK) | st.sampled_from([0, BLOCK]))
def test_every_byte_gets_to_its_place(tmp_path_factory, one, other, shift):
    content = os.urandom(5 * BLOCK)
    start, stop = sorted((one, other))
    to = max(0, start + shift)
    found = copied(tmp_path_factory.mktemp("copy"), content, start, stop, to)
    assert found[to : to + stop - start] == content[start:stop]
    assert not any(found[:to]) and not any(found[to + stop - start :])


def test_whole_blocks_are_copied_by_themselves(tmp_path, monkeypatch):
    asked = []

    def copy(source: int, target: int, count: int, start: int, to: int) -> int:
        asked.append((start, count, to))
        return os.pwrite(target, os.pread(source, count, start), to)

    monkeypatch.setattr(os, "copy_file_range", copy, raising=False)
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result([0] * 10, {"st_blksize": BLOCK}))
    content = os.urandom(4 * BLOCK)
    assert copied(tmp_path, content, 100, 3 * BLOCK + 1, BLOCK + 100)[BLOCK + 100 : 4 * BLOCK + 1] == content[100:-4095]
    assert (BLOCK, 2 * BLOCK, 2 * BLOCK) in asked
    asked.clear()
    copied(tmp_path, content, 100, 3 * BLOCK, 0)
    assert asked == [(100, 3 * BLOCK - 100, 0)], "no file system can share blocks that are cut elsewhere"


def test_a_source_that_ends_early_is_told(tmp_path):
    with pytest.raises(EOFError):
        copied(tmp_path, bytes(BLOCK), 10, 3 * BLOCK, 10)
