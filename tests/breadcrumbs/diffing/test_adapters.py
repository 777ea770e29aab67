"""A LoRA adapter is its base with small changes, to the bit, and makes the patch that the merged model would."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from registry import errors
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from tests.support.adapter_makers import add_slowly, factors, open_adapted, scale_of, write_adapter
from tests.support.science_makers import raw, read_all, read_tensor, write_model

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
LOOSE = MaskParams("0.5", "0.01")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Give a kind of module, its weight as [out, n], its factors as matrices, and settings."""
    kind = draw(st.sampled_from(("linear", "conv1d", "conv2d", "embedding", "turned")))
    out, into, rank, seed = (draw(st.integers(1, most)) for most in (40, 90, 5, 1000))
    if kind == "turned" and out == into:
        out += 1
    weight, a, b = random(out, into, seed=seed), random(rank, into, seed=seed + 1), random(out, rank, seed=seed + 2)
    dtypes = [draw(st.sampled_from(FLOATS)) for _ in range(3)]
    power = 2.0 ** draw(st.integers(-20, 6))
    alpha, stabilised = draw(st.sampled_from((1, 3, 16, 0.3, -2))), draw(st.booleans())
    weight, a, b = (
        given.mul(by).to(dtype) for given, by, dtype in zip((weight, a, b), (1, power, 1), dtypes, strict=True)
    )
    return kind, weight, a, b, {"r": rank, "lora_alpha": alpha, "use_rslora": stabilised}


@given(cases(), st.data())
def test_every_element_is_the_base_and_a_scaled_sum_rounded_once(case: Any, data: st.DataObject) -> None:
    kind, weight, a, b, config = case
    expected = add_slowly(weight, a, b, scale_of(config["lora_alpha"], config["r"], config["use_rslora"]))
    tensors = {"m.lora_A.weight": a, "m.lora_B.weight": b}
    if kind in ("conv1d", "conv2d"):
        kernel = (1, a.shape[1]) if kind == "conv1d" else (1, a.shape[1], 1)
        weight, expected, tensors["m.lora_A.weight"] = (t.unflatten(1, kernel) for t in (weight, expected, a))
        tensors["m.lora_B.weight"] = b.reshape(*b.shape, *[1] * (len(kernel) - 1))
    if kind in ("embedding", "turned"):
        weight, expected = weight.T.contiguous(), expected.T.contiguous()
    if kind == "embedding":
        tensors = {"m.lora_embedding_A": a, "m.lora_embedding_B": b}
    with TemporaryDirectory() as folder:
        base = write_model(Path(folder) / "base", {"m.weight": weight})
        adapter = write_adapter(Path(folder) / "adapter", tensors, fan_in_fan_out=kind == "turned", **config)
        with open_checkpoint(base) as before, open_adapted(adapter, before) as after:
            assert after.tensors["m.weight"].shape == expected.shape
            found = read_tensor(after, "m.weight")
            assert found.dtype == expected.dtype
            assert raw(found) == raw(expected)
            start = data.draw(st.integers(0, expected.numel()))
            stop = data.draw(st.integers(start, expected.numel()))
            assert raw(read_tensor(after, "m.weight", start, stop)) == raw(expected.reshape(-1)[start:stop])


def slowly(left: torch.Tensor, right: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return left [rows, r] @ right [r, columns] in float64, by sums in the order of the rank."""
    zero = torch.zeros(left.shape[0], right.shape[1], dtype=torch.float64)
    return add_slowly(zero, right, left, 1.0).numpy()


@given(st.sampled_from(("LOHA", "LOKR", "LOKR products", "IA3", "IA3 inputs")), st.integers(0, 99), st.data())
def test_other_methods_are_what_they_say_in_float64_rounded_once(kind: str, seed: int, data: st.DataObject) -> None:
    dtypes = [data.draw(st.sampled_from(FLOATS)) for _ in range(5)]
    sizes = [data.draw(st.integers(1, 12)) for _ in range(5)]
    out, into, rank = sizes[0] * sizes[1], sizes[2] * sizes[3] * 9, sizes[4]
    weight = random(out, into, seed=seed).to(dtypes[0])

    def made(number: int, *shape: int) -> torch.Tensor:
        return random(*shape, seed=seed + number).to(dtypes[number])

    settings: dict[str, Any] = {"peft_type": kind.split()[0]}
    if kind.startswith("IA3"):
        inputs = "inputs" in kind
        tensors = {"m.ia3_l": made(1, *((1, into) if inputs else (out, 1)))}
        settings["feedforward_modules"] = ["m"] if inputs else []
        changed = weight.double().numpy() * tensors["m.ia3_l"].double().numpy()
    else:
        settings |= {"r": rank, "alpha": 3}
        if kind == "LOHA":
            shapes = {"w1_a": (out, rank), "w1_b": (rank, into), "w2_a": (out, rank), "w2_b": (rank, into)}
        elif kind == "LOKR":
            shapes = {"w1": (sizes[0], sizes[2]), "w2": (sizes[1], sizes[3] * 9)}
        else:
            shapes = {"w1_a": (sizes[0], rank), "w1_b": (rank, sizes[2]), "w2_a": (sizes[1], rank),
                      "w2_b": (rank, sizes[3] * 9)}  # fmt: skip
        letters = "hada" if kind == "LOHA" else "lokr"
        parts = {name: made(number, *shape) for number, (name, shape) in enumerate(shapes.items(), 1)}
        tensors = {f"m.{letters}_{name}": tensor for name, tensor in parts.items()}
        first, second = (
            parts[f"w{number}"].double().numpy() if f"w{number}" in parts
            else slowly(parts[f"w{number}_a"], parts[f"w{number}_b"])
            for number in (1, 2)
        )  # fmt: skip
        product = first * second if kind == "LOHA" else np.kron(first, second)
        changed = weight.double().numpy() + (3 / rank) * product
    expected = torch.from_numpy(changed)
    expected = expected if weight.dtype == torch.float64 else expected.float()
    with TemporaryDirectory() as folder:
        base = write_model(Path(folder) / "base", {"m.weight": weight})
        adapter = write_adapter(Path(folder) / "adapter", tensors)
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        with open_checkpoint(base) as before, open_adapted(adapter, before) as after:
            assert raw(read_tensor(after, "m.weight")) == raw(expected)
            start = data.draw(st.integers(0, expected.numel()))
            stop = data.draw(st.integers(start, expected.numel()))
            assert raw(read_tensor(after, "m.weight", start, stop)) == raw(expected.reshape(-1)[start:stop])


def base_tensors() -> dict[str, torch.Tensor]:
    return {
        "model.embed_tokens.weight": random(40, 16, seed=1).bfloat16(),
        "model.layers.0.q_proj.weight": random(16, 16, seed=2).bfloat16(),
        "model.layers.0.up_proj.weight": random(1100, 600, seed=3).bfloat16(),  # longer than what is read at a time
        "model.layers.0.up_proj.bias": random(1100, seed=4).bfloat16(),
        "model.norm.weight": random(16, seed=5).bfloat16(),
        "model.steps": torch.arange(5),
        "lm_head.weight": random(40, 16, seed=6).bfloat16(),
    }


def adapter_tensors() -> dict[str, torch.Tensor]:
    return {
        **factors("model.layers.0.q_proj", 16, 16),
        **factors("model.layers.0.up_proj", 1100, 600, seed=1),
        "model.embed_tokens.lora_embedding_A": random(2, 40, seed=7),
        "model.embed_tokens.lora_embedding_B": random(16, 2, seed=8),
        "model.embed_tokens.base_layer.weight": random(40, 16, seed=9),
        "model.layers.0.up_proj.base_layer.bias": random(1100, seed=10),
        "lm_head.weight": random(40, 16, seed=11),
    }


def merged_tensors() -> dict[str, torch.Tensor]:
    base, adapter = base_tensors(), adapter_tensors()
    merged = dict(base)
    for module in ("model.layers.0.q_proj", "model.layers.0.up_proj"):
        a, b = adapter[f"{module}.lora_A.weight"], adapter[f"{module}.lora_B.weight"]
        merged[f"{module}.weight"] = add_slowly(base[f"{module}.weight"], a, b, 1.5)
    a, b = adapter["model.embed_tokens.lora_embedding_A"], adapter["model.embed_tokens.lora_embedding_B"]
    own = adapter["model.embed_tokens.base_layer.weight"]
    merged["model.embed_tokens.weight"] = add_slowly(own.T, a, b, 1.5).T.contiguous()
    merged["model.layers.0.up_proj.bias"] = adapter["model.layers.0.up_proj.base_layer.bias"]
    merged["lm_head.weight"] = adapter["lm_head.weight"]
    return merged


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base in two shards, an adapter, and the two merged."""
    folder = tmp_path_factory.mktemp("adapters")
    return (
        write_model(folder / "base", base_tensors(), shards=2),
        write_adapter(folder / "adapter", adapter_tensors()),
        write_model(folder / "merged", merged_tensors()),
    )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_an_adapter_makes_the_patch_of_the_merged_model(
    folders: tuple[Path, Path, Path], tmp_path: Path, granularity: str, threads: int
) -> None:
    params = MaskParams("0.8", "0.01", granularity)
    with open_checkpoint(folders[0]) as base:
        with open_adapted(folders[1], base) as adapted:
            made = diff(base, adapted, tmp_path / "a", params, threads=threads)
        with open_checkpoint(folders[2]) as merged:
            expected = diff(base, merged, tmp_path / "b", params)
    assert made == expected
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(made.tensors) == 5


def test_what_an_adapter_leaves_alone_is_not_compared(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with open_checkpoint(folders[0]) as base, open_adapted(folders[1], base) as adapted:
        assert adapted.shared == {"model.norm.weight", "model.steps"}
        diff(base, adapted, tmp_path / "a", LOOSE, progress=lambda done, total: seen.append((done, total)))
        changed = sum(adapted.bytes_of(name) for name in adapted.tensors if name not in adapted.shared)
        assert seen[-1] == (base.size + changed,) * 2
        assert torch.equal(read_tensor(adapted, "model.steps"), torch.arange(5))


def test_patterns_are_applied_as_peft_does(tmp_path: Path) -> None:
    modules = ("layers.0.q", "layers.1.q", "layers.11.q", "layers.0.k")
    ranks, alphas = (4, 1, 1, 2), (8, 8, 8, 3)
    base = write_model(tmp_path / "base", {f"{module}.weight": torch.zeros(3, 5) for module in modules})
    tensors: dict[str, torch.Tensor] = {}
    for module, rank in zip(modules, ranks, strict=True):
        tensors |= factors(module, 3, 5, rank)
    patterns = {"rank_pattern": {"layers.0.q": 4, "q": 1}, "alpha_pattern": {r"layers\.\d+\.q": 8, "layers.1.q": 99}}
    adapter = write_adapter(tmp_path / "adapter", tensors, **patterns)
    with open_checkpoint(base) as before, open_adapted(adapter, before) as after:
        for module, rank, alpha in zip(modules, ranks, alphas, strict=True):
            a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
            expected = add_slowly(torch.zeros(3, 5), a, b, alpha / rank)
            assert torch.equal(read_tensor(after, f"{module}.weight"), expected.flatten())


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("", ""), ("", "model."), ("model.", ""), ("model.", "outer.model."), ("outer.model.", "model.")],
)
def test_a_prefix_that_only_one_side_has_is_overlooked(tmp_path: Path, theirs: str, ours: str) -> None:
    weights = {f"{ours}layers.{number}.q.weight": torch.zeros(3, 5) for number in range(2)}
    base = write_model(tmp_path / "base", weights | {"lm_head.weight": torch.zeros(7, 5)})
    adapter = write_adapter(tmp_path / "adapter", factors(f"{theirs}layers.0.q", 3, 5) | factors("lm_head", 7, 5))
    with open_checkpoint(base) as before, open_adapted(adapter, before) as after:
        assert after.shared == {f"{ours}layers.1.q.weight"}


def test_another_prefix_is_another_model(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", {"transformer.layers.0.q.weight": torch.zeros(3, 5)})
    adapter = write_adapter(tmp_path / "adapter", factors("model.layers.0.q", 3, 5))
    told = pytest.raises(errors.CheckpointMismatch, match=r"'model\.layers\.0\.q\.weight' is not in the base")
    with open_checkpoint(base) as before, open_adapted(adapter, before) as after, told:
        diff(before, after, tmp_path / "patch")


def test_two_prefixes_that_fit_are_not_chosen_from(tmp_path: Path) -> None:
    weights = {f"{side}.layers.0.q.weight": torch.zeros(3, 5) for side in ("encoder", "decoder")}
    base = write_model(tmp_path / "base", weights)
    adapter = write_adapter(tmp_path / "adapter", factors("layers.0.q", 3, 5))
    with open_checkpoint(base) as before, pytest.raises(errors.CheckpointMismatch, match=r"layers\.0\.q.*not clear"):
        open_adapted(adapter, before)


def test_a_head_that_the_base_lacks_is_told_and_can_be_left_out(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", {"model.q.weight": torch.zeros(3, 5)})
    adapter = write_adapter(tmp_path / "adapter", factors("model.q", 3, 5) | {"score.weight": torch.ones(2, 5)})
    with open_checkpoint(base) as before, open_adapted(adapter, before) as after:
        with pytest.raises(errors.CheckpointMismatch, match=r"'score\.weight' is not in the base"):
            diff(before, after, tmp_path / "patch", LOOSE)
        assert list(diff(before, after, tmp_path / "patch", LOOSE, exclude=["score.*"]).tensors) == ["model.q.weight"]


EMBED = {
    f"model.embed_tokens.lora_embedding_{letter}": random(*shape)
    for letter, shape in {"A": (2, 7), "B": (5, 2)}.items()
}
HEAD = {"lm_head.lora_A.weight": EMBED["model.embed_tokens.lora_embedding_B"].T,
        "lm_head.lora_B.weight": EMBED["model.embed_tokens.lora_embedding_A"].T}  # fmt: skip


@pytest.mark.parametrize(
    ("tensors", "sound"),
    [
        (EMBED, True),  # the head goes with it
        (HEAD, False),
        (EMBED | HEAD, True),  # ensure_weight_tying: one change, told twice
        ({"lm_head.weight": random(7, 5)}, False),
        ({"lm_head.weight": random(7, 5), "model.embed_tokens.weight": random(7, 5)}, True),
        ({"lm_head.weight": random(7, 5), "model.embed_tokens.weight": random(7, 5, seed=1)}, False),
    ],
)
def test_tied_weights_stay_tied_or_are_told(tmp_path: Path, tensors: dict[str, torch.Tensor], sound: bool) -> None:
    embed = {"model.embed_tokens.weight": random(7, 5, seed=2).bfloat16()}
    base = write_model(tmp_path / "base", embed, config={"tie_word_embeddings": True})
    adapter = write_adapter(tmp_path / "adapter", tensors)
    with open_checkpoint(base) as before, open_adapted(adapter, before) as after:
        if sound:
            assert list(diff(before, after, tmp_path / "patch", LOOSE).tensors) == list(embed)
        else:
            with pytest.raises(errors.CheckpointMismatch, match=r"untied 'lm_head\.weight'"):
                diff(before, after, tmp_path / "patch", LOOSE)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_the_base_holds_twice_goes_with_the_embedding_it_is_tied_to(tmp_path: Path, tied: bool) -> None:
    table = random(7, 5, seed=2)
    held = {"model.embed_tokens.weight": table, "lm_head.weight": table.clone()}
    base = write_model(tmp_path / "base", held, config={"tie_word_embeddings": tied})
    adapter = write_adapter(tmp_path / "adapter", EMBED)
    with open_checkpoint(base) as before, open_adapted(adapter, before) as after:
        patch = diff(before, after, tmp_path / "patch", LOOSE)
    assert set(patch.tensors) == ({*held} if tied else {"model.embed_tokens.weight"})


def test_square_weights_lie_as_the_settings_say_unless_shapes_contradict(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", {"s.weight": torch.zeros(5, 5), "w.weight": torch.zeros(5, 3)})
    pair = factors("s", 5, 5)
    product = add_slowly(torch.zeros(5, 5), pair["s.lora_A.weight"], pair["s.lora_B.weight"], 1.5)
    with open_checkpoint(base) as before:
        for turned in (False, True):
            into = (3, 5) if turned else (5, 3)
            sound = write_adapter(tmp_path / f"sound{turned}", pair | factors("w", *into), fan_in_fan_out=turned)
            with open_adapted(sound, before) as after:
                assert torch.equal(read_tensor(after, "s.weight").reshape(5, 5), product.T if turned else product)
            odd = write_adapter(tmp_path / f"odd{turned}", pair | factors("w", *into[::-1]), fan_in_fan_out=turned)
            with pytest.raises(errors.InvalidCheckpoint, match=r"'s\.weight' is transposed.*'w\.weight'"):
                open_adapted(odd, before)


def test_float32_keeps_what_bfloat16_would_swallow(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", {"m.weight": torch.ones(4, 6, dtype=torch.bfloat16)})
    tiny = {"m.lora_A.weight": torch.full((2, 6), 1e-3), "m.lora_B.weight": torch.full((4, 2), 1e-2)}
    adapter = write_adapter(tmp_path / "adapter", tiny)
    with open_checkpoint(base) as before, open_adapted(adapter, before) as after:
        diff(before, after, tmp_path / "patch", MaskParams("0", "0"))
    values = read_all(tmp_path / "patch")["m.weight.values"].float()
    assert values.numel() == 24
    assert torch.allclose(values, torch.tensor(3e-5), rtol=1e-2)
