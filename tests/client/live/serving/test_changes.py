"""Changes between revisions, as an engine takes them: put into its tensors they make the later revision."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import client
from client.actions.pulling.deltas import make_delta
from client.live import changes_between, changes_of, open_changes
from client.live.serving.changes import Changed
from registry.breadcrumbs.deltas.delta_file import open_delta
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.errors import InvalidRequest
from tests.support import makers
from tests.support.live_makers import Family, make_llama, open_family
from tests.support.visitors import Files, Registry, publish_model

INTEGERS = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    folder = tmp_path_factory.mktemp("changes")
    with open_family(folder, make_llama(folder / "base")) as opened:
        yield opened


def put(changes: Iterable[Changed], tensors: dict[str, torch.Tensor]) -> int:
    """Put changes into tensors as an engine would, and return how many there were."""
    count = 0
    for change in changes:
        flat = tensors[change.name].view(-1)
        assert change.spec.shape == tuple(tensors[change.name].shape)
        assert change.indices.dtype == np.int32 and (np.diff(change.indices) > 0).all()
        bits = flat.view(INTEGERS[flat.element_size()])
        places = torch.from_numpy(change.indices).long()
        values = torch.from_numpy(change.values)
        assert (bits.numpy()[change.indices] != change.values).all()  # nothing that stays the same is sent
        flat[places] = values.view(flat.dtype)
        count += 1
    return count


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].numpy(force=True).tobytes() == other[name].numpy(force=True).tobytes()
        if one[name].dtype != torch.bfloat16
        else torch.equal(one[name].view(torch.int16), other[name].view(torch.int16))
        for name in one
    )


@pytest.mark.parametrize("piece", [64, 2**26])
def test_changes_of_two_compositions_make_one_of_the_other(family: Family, piece: int, tmp_path: Path) -> None:
    before, after = family.recipe("1", "0.5", alpha="0.5"), family.recipe("1", "", "1", alpha="0.5")
    tensors = makers.read_weights(family.composed(before, tmp_path / "before"))
    due = makers.read_weights(family.composed(after, tmp_path / "after"))
    assert not equal(tensors, due)
    assert put(changes_between(family.base, family.patches, before, after, piece), tensors) > 0
    assert equal(tensors, due)
    assert list(changes_between(family.base, family.patches, after, after)) == []


def test_only_tensors_that_may_differ_are_composed(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    from registry.breadcrumbs.composing.ranges import ComposedWeights

    read: list[int] = []
    original = ComposedWeights.read
    monkeypatch.setattr(ComposedWeights, "read", lambda self, *ask: read.append(1) or original(self, *ask))
    assert list(changes_between(family.base, family.patches, family.recipe(), family.recipe())) == [] and not read


@pytest.mark.parametrize("piece", [64, 2**26])
@pytest.mark.parametrize("share", [1.0, 0.01])
def test_changes_of_a_delta_file_make_its_later_revision(tmp_path: Path, piece: int, share: float) -> None:
    base = makers.make_checkpoint(tmp_path / "base", dtypes=(torch.float32, torch.bfloat16, torch.float64))
    tuned = makers.fine_tuned(base, tmp_path / "tuned", share=share)
    for steps in (False, True):
        make_delta(base, tuned, tmp_path / "d.safetensors", steps=steps)
        tensors = makers.read_weights(base)
        with open_delta(tmp_path / "d.safetensors") as delta, open_checkpoint(base) as before:
            put(changes_of(delta, before if steps else None, piece), tensors)
        assert equal(tensors, makers.read_weights(tuned))


def test_a_delta_of_steps_needs_the_earlier_revision(tmp_path: Path) -> None:
    old = torch.arange(64, dtype=torch.int16)
    for name, bits in (("base", old), ("moved", old + 1)):
        makers.write_weights(tmp_path / name, {"weight": bits.view(torch.bfloat16)})
    make_delta(tmp_path / "base", tmp_path / "moved", tmp_path / "d.safetensors")
    with open_delta(tmp_path / "d.safetensors") as delta, pytest.raises(InvalidRequest, match="earlier revision"):
        list(changes_of(delta))


def test_two_bases_are_refused(family: Family) -> None:
    from registry.breadcrumbs.formats.recipe import make_recipe

    other = make_recipe("sha256:" + "0" * 64, "1", [])
    with pytest.raises(InvalidRequest, match="both need the same"):
        list(changes_between(family.base, family.patches, family.recipe(), other))


def test_changes_come_from_a_registry(here: Registry, files: Files, tmp_path: Path) -> None:
    name = "ana/served"
    publish_model(here, name, files.base, files.patches, {"1.0.0": [(1, "1")], "1.1.0": [(1, "1"), (2, "1")]})
    tensors = makers.read_weights(client.pull(f"{name}@1.0.0", tmp_path / "before", quiet=True).folder)
    with here.client() as session, open_changes(session, name, "1.0.0", "stable") as changes:
        assert put(changes, tensors) > 0
    assert equal(tensors, makers.read_weights(client.pull(f"{name}@1.1.0", tmp_path / "after", quiet=True).folder))
    base = makers.read_weights(files.base)
    with here.client() as session, open_changes(session, name, "base", "1.1.0") as changes:
        put(changes, base)
    assert equal(base, tensors)
