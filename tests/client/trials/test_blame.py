"""Who changed a weight, a tensor, a model: asked of a real registry, answered on this machine."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from client.trials.blame import split_place
from tests.support import makers
from tests.support.visitors import Crumb, Registry

ALPHA, WEIGHT = 0.5, 0.25  # of all, and of the second patch


@pytest.fixture
def here(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry, for anybody."""
    monkeypatch.setenv("CRUMB_URL", registry.url)
    return registry


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return makers.make_checkpoint(tmp_path_factory.mktemp("blames") / "base", shards=2)


@pytest.fixture(scope="module")
def address(registry: Registry, base: Path) -> str:
    """A model of two patches: #1 adds 1 to embed.weight[3, 5] and to the scalar, #2 adds 8 and 2 to two of embed."""
    from client.actions.jobs import wait
    from client.actions.models import create
    from client.actions.push import push

    with registry.client() as client:
        create(client, "ana/blamed", base)
        for number in (1, 2):
            tuned = makers.read_weights(base)
            tuned["embed.weight"][3, 5] += (1, 8)[number - 1]
            if number == 1:
                tuned["scale"] += 1
            else:
                tuned["embed.weight"][0, 0] += 2
            makers.write_weights(base.with_name(f"tuned-{number}"), tuned)
            patch = base.with_name(f"{number}.safetensors")
            makers.make_patch(base, base.with_name(f"tuned-{number}"), patch, drop_bottom="0", drop_top="0")
            push(client, patch, "ana/blamed", f"patch {number}")
        made = client.compose("ana/blamed", [(1, "1"), (2, str(WEIGHT))], alpha=str(ALPHA))
        if made.job is not None:
            wait(client, made.job, timeout=60)
    return f"ana/blamed@{made.recipe.digest}"


def test_of_a_weight_it_is_what_each_patch_adds_between_base_and_composed(
    here: Registry, address: str, base: Path, crumb: Crumb
) -> None:
    found = json.loads(crumb("blame", address, "embed.weight[3,5]", "--json"))
    crumb("pull", address, "-o", "it")
    before, after = (float(makers.read_weights(folder)["embed.weight"][3, 5]) for folder in (base, crumb.cwd / "it"))
    assert (found["base"], found["composed"]) == (before, after)
    assert [(part["number"], part["title"]) for part in found["patches"]] == [(2, "patch 2"), (1, "patch 1")]
    assert [part["amount"] for part in found["patches"]] == pytest.approx([8 * ALPHA * WEIGHT, ALPHA], rel=1e-6)
    assert sum(part["share"] for part in found["patches"]) == pytest.approx(1)
    assert float(np.float32(before + math.fsum(part["amount"] for part in found["patches"]))) == after
    text = crumb("blame", address, "embed.weight[3, 5]")
    assert text.splitlines()[0].split() == ["of", "embed.weight[3,5]"]
    assert "+0.5" in text.splitlines()[-1]
    assert repr(after) in text
    assert "No patch changes it" in crumb("blame", address, "embed.weight[1,1]")


def test_of_more_it_is_each_patchs_share_of_energy(here: Registry, address: str, crumb: Crumb) -> None:
    found = json.loads(crumb("blame", address, "embed.weight", "--json"))
    energies = [(8 * ALPHA * WEIGHT) ** 2 + (2 * ALPHA * WEIGHT) ** 2, ALPHA**2]
    assert [part["number"] for part in found["patches"]] == [2, 1]
    assert [part["nnz"] for part in found["patches"]] == [2, 1]
    assert [part["amount"] for part in found["patches"]] == pytest.approx([math.sqrt(one) for one in energies])
    assert [part["share"] for part in found["patches"]] == pytest.approx([one / sum(energies) for one in energies])

    whole = json.loads(crumb("blame", address, "--json"))
    assert set(whole["tensors"]) == {"embed.weight", "scale"}
    assert whole["tensors"]["embed.weight"] == found["patches"]
    energies[1] += ALPHA**2  # of the scalar
    assert [part["share"] for part in whole["patches"]] == pytest.approx([one / sum(energies) for one in energies])
    assert whole["index"] is whole["tensor"] is whole["base"] is None
    lines = crumb("blame", address).splitlines()
    assert lines[0] == "of  the whole model"
    assert [line.split()[0] for line in lines[2:]] == ["#2", "#1"]
    assert crumb("blame", address, "-q").startswith("#2 ")


def test_a_scalar_is_named_with_no_number(here: Registry, address: str, crumb: Crumb) -> None:
    found = json.loads(crumb("blame", address, "scale[]", "--json"))
    assert found["index"] == []
    assert [part["amount"] for part in found["patches"]] == pytest.approx([ALPHA], rel=1e-6)


@pytest.mark.parametrize(
    ("place", "words"),
    [("embed.weight[40,0]", "no weight at"), ("embed.weight[1]", "no weight at"), ("nothing", "no tensor"),
     ("embed.weight[1,", "no tensor"), ("positions", "floating-point")],
)  # fmt: skip
def test_what_is_not_there_is_told(place: str, words: str, here: Registry, address: str, crumb: Crumb) -> None:
    crumb("blame", address, place, code=1)
    assert words in crumb.errors
    assert crumb.errors.count("\n") == 1


def test_no_patch_made_the_base(here: Registry, address: str, crumb: Crumb) -> None:
    crumb("blame", address.split("@")[0] + "@base", code=1)
    assert "no patch changed" in crumb.errors


def test_a_tensor_whose_name_ends_like_an_index_is_a_tensor() -> None:
    assert split_place("a[1]", ["a", "a[1]"]) == ("a[1]", None)
    assert split_place("a[1][2, 3]", ["a", "a[1]"]) == ("a[1]", (2, 3))
    assert split_place("a", ["a"]) == ("a", None)
    assert split_place("a[]", ["a"]) == ("a", ())
    assert split_place("a[-1]", ["a"]) == ("a[-1]", None)
