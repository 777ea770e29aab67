"""Recipes put into models that run, held to the bits of the files that the same recipes give."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, dispatch_model

from client.live.bound import BoundWeights
from client.live.resident_base import ResidentBase
from client.live.weights import LiveWeights
from registry.breadcrumbs.formats.checkpoint import Checkpoint, open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.errors import BaseMismatch, CheckpointMismatch, DigestMismatch, InvalidRequest, NotFinite, WrongState
from tests.support import makers
from tests.support.live_makers import Family, bits, load, make_dinov2, make_llama, make_mixtral, open_family

HUGE = "9" * 19


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    folder = tmp_path_factory.mktemp("llama")
    with open_family(folder, make_llama(folder / "base")) as family:
        yield family


def live(family: Family, module: torch.nn.Module) -> LiveWeights:
    return LiveWeights(module, family.base, family.patches, family.recipe(), family.digest)


@pytest.mark.parametrize(
    ("weights", "alpha", "method"),
    [(("1", "0.5", "-0.3"), "0.4", "sum"), (("1", "2"), "0.7", "ties"), (("1", "1", "0.2"), "0.5", "mean")],
)
def test_a_model_that_runs_becomes_the_release_to_the_bit(
    llama: Family, weights: tuple[str, ...], alpha: str, method: str, tmp_path: Path
) -> None:
    module = load(llama.folder)
    memory = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    before, recipe = bits(module), llama.recipe(*weights, alpha=alpha, method=method)
    weights_of = live(llama, module)
    assert weights_of.compose(recipe) > 0
    released = load(llama.composed(recipe, tmp_path / "release"))
    assert bits(module) == bits(released) != before
    assert {name: tensor.data_ptr() for name, tensor in module.state_dict().items()} == memory
    words = torch.tensor([[1, 2, 3]])
    assert torch.equal(module(words).logits, released(words).logits)
    weights_of.compose(llama.recipe())
    assert bits(module) == before


def test_only_what_differs_is_read_and_written(llama: Family, tmp_path: Path) -> None:
    one = llama.folder.parent / "one-tensor.safetensors"
    name = "model.layers.0.mlp.up_proj.weight"

    def change(tensor: str, values: torch.Tensor) -> torch.Tensor:
        return values + 1 if tensor == name else values

    info = makers.make_patch(llama.folder, makers.changed(llama.folder, tmp_path / "tuned", change), one, drop_top="0")
    with open_patch(one) as patch:
        family = Family(llama.folder, llama.base, llama.digest, {str(info.sha256): patch} | llama.patches)
        module = load(llama.folder)
        weights = live(family, module)
        whole = weights.compose(family.recipe("1", "1", "1"))
        assert weights.compose(family.recipe("0.5", "1", "1")) == llama.base.bytes_of(name) < whole
        versions = {key: tensor._version for key, tensor in module.named_parameters()}
        assert weights.compose(family.recipe("0.5", "1", "1")) == 0
        weights.compose(family.recipe("", "1", "1"))
        moved = {key for key, tensor in module.named_parameters() if tensor._version != versions[key]}
        assert moved == {name}


@pytest.mark.parametrize(("make", "saved"), [(make_mixtral, "experts.0"), (make_dinov2, "weights_in")])
def test_what_transformers_fuses_or_cuts_when_it_loads_is_changed_where_it_is(
    make: Callable[[Path], Path], saved: str, tmp_path: Path
) -> None:
    with open_family(tmp_path, make(tmp_path / "base"), (1, 2)) as family:
        module = load(family.folder)
        assert any(saved in name for name in family.base.tensors)
        assert not any(saved in name for name in module.state_dict())  # or this test tells nothing
        recipe = family.recipe("1", "0.5", alpha="0.8")
        weights = live(family, module)
        weights.compose(recipe)
        assert bits(module) == bits(load(family.composed(recipe, tmp_path / "release")))
        assert weights.verify() == digest_checkpoint_of(tmp_path / "release")


def digest_checkpoint_of(folder: Path) -> str:
    with open_checkpoint(folder) as checkpoint:
        return digest_checkpoint(checkpoint)


class Plain(torch.nn.Module):
    """A module of nobody's, with a tied name, a buffer and a transposed weight."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(makers.WORDS, makers.WIDTH)
        self.layers = torch.nn.ModuleList([torch.nn.Module(), torch.nn.Module()])
        self.layers[0].attention = torch.nn.Linear(makers.WIDTH, 3 * makers.WIDTH, bias=False)
        self.layers[0].norm = torch.nn.LayerNorm(makers.WIDTH, bias=False)
        self.layers[1].conv = torch.nn.Conv2d(3, 8, 3, bias=False)
        self.layers[1].register_parameter("empty", torch.nn.Parameter(torch.zeros(0, makers.WIDTH)))
        self.layers[1].norm = torch.nn.Module()
        self.layers[1].norm.bias = torch.nn.Parameter(torch.zeros(makers.WIDTH))
        self.scale = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("positions", torch.zeros(makers.WORDS, dtype=torch.int64))
        self.lm_head = torch.nn.Linear(makers.WIDTH, makers.WORDS, bias=False)
        self.load_state_dict(weights)
        turned = self.layers[0].attention.weight.detach().t().contiguous().t()
        self.layers[0].attention.weight = torch.nn.Parameter(turned)  # in other strides


def test_any_module_whose_names_are_those_of_the_checkpoint_is_changed(tmp_path: Path) -> None:
    base = makers.make_checkpoint(tmp_path / "base", shards=2)
    with open_family(tmp_path, base, granularity="row") as family:
        module = Plain(makers.read_weights(base))
        assert not module.layers[0].attention.weight.is_contiguous()
        recipe = family.recipe("1", "1", "1", alpha="0.3")
        weights = live(family, module)
        weights.compose(recipe)
        held = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        released = makers.read_weights(family.composed(recipe, tmp_path / "release"))
        assert held.keys() == released.keys()
        assert all(torch.equal(held[name], released[name]) for name in held)
        assert weights.verify() == digest_checkpoint_of(tmp_path / "release")


def test_weights_that_accelerate_keeps_off_the_device_are_changed_where_they_are_kept(
    llama: Family, tmp_path: Path
) -> None:
    module = load(llama.folder)
    cpu_offload(module, execution_device=torch.device("cpu"))
    assert any(tensor.is_meta for tensor in module.state_dict().values())
    recipe = llama.recipe("1", "1")
    live(llama, module).compose(recipe)
    words = torch.tensor([[1, 2, 3]])
    assert torch.equal(module(words).logits, load(llama.composed(recipe, tmp_path / "release"))(words).logits)


def test_weights_on_disk_are_refused(llama: Family, tmp_path: Path) -> None:
    module = load(llama.folder)
    places = {
        name: "disk" if name == "model.norm" else "cpu"
        for name in ("model.embed_tokens", "model.layers", "model.norm", "lm_head", "model.rotary_emb")
    }
    module = dispatch_model(module, places, main_device="cpu", offload_dir=str(tmp_path / "off"))
    with pytest.raises(InvalidRequest, match="is not in memory"):
        live(llama, module)


def test_an_overflow_leaves_the_model_as_it_was(llama: Family, tmp_path: Path) -> None:
    with open_family(tmp_path, llama.folder, (7, 8), scale=1e20) as family:
        module = load(llama.folder)
        weights = live(family, module)
        weights.compose(family.recipe("1", "1"))
        before = bits(module)
        with pytest.raises(NotFinite):
            weights.compose(family.recipe("1", "1", alpha=HUGE))
        assert weights.whole and bits(module) == before
        assert weights.recipe == family.recipe("1", "1")
        weights.verify()


def failing_from(monkeypatch: pytest.MonkeyPatch, call: int, until: int = 10**9) -> None:
    """Have the calls that write a tensor fail, counted from 1."""
    write: Callable[..., None] = BoundWeights.write
    calls = 0

    def fail(self: BoundWeights, view: memoryview, name: str, start: int) -> None:
        nonlocal calls
        calls += 1
        if call <= calls < until:
            raise OSError("The device is gone")
        write(self, view, name, start)

    monkeypatch.setattr(BoundWeights, "write", fail)


def test_a_failure_in_the_middle_is_undone(llama: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(llama.folder)
    weights, before = live(llama, module), bits(module)
    with monkeypatch.context() as patch:
        failing_from(patch, 3, 4)
        with pytest.raises(OSError, match="gone"):
            weights.compose(llama.recipe("1", "1"))
    assert weights.whole and bits(module) == before


def test_a_failure_that_cannot_be_undone_is_told_and_the_next_switch_repairs_it(
    llama: Family, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module, recipe = load(llama.folder), llama.recipe("1", "1")
    weights = live(llama, module)
    weights.compose(llama.recipe("", "", "1"))
    with monkeypatch.context() as patch:
        failing_from(patch, 3)
        with pytest.raises(WrongState, match="hold neither the old weights nor the new ones"):
            weights.compose(recipe)
    assert not weights.whole
    weights.compose(recipe)
    assert weights.whole and bits(module) == bits(load(llama.composed(recipe, tmp_path / "release")))


def test_a_model_that_is_not_what_it_is_said_to_be_is_refused(llama: Family) -> None:
    module = load(llama.folder)
    with torch.no_grad():
        module.model.norm.weight[0] += 1
    with pytest.raises(BaseMismatch, match="The model holds weights sha256"):
        live(llama, module)
    with pytest.raises(CheckpointMismatch, match='load it with dtype="auto"'):
        live(llama, load(llama.folder).float())
    with pytest.raises(CheckpointMismatch, match="another architecture"):
        live(llama, torch.nn.Linear(2, 2))


def test_memory_that_two_tensors_share_without_being_tied_is_refused(llama: Family) -> None:
    module = load(llama.folder)
    first, second = (layer.mlp.up_proj for layer in module.model.layers)
    second.weight = first.weight
    with pytest.raises(InvalidRequest, match="give each its own"):
        live(llama, module)


def test_verifying_sees_what_something_else_changed(llama: Family) -> None:
    module = load(llama.folder)
    weights = live(llama, module)
    weights.compose(llama.recipe("1"))
    with torch.no_grad():
        module.model.norm.weight[0] += 1
    with pytest.raises(DigestMismatch, match="Something else changed the model"):
        weights.verify()


def test_a_tensor_that_the_model_lacks_stays_the_bases_unless_it_would_change(llama: Family) -> None:
    module = load(llama.folder).model  # without the head, which is tied
    weights = live(llama, module)
    weights.compose(llama.recipe("1"))
    weights.verify()
    other = live(llama, module_without(llama))
    assert other.left_out == ("model.norm.weight",)
    with pytest.raises(CheckpointMismatch, match="has no such tensor"):
        other.compose(llama.recipe("1"))
    with pytest.raises(CheckpointMismatch, match="has no such tensor"):  # and not that its digest is another
        LiveWeights(module_without(llama), llama.base, llama.patches, llama.recipe("1"))


def module_without(family: Family) -> torch.nn.Module:
    module = load(family.folder)
    del module.model.norm
    return module


def test_a_head_that_only_the_base_ties_follows_the_embedding(llama: Family, tmp_path: Path) -> None:
    module = load(llama.folder)
    module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.detach().clone())
    recipe = llama.recipe("1", "1")
    weights = live(llama, module)
    weights.compose(recipe)
    assert bits(module) == bits(load(llama.composed(recipe, tmp_path / "release")))
    with torch.no_grad():
        module.lm_head.weight[0, 0] += 1
    with pytest.raises(CheckpointMismatch, match="two that differ"):
        LiveWeights(module, llama.base, llama.patches, recipe)


def test_what_the_model_ties_may_not_differ(tmp_path: Path) -> None:
    base = make_llama(tmp_path / "base", tied=False)
    tensors = makers.read_weights(base)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    makers.write_weights(base, tensors)
    with open_family(tmp_path, base, (1,)) as family:
        module = load(base)
        module.lm_head.weight = module.model.embed_tokens.weight
        module.config.tie_word_embeddings = True
        module._tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
        module.all_tied_weights_keys = dict(module._tied_weights_keys)
        weights, before = live(family, module), bits(module)
        with pytest.raises(CheckpointMismatch, match="makes them differ"):
            weights.compose(family.recipe("1"))
        assert bits(module) == before


@pytest.mark.parametrize("most", [0, 3000, 2**30])
def test_a_base_in_memory_gives_the_same_bits_within_its_bound(llama: Family, most: int, tmp_path: Path) -> None:
    recipe, module = llama.recipe("1", "0.5"), load(llama.folder)
    with ResidentBase(llama.base, most) as base:
        assert isinstance(base, Checkpoint)
        weights = LiveWeights(module, base, llama.patches, llama.recipe(), llama.digest)
        weights.compose(recipe)
        assert bits(module) == bits(load(llama.composed(recipe, tmp_path / "release")))
        weights.compose(llama.recipe())
        assert base.held <= most and (base.held > 0) == (most > 0)
    assert llama.base.tensors and digest_checkpoint(llama.base) == llama.digest  # it is still open


def test_variances_that_become_negative_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from registry.breadcrumbs.composing import variances

    monkeypatch.setattr(variances, "ENDING", "norm.weight")
    base = make_llama(tmp_path / "base", dtype=torch.float32)
    with open_family(tmp_path, base, (1,), scale=1.0, drop_top="0", drop_bottom="0") as family:
        weights = live(family, load(base))
        weights.compose(family.recipe("1", alpha="4"))
        assert weights.negative and all("norm.weight" in name for name in weights.negative)
        weights.compose(family.recipe())
        assert weights.negative == {}
