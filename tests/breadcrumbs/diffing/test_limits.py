import dataclasses

import pytest

from registry.breadcrumbs.diffing import diff as module
from registry.errors import InvalidPatch
from tests.support import makers


@pytest.mark.parametrize("limit", [{"entries": 3}, {"header_bytes": 200}])
def test_a_patch_that_no_reader_takes_is_refused_before_weights_are_read(tmp_path, monkeypatch, limit):
    base = makers.make_checkpoint(tmp_path / "base")
    tuned = makers.fine_tuned(base, tmp_path / "tuned")
    monkeypatch.setattr(module, "PATCH_LIMITS", dataclasses.replace(module.PATCH_LIMITS, **limit))
    with pytest.raises(InvalidPatch, match="readers take"):
        makers.make_patch(base, tuned, tmp_path / "p")
    assert not (tmp_path / "p").exists()
