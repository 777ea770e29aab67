"""Live weights of modules of many kinds: compiled, with adapters, quantised, and cut up among processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from client.live.weights import LiveWeights
from registry.errors import InvalidRequest
from tests.support.live_makers import Family, bits, load, make_llama, open_family


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    with open_family(tmp_path, make_llama(tmp_path / "base"), (1,)) as opened:
        yield opened


def live_weights(module: torch.nn.Module, family: Family) -> LiveWeights:
    return LiveWeights(module, family.base, family.patches, family.recipe(), family.digest)


def test_a_compiled_module_computes_with_the_new_weights(family: Family, tmp_path: Path) -> None:
    recipe = family.recipe("1")
    expected = load(family.composed(recipe, tmp_path / "composed"))
    module = torch.compile(load(family.folder), backend="eager")
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        before = module(tokens).logits
        live_weights(module, family).compose(recipe)
        after = module(tokens).logits
        assert torch.equal(after, expected(tokens).logits)
    assert not torch.equal(after, before)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # which PEFT asks for
def test_a_module_with_an_adapter_is_refused_and_one_that_it_was_taken_off_is_changed(
    family: Family, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    recipe = family.recipe("1")
    expected = bits(load(family.composed(recipe, tmp_path / "composed")))
    wrapped = peft.get_peft_model(load(family.folder), peft.LoraConfig(target_modules=["q_proj"], r=2))
    for module in (wrapped, torch.compile(wrapped, backend="eager")):
        with pytest.raises(InvalidRequest, match="PEFT adapter"):
            live_weights(module, family)
    inner = wrapped.unload()
    live_weights(inner, family).compose(recipe)
    assert bits(inner) == expected


class Quantised(torch.Tensor):
    """A tensor that says one dtype, and holds another."""


def test_a_quantised_module_is_refused(family: Family) -> None:
    module = load(family.folder)
    weight = module.get_submodule("model.norm").weight
    module.get_submodule("model.norm").weight = torch.nn.Parameter(weight.detach().as_subclass(Quantised))
    with pytest.raises(InvalidRequest, match="is a Quantised, which does not hold the bits"):
        live_weights(module, family)


SHARDED = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from client.live.weights import LiveWeights
from registry.errors import InvalidRequest
from tests.support.live_makers import bits, load, open_family

rank, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
(folder / str(rank)).mkdir()
with open_family(folder / str(rank), folder / "base", (1,)) as family:
    def begin(module):
        return LiveWeights(module, family.base, family.patches, family.recipe(), family.digest)

    def refused(module):
        try:
            begin(module)
        except InvalidRequest as why:
            return str(why)

    whole = load(family.folder)
    print(refused(fully_shard(load(family.folder))))
    print(refused(FullyShardedDataParallel(load(family.folder), device_id=torch.device("cpu"))))
    live = begin(torch.nn.parallel.DistributedDataParallel(whole))
    live.compose(family.recipe("1"))
    expected = bits(load(family.composed(family.recipe("1"), folder / f"composed-{rank}")))
    print(bits(whole) == expected)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_a_module_that_is_cut_up_among_processes_is_refused_in_each_and_copies_are_changed(tmp_path: Path) -> None:
    make_llama(tmp_path / "base")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", SHARDED]
    where = {"cwd": Path(__file__).parents[3], "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    both = [
        subprocess.Popen([*command, str(rank), port, str(tmp_path)], stdout=subprocess.PIPE, text=True, **where)
        for rank in range(2)
    ]
    try:
        answers = [one.communicate(timeout=500)[0].splitlines() for one in both]
    finally:
        for one in both:
            one.kill()
    for parts, wrapped, same in answers:
        assert "is in this process (a DTensor)" in parts
        assert "cut up by FSDP" in wrapped
        assert same == "True"
