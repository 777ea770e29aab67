"""Live models whose recipes a GPU composes (or Triton's interpreter, where there is none), to the CPU's bits."""

from pathlib import Path

import pytest

from client.live.weights import LiveWeights
from registry.breadcrumbs.composing import held
from registry.breadcrumbs.composing.gpu.launches import CudaLaunch
from registry.errors import NotFinite
from tests.support.gpu_kernels import DEVICE, gpu_engine, keep_bases
from tests.support.host_lanes import Lanes
from tests.support.live_makers import bits, load, make_llama, open_family

pytestmark = [  # the interpreter's numpy: an overflow, a signalling NaN
    pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in (cast|add):RuntimeWarning"),
]


def test_a_gpu_gives_the_same_bits_and_reads_the_base_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_bases(monkeypatch)
    with open_family(tmp_path, make_llama(tmp_path / "base"), (1, 2), scale=1e20) as family:
        first, second = family.recipe("1", "0.5"), family.recipe("1", "", alpha="0.3")
        expected = [bits(load(family.composed(recipe, tmp_path / recipe.digest))) for recipe in (first, second)]
        module = load(family.folder).to(DEVICE)
        live = LiveWeights(module, family.base, family.patches, family.recipe(), family.digest, device="cuda")
        live.compose(first)
        assert bits(module) == expected[0]
        resident, _ = kept.use((family.digest, 0), (), 2**30, next(module.parameters()).device)
        assert resident is not None and resident.holds("model.norm.weight")
        with pytest.raises(NotFinite):
            live.compose(family.recipe("1", "0.5", alpha="9" * 19))
        assert live.whole and bits(module) == expected[0]
        with (tmp_path / "base" / "model.safetensors").open("r+b") as file:  # which is not read any more
            file.seek(family.base.place("model.norm.weight")[1])
            file.write(bytes(8))
        live.compose(second)
        assert bits(module) == expected[1]


def test_what_stays_on_the_gpu_is_composed_right_into_the_module(
    lanes: Lanes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_bases(monkeypatch)
    monkeypatch.setattr(gpu_engine, "pick_launch", lambda device: CudaLaunch)
    with open_family(tmp_path, make_llama(tmp_path / "base"), (1, 2), scale=1e20) as family:
        recipes = [family.recipe("1", "0.5"), family.recipe("1", "", alpha="0.3"), family.recipe()]
        expected = [bits(load(family.composed(recipe, tmp_path / recipe.digest))) for recipe in recipes]
        module = load(family.folder).to(DEVICE)
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()  # a file that is mapped may have it anywhere
        live = LiveWeights(module, family.base, family.patches, family.recipe(), family.digest, device="cuda")
        live.compose(recipes[0])
        monkeypatch.setattr(held, "Crew", lambda *asked: pytest.fail("tensors are read or copied"))
        for recipe, due in zip(recipes, expected, strict=True):
            live.compose(recipe)
            assert bits(module) == due
        live.compose(recipes[0])
        with pytest.raises(NotFinite, match="choose a smaller alpha"):
            live.compose(family.recipe("1", "0.5", alpha="9" * 19))
