import dataclasses

import pytest

from registry.breadcrumbs.formats import places
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.errors import InvalidPatch
from tests.support import makers


def limited(monkeypatch, **limit):
    monkeypatch.setattr(places, "PATCH_LIMITS", dataclasses.replace(places.PATCH_LIMITS, **limit))


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"entries": 13}, "A patch of 7 tensors has 14 entries, and readers take 13; leave tensors out with exclude"),
        ({"header_bytes": 200}, "A patch of 7 tensors has a header of .* bytes, and readers take 200"),
        ({"metadata_bytes": 300}, "A patch of 7 tensors has metadata of .* bytes, and readers take 300"),
    ],
)
def test_a_patch_that_no_reader_takes_is_refused_before_weights_are_read(tmp_path, monkeypatch, limit, words):
    base = makers.make_checkpoint(tmp_path / "base")
    tuned = makers.fine_tuned(base, tmp_path / "tuned")
    limited(monkeypatch, **limit)
    monkeypatch.setattr(Checkpoint, "fill", lambda *_: pytest.fail("weights are read"))
    with pytest.raises(InvalidPatch, match=words):
        makers.make_patch(base, tuned, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_the_header_is_measured_to_the_byte_once_the_masks_are_known(tmp_path, monkeypatch):
    base = makers.make_checkpoint(tmp_path / "base")
    info = makers.make_patch(base, makers.fine_tuned(base, tmp_path / "tuned"), tmp_path / "p")
    size = int.from_bytes((tmp_path / "p").read_bytes()[:8], "little")
    limited(monkeypatch, header_bytes=size)
    header = places.patch_header(info.tensors, info.nnz, info.base, info.params)
    assert (tmp_path / "p").read_bytes().startswith(header)
    limited(monkeypatch, header_bytes=size - 1)
    with pytest.raises(InvalidPatch, match=f"header of {size:,} bytes, and readers take {size - 1:,}"):
        places.patch_header(info.tensors, info.nnz, info.base, info.params)


def test_a_patch_that_readers_just_take_is_made_and_read(tmp_path, monkeypatch):
    base = makers.make_checkpoint(tmp_path / "base")
    tuned = makers.fine_tuned(base, tmp_path / "tuned")
    limited(monkeypatch, entries=14)
    makers.make_patch(base, tuned, tmp_path / "p")
    with open_patch(tmp_path / "p", places.PATCH_LIMITS) as patch:
        assert len(patch.info.tensors) == 7
