"""Live models of a real registry: from the release that was pulled to others, and back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import client
from client.live import LiveModel
from registry.errors import BaseMismatch, InvalidRecipe, InvalidRequest, NotFound, Unauthenticated
from tests.support import makers
from tests.support.live_makers import bits, load, make_llama
from tests.support.visitors import Registry, publish_model

MODEL = "ana/live"
RELEASES = {"1.0.0": [(1, "1"), (2, "0.5")], "1.1.0": [(1, "1"), (2, "0.5"), (3, "1")]}


@pytest.fixture(scope="module")
def model(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with three patches and two releases."""
    folder = tmp_path_factory.mktemp("live")
    base = make_llama(folder / "base")
    for seed in (1, 2, 3):
        makers.make_patch(base, makers.fine_tuned(base, folder / f"{seed}", seed), folder / f"{seed}.safetensors")
    publish_model(registry, MODEL, base, [folder / f"{seed}.safetensors" for seed in (1, 2, 3)], RELEASES)
    return MODEL


@pytest.fixture
def released(here: Registry, model: str, tmp_path: Path) -> Path:
    return client.pull(f"{model}@1.0.0", tmp_path / "1.0.0", quiet=True).folder


@pytest.fixture
def live(released: Path) -> Iterator[LiveModel]:
    with LiveModel(load(released), f"{MODEL}@1.0.0", quiet=True) as opened:
        yield opened


def pulled(ref: str, folder: Path) -> dict[str, bytes]:
    """Return the bits of a revision, as from_pretrained loads them."""
    return bits(load(client.pull(f"{MODEL}@{ref}", folder, quiet=True).folder))


def test_a_model_moves_between_releases_channels_and_the_base(released: Path, tmp_path: Path) -> None:
    module = load(released)
    with LiveModel(module, f"{MODEL}@1.0.0", quiet=True) as live:
        before = bits(module)
        done = live.switch("stable", verify=True)
        assert (done.ref, live.ref) == ("1.1.0", "1.1.0")
        assert bits(module) == pulled("1.1.0", tmp_path / "stable")
        assert done.verified is not None and done.written > 0
        live.switch("base")
        assert bits(module) == pulled("base", tmp_path / "base")
        assert live.revert(verify=True).ref == "1.0.0"
        assert bits(module) == before
    live.close()
    assert bits(module) == before


def test_alpha_and_weights_are_set_without_the_registry_composing_anything(
    released: Path, tmp_path: Path, here: Registry
) -> None:
    module = load(released)
    with LiveModel(module, f"{MODEL}@1.0.0", quiet=True) as live:
        live.set(alpha="0.25", weights={2: 0, 3: "0.5"}, verify=True)
        recipe = live.recipe
        assert recipe.alpha == "0.25" and [item.weight for item in recipe.items] in (["1", "0.5"], ["0.5", "1"])
        composed = client.compose(MODEL, [1, (3, "0.5")], alpha="0.25", quiet=True)
        assert composed.composition.recipe.digest == recipe.digest == live.ref
        assert bits(module) == pulled(recipe.digest, tmp_path / "composed")
        live.set(weights={1: 0, 3: 0})
        assert live.ref == "base" and bits(module) == pulled("base", tmp_path / "base")
        live.switch(composed, verify=True)
        live.set(method="mean", alpha=0.5)
        assert live.recipe.method == "mean"
        live.switch(composed.composition.recipe)
        assert live.recipe == recipe
        assert live.set(alpha="0.25").written == 0


def test_what_cannot_be_is_refused_and_changes_nothing(live: LiveModel) -> None:
    before = live.recipe
    for wrong, error in (
        (lambda: live.switch("9.9.9"), NotFound),
        (lambda: live.set(weights={77: "1"}), NotFound),
        (lambda: live.set(alpha="one"), InvalidRequest),
        (lambda: live.set(weights={2: "x"}), InvalidRequest),
        (lambda: live.set(method="median"), InvalidRecipe),
    ):
        with pytest.raises(error):
            wrong()
    assert live.recipe == before and live.ref == "1.0.0" and live.whole
    assert live.verify().startswith("sha256:")


def test_a_model_of_another_revision_is_refused(released: Path, here: Registry) -> None:
    with pytest.raises(BaseMismatch, match="The model holds weights sha256"):
        LiveModel(load(released), f"{MODEL}@1.1.0", quiet=True)
    with pytest.raises(BaseMismatch, match="The base here has weights"):
        LiveModel(load(released), f"{MODEL}@1.0.0", base=released, quiet=True)
    with pytest.raises(InvalidRequest, match="not a place for a base"):
        LiveModel(load(released), f"{MODEL}@1.0.0", hold="tape", quiet=True)


def test_the_base_may_be_a_copy_or_in_memory(released: Path, tmp_path: Path) -> None:
    base = client.pull(f"{MODEL}@base", tmp_path / "base", quiet=True).folder
    module = load(released)
    with LiveModel(module, f"{MODEL}@1.0.0", base=base, hold="memory", hold_bytes=10_000, quiet=True) as live:
        live.switch("1.1.0", verify=True)
    assert bits(module) == pulled("1.1.0", tmp_path / "after")


def test_without_a_registry_it_is_told_which_is_missing() -> None:
    import torch

    with pytest.raises(Unauthenticated, match="crumb login"):
        LiveModel(torch.nn.Linear(1, 1), "ana/live@1.0.0", quiet=True)
