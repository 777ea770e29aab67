"""What is no plain LoRA adapter is refused in one sentence that says what it is, before any of its weights is read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from registry import errors
from registry.breadcrumbs.diffing.adapters.adapted import is_adapter, open_tuned
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from tests.support.adapter_makers import CONFIG, PREFIX, factors, open_adapted, write_adapter
from tests.support.science_makers import Tensors, build, write_model

PAIR = factors("m", 3, 5)
A, B = PAIR.values()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model(tmp_path / "base", {"m.weight": torch.zeros(3, 5), "n.weight": torch.zeros(2)})


def refuse(base: Path, adapter: Path, told: str) -> None:
    """See that an adapter is refused so, in one sentence that names a next step."""
    with open_checkpoint(base) as before, pytest.raises(errors.InvalidCheckpoint, match=told) as caught:
        open_tuned(adapter, before)
    assert caught.value.message.endswith(".")
    assert ";" in caught.value.message


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"peft_type": "ADALORA"}, "type 'ADALORA'.*merge_and_unload"),
        ({"peft_type": "OFT"}, "type 'OFT'.*LoHa, LoKr and IA3 are read"),
        ({"peft_type": ["LORA"]}, "type"),
        ({"peft_type": "LOHA"}, "the setting 'lora_alpha'"),
        ({"peft_type": None}, "type 'None'"),
        ({"use_dora": True}, "needs a lora_magnitude_vector of 3 numbers"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 1]]}, "replicated layers"),
        ({"target_parameters": ["experts"]}, "bare parameters"),
        ({"trainable_token_indices": [1]}, "trained tokens"),
        ({"alora_invocation_tokens": [1]}, "Activated LoRA"),
        ({"enable_lora": [True, False]}, "the setting 'enable_lora'"),
        ({"init_lora_weights": "pissa"}, "changed base weights.*'pissa'"),
        ({"init_lora_weights": ["eva"]}, "changed base weights"),
        ({"use_rslora": "yes"}, "use_rslora is neither"),
        ({"r": "2"}, "r is not a number"),
        ({"r": True}, "r is not a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is not a number"),
        ({"lora_alpha": 10**400}, "lora_alpha is not a number"),
        ({"alpha_pattern": ["m"]}, "alpha_pattern is not an object"),
        ({"alpha_pattern": {"m": None}}, "alpha_pattern is not a number"),
        ({"rank_pattern": {"(m": 2}}, "not a regular expression"),
        ({"r": 3}, "'m' has rank 2, and adapter_config.json says 3"),
    ],
)
def test_a_setting_that_makes_something_else_of_it_is_told(
    base: Path, tmp_path: Path, setting: dict[str, object], told: str
) -> None:
    refuse(base, write_adapter(tmp_path / "adapter", PAIR, **setting), told)


@pytest.mark.parametrize("expression", ["(m+)+x", "(m|mm)*x", "a?" * 30, ".*" * 20, "(m{1,9}){9}", "m" * 600])
def test_an_expression_that_might_match_for_ever_is_not_tried(base: Path, tmp_path: Path, expression: str) -> None:
    tensors = factors("m" * 60, 3, 5)  # a name that some of them take minutes for
    refuse(base, write_adapter(tmp_path / "adapter", tensors, alpha_pattern={expression: 1}), "more intricate")


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (PAIR | {"m.lora_magnitude_vector": torch.ones(3)}, "lora_magnitude_vector.*does not belong to a plain LoRA"),
        (PAIR | {"m.lora_B.bias": torch.ones(3)}, r"lora_B\.bias.*does not belong"),
        (PAIR | {"m.token_adapter.trainable_tokens_delta": torch.ones(3)}, "token_adapter.*does not belong"),
        (PAIR | {"m.lora_E": torch.ones(3)}, "lora_E.*does not belong"),
        ({"m.lora_A.weight": A}, "needs one lora_A and one lora_B"),
        ({"m.lora_A.weight": A, "m.lora_embedding_B": B}, "needs one lora_A and one lora_B"),
        (PAIR | {"m.lora_embedding_B": B}, "needs one lora_A and one lora_B"),
        ({"m.lora_A.weight": A, "m.lora_B.weight": B.T}, "cannot be multiplied"),
        ({"m.lora_A.weight": A, "m.lora_B.weight": B[..., None]}, "cannot be multiplied"),
        ({"m.lora_A.weight": A[..., None], "m.lora_B.weight": B[..., None].repeat(1, 1, 3)}, "cannot be multiplied"),
        ({"m.lora_embedding_A": A[..., None], "m.lora_embedding_B": B[..., None]}, "cannot be multiplied"),
        ({"m.lora_A.weight": A[:, 0], "m.lora_B.weight": B}, "parts are missing"),
        ({"m.lora_A.weight": A[:, :0], "m.lora_B.weight": B}, "parts are missing"),
        ({"m.lora_A.weight": A.to(torch.int8), "m.lora_B.weight": B}, "not floating-point"),
        (PAIR | {"m.base_layer.weight": torch.ones(5, 3)}, r"F32 \[5, 3\], and its factors make \[3, 5\]"),
        (PAIR | {"m.base_layer.weight": torch.ones(3, 5, dtype=torch.uint8)}, r"U8 \[3, 5\]"),
        (factors("m." * 500, 3, 5), "a name of 10"),
        ({"n.weight": torch.ones(2), "n.base_layer.weight": torch.ones(2)}, r"'n\.weight' twice"),
    ],
)
def test_tensors_that_are_no_plain_adapter_are_told(base: Path, tmp_path: Path, tensors: Tensors, told: str) -> None:
    refuse(base, write_adapter(tmp_path / "adapter", tensors), told)


@pytest.mark.parametrize("tensors", [{"m.lora_A.weight": A, "m.lora_B.weight": B}, {"m.weight": torch.ones(3, 5)}])
def test_tensors_that_peft_did_not_name_are_told(base: Path, tmp_path: Path, tensors: Tensors) -> None:
    adapter = write_adapter(tmp_path / "adapter", {})
    save_file(dict(tensors), adapter / "adapter_model.safetensors")
    refuse(base, adapter, r"'m\.(lora_A\.)?weight', which does not belong")


def test_two_tensors_for_one_of_the_base_are_told(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {"n.weight": torch.ones(2), "model.n.weight": torch.ones(2)})
    with (
        open_checkpoint(base) as before,
        pytest.raises(errors.CheckpointMismatch, match=r"'model\.n\.weight' and.*'n\."),
    ):
        open_tuned(adapter, before)


HADA = {f"m.hada_w{number}_{side}": tensor for number in (1, 2) for side, tensor in (("a", B), ("b", A))}
CORES = {f"m.hada_w{number}_{side}": tensor for number in (1, 2) for side, tensor in (("a", B.T), ("b", A))}
KRON = {"m.lokr_w1": torch.ones(1, 5), "m.lokr_w2_a": B, "m.lokr_w2_b": torch.ones(2, 1)}


@pytest.mark.parametrize(
    ("method", "tensors", "told"),
    [
        ("LOHA", PAIR, r"lora_A\.weight.*does not belong to a plain LoHa"),
        ("LOHA", {"m.hada_w1_a": B}, "needs hada_w1_a, hada_w1_b, hada_w2_a, hada_w2_b"),
        ("LOHA", HADA | {"m.hada_w2_b": A[:, :4]}, "two products of different shapes"),
        ("LOHA", HADA | {"m.hada_w2_b": A[:1]}, r"factors \[3, 2\] and \[1, 5\], which cannot be multiplied"),
        ("LOHA", HADA | {"m.hada_w1_a": B[:, :1], "m.hada_w1_b": A[:1]}, "has ranks 1 and 2"),
        ("LOHA", HADA | {"m.hada_t1": torch.ones(2, 2, 1), "m.hada_t2": torch.ones(2, 2, 1)}, "cannot be multiplied"),
        ("LOHA", CORES | {"m.hada_t1": torch.ones(2, 2, 1), "m.hada_t2": torch.ones(2, 2)}, r"a core \[2, 2\]"),
        ("LOHA", HADA | {"m.hada_w1_a": B.to(torch.int8)}, "not floating-point"),
        ("LOKR", KRON | {"m.lokr_w1_a": B}, "needs lokr_w1, or lokr_w1_a and lokr_w1_b"),
        ("LOKR", {"m.lokr_w1": torch.ones(1, 5)}, "needs lokr_w2, or"),
        ("LOKR", KRON | {"m.lokr_w1": torch.ones(5)}, r"a factor \[5\] of which parts are missing"),
        ("LOKR", KRON | {"m.lokr_w2_a": B[:, :1], "m.lokr_w2_b": torch.ones(1, 1)}, "has rank 1, and the adapter 2"),
        ("LOKR", KRON | {"m.lokr_w2_a": torch.ones(2**14, 2), "m.lokr_w2_b": torch.ones(2, 2**13)}, "factor too large"),
        ("IA3", {"m.ia3_l": torch.ones(4, 1)}, r"'m\.weight' by 4 numbers, and it is F32 \[3, 5\]"),
        ("IA3", {"m.ia3_l": torch.ones(1, 5)}, "does not fit the feedforward_modules"),
        ("IA3", {"m.ia3_l": torch.ones(3)}, "does not fit the feedforward_modules"),
    ],
)
def test_tensors_of_other_methods_that_do_not_go_together_are_told(
    base: Path, tmp_path: Path, method: str, tensors: Tensors, told: str
) -> None:
    settings = {} if method == "IA3" else {"r": 2, "alpha": 2}
    adapter = write_adapter(tmp_path / "adapter", tensors)
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": method} | settings))
    refuse(base, adapter, told)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_that_nothing_can_be_divided_by_is_told(base: Path, tmp_path: Path, rank: int) -> None:
    adapter = write_adapter(tmp_path / "adapter", {"m.lokr_w1": torch.ones(1, 5), "m.lokr_w2": torch.ones(3, 1)})
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LOKR", "r": rank}))
    refuse(base, adapter, f"has rank {rank}")


def test_a_vector_for_a_weight_that_the_base_lacks_is_told(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {"x.ia3_l": torch.ones(3, 1)})
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with (
        open_checkpoint(base) as before,
        pytest.raises(errors.CheckpointMismatch, match=r"'x\.weight', which the base"),
    ):
        open_tuned(adapter, before)


@pytest.mark.parametrize("expression", ["(m+)+x", ".*" * 20])
def test_an_expression_for_feedforward_modules_is_not_tried_for_ever(
    base: Path, tmp_path: Path, expression: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", {"m.ia3_l": torch.ones(3, 1)})
    settings = {"peft_type": "IA3", "feedforward_modules": expression}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    refuse(base, adapter, "feedforward_modules is more intricate")


def test_a_rank_that_would_fill_memory_is_told(base: Path, tmp_path: Path) -> None:
    rank = 2**14 + 1
    tensors = factors("m", 3, 5, rank)
    refuse(base, write_adapter(tmp_path / "adapter", tensors, r=rank), "more than the 16384 allowed")


@pytest.mark.parametrize("rank_pattern", [{"m": 2}, {}])
def test_shapes_that_are_not_those_of_the_base_are_told(
    base: Path, tmp_path: Path, rank_pattern: dict[str, int]
) -> None:
    adapter = write_adapter(
        tmp_path / "adapter", factors("m", 4, 5) | {"n.weight": torch.ones(3)}, rank_pattern=rank_pattern
    )
    told = pytest.raises(errors.CheckpointMismatch, match=r"'m\.weight' has shape \[4, 5\].*'n\.weight' has shape")
    with open_checkpoint(base) as before, open_adapted(adapter, before) as after, told:
        diff(before, after, tmp_path / "patch")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", list(PAIR))
def test_a_factor_that_is_not_finite_is_named(base: Path, tmp_path: Path, name: str, bad: float) -> None:
    tensors = {key: tensor.clone() for key, tensor in PAIR.items()}
    tensors[name][1, 1] = bad
    adapter = write_adapter(tmp_path / "adapter", tensors)
    with open_checkpoint(base) as before, open_adapted(adapter, before) as after:
        with pytest.raises(errors.InvalidCheckpoint, match="holds 1 NaN or Inf") as caught:
            diff(before, after, tmp_path / "patch")
        assert caught.value.field == PREFIX + name
    assert not (tmp_path / "patch").exists()


def test_a_product_that_overflows_is_told(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {name: tensor * 1e25 for name, tensor in PAIR.items()})
    told = pytest.raises(errors.InvalidCheckpoint, match=r"'m\.weight' of the tuned checkpoint holds \d+ NaN or Inf")
    with open_checkpoint(base) as before, open_adapted(adapter, before) as after, told:
        diff(before, after, tmp_path / "patch")


def test_pickles_are_not_opened(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", PAIR)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refuse(base, adapter, r"adapter_model\.bin.*save_pretrained")


def test_weights_without_settings_are_told(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", PAIR)
    (adapter / "adapter_config.json").unlink()
    refuse(base, adapter / "adapter_model.safetensors", r"no adapter_config\.json")


@pytest.mark.parametrize("text", ["", "[]", '{"r": 1, "r": 2}', "[" * 10**5, "{" + " " * 4_000_000 + "}", "\xff"])
def test_settings_that_are_not_sound_json_are_told(base: Path, tmp_path: Path, text: str) -> None:
    adapter = write_adapter(tmp_path / "adapter", PAIR)
    (adapter / "adapter_config.json").write_text(text, encoding="latin-1")
    with open_checkpoint(base) as before, pytest.raises(errors.InvalidCheckpoint, match=r"adapter_config\.json"):
        open_tuned(adapter, before)


def test_a_file_that_is_shorter_than_its_header_says_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", PAIR)
    entries = [
        (PREFIX + "m.lora_A.weight", "F32", [2, 5], bytes(36)),
        (PREFIX + "m.lora_B.weight", "F32", [3, 2], bytes(24)),
    ]
    (adapter / "adapter_model.safetensors").write_bytes(build(None, entries))
    with open_checkpoint(base) as before, pytest.raises(errors.InvalidCheckpoint, match="36 bytes of data do not hold"):
        open_tuned(adapter, before)


def test_a_folder_of_adapter_and_model_is_neither(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", PAIR)
    save_file({"m.weight": torch.ones(3, 5)}, adapter / "model.safetensors")
    refuse(base, adapter, "both an adapter and a whole model")
    with open_checkpoint(base) as before, open_adapted(adapter / "adapter_model.safetensors", before) as after:
        assert diff(before, after, tmp_path / "patch", MaskParams("0", "0")).nnz == {"m.weight": 15}


def test_a_model_is_no_adapter(base: Path, tmp_path: Path) -> None:
    assert not is_adapter(base)
    assert not is_adapter(tmp_path / "nothing")
    (base / "adapter_config.json").write_text(json.dumps(CONFIG))
    assert is_adapter(base)
