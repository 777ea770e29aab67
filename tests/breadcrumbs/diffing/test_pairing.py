"""Pairing: globs, ties, prefixes, and tensors that both sides share."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from registry.breadcrumbs.diffing.diff import Diffed, diff
from registry.breadcrumbs.diffing.prefixes import NO_PREFIX, Prefix
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from registry.errors import CheckpointMismatch, InvalidRequest
from tests.support.science_makers import decode, write_model

Tensors = Mapping[str, torch.Tensor]
ALL = MaskParams("0", "0", "tensor", "F32")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(
    folder: Path, base: Tensors, tuned: Tensors, config: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """Diff two checkpoints; return what the patch holds by tensor."""
    write_model(folder / "base", base, config=config)
    write_model(folder / "tuned", tuned)
    with open_checkpoint(folder / "base") as before, open_checkpoint(folder / "tuned") as after:
        diff(before, after, folder / "patch", ALL, **options)
    return decode(folder / "patch")


# Globs

NAMED = {
    "model.embed_tokens.weight": random(4, 3),
    "model.layers[0].w": random(3, 3),
    "lm_head.weight": random(4, 3, seed=9),
}
MOVED = {name: tensor + 1 for name, tensor in NAMED.items()}


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize(
    ("glob", "meant"),
    [
        ("lm_head", "lm_head.weight"),
        ("lm_head.weights", "lm_head.weight"),
        ("LM_HEAD.weight", "lm_head.weight"),
        ("weight", r"'\*weight\*'"),
        ("zzz", None),
    ],
)
def test_a_glob_that_matches_nothing_is_refused_and_what_was_meant_is_named(
    tmp_path: Path, option: str, glob: str, meant: str | None
) -> None:
    told = rf"^No tensor matches `--{option} {glob}`\.({f' Did you mean `--{option} {meant}`[?]' if meant else ''})$"
    with pytest.raises(InvalidRequest, match=told):
        make(tmp_path, NAMED, MOVED, **{option: [glob]})
    assert not (tmp_path / "patch").exists()


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"exclude": ["model.layers[0].w"]}, ["lm_head.weight", "model.embed_tokens.weight"]),
        ({"include": ["model.layers[0].w"]}, ["model.layers[0].w"]),
        ({"exclude": ["*[[]0]*", "lm_*"]}, ["model.embed_tokens.weight"]),
    ],
)
def test_an_exact_name_matches_itself_with_its_brackets(
    tmp_path: Path, options: dict[str, Sequence[str]], left: list[str]
) -> None:
    assert sorted(make(tmp_path, NAMED, MOVED, **options)) == left


def test_a_glob_may_match_tensors_of_the_tuned_model_alone(tmp_path: Path) -> None:
    assert len(make(tmp_path, NAMED, MOVED | {"score.weight": random(2, 3)}, exclude=["score.*"])) == 3


def test_globs_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="leave out every tensor"):
        make(tmp_path, NAMED, MOVED, exclude=["*"])


# Ties

TABLE, MATRIX = random(8, 3), random(3, 3, seed=1)
SHARED, ENCODER, DECODER = "shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
THREE = dict.fromkeys((SHARED, ENCODER, DECODER), TABLE)


def copies(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return tensors that share no memory, which safetensors would refuse to save."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def moved(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: tensor + 1 for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", ["shared.weight", "anything.at_all"])
def test_names_with_equal_bits_in_the_base_get_the_same_patch_when_the_tuned_model_holds_one(
    tmp_path: Path, name: str
) -> None:
    base = {name: TABLE, ENCODER: TABLE.clone(), DECODER: TABLE.clone(), "q.weight": MATRIX}
    patch = make(tmp_path, base, moved({name: TABLE, "q.weight": MATRIX}))
    assert patch.keys() == base.keys()
    assert patch[name] == patch[ENCODER] == patch[DECODER]


def test_copies_that_only_the_tuned_model_holds_are_the_tensor_that_they_equal(tmp_path: Path) -> None:
    assert set(make(tmp_path, {SHARED: TABLE}, moved(copies(THREE)))) == {SHARED}


def test_a_tensor_of_the_tuned_model_with_other_bits_is_no_copy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatch, match=r"'lm_head\.weight' is not in the base"):
        make(tmp_path, {SHARED: TABLE}, {SHARED: TABLE + 1, "lm_head.weight": TABLE + 2})


@pytest.mark.parametrize("same", [torch.ones(3), torch.zeros(3, 3), torch.full((3, 3), 0.5)])
def test_vectors_and_constants_are_no_copies_of_each_other(tmp_path: Path, same: torch.Tensor) -> None:
    with pytest.raises(CheckpointMismatch, match=r"'b\.weight' is missing"):
        make(tmp_path, {"a.weight": same, "b.weight": same.clone()}, {"a.weight": same + 1})


@pytest.mark.parametrize("both", [False, True])
def test_the_header_of_the_base_may_name_a_tie(tmp_path: Path, both: bool) -> None:
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file({SHARED: TABLE}, base, {"format": "pt", ENCODER: SHARED})
    save_file({ENCODER: TABLE + 1} | ({SHARED: TABLE + 1} if both else {}), tuned)
    with open_checkpoint(base) as before, open_checkpoint(tuned) as after:
        assert list(diff(before, after, tmp_path / "patch", ALL).tensors) == [SHARED]


def test_a_tie_of_the_header_that_was_untied_is_told(tmp_path: Path) -> None:
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file({SHARED: TABLE}, base, {"format": "pt", ENCODER: SHARED})
    save_file({ENCODER: TABLE + 2, SHARED: TABLE + 1}, tuned)
    told = rf"untied .*`--exclude {ENCODER} --exclude {SHARED}`\.$"
    with (
        open_checkpoint(base) as before,
        open_checkpoint(tuned) as after,
        pytest.raises(CheckpointMismatch, match=told),
    ):
        diff(before, after, tmp_path / "patch", ALL, exclude=[ENCODER])


@pytest.mark.parametrize("held", [(SHARED,), (SHARED, ENCODER, DECODER)])
@pytest.mark.parametrize("options", [{"exclude": ["*embed_tokens*"]}, {"include": ["shared*", "q*"]}])
def test_one_name_of_a_tensor_is_not_left_out_without_the_others(
    tmp_path: Path, held: Sequence[str], options: dict[str, Sequence[str]]
) -> None:
    base, tuned = copies(THREE) | {"q.weight": MATRIX}, dict.fromkeys(held, TABLE + 1) | {"q.weight": MATRIX + 1}
    told = rf"one tensor.*none: `--exclude {DECODER} --exclude {ENCODER} --exclude {SHARED}`\.$"
    with pytest.raises(CheckpointMismatch, match=told):
        make(tmp_path, base, copies(tuned), **options)
    assert set(make(tmp_path / "none", base, copies(tuned), exclude=[*THREE])) == {"q.weight"}


@pytest.mark.parametrize("change", [0, 1])
def test_equal_tensors_that_were_tuned_apart_or_not_at_all_may_be_left_out_one_by_one(
    tmp_path: Path, change: int
) -> None:
    base = {"expert.0.w": TABLE, "expert.1.w": TABLE.clone(), "q.weight": MATRIX}
    tuned = {"expert.0.w": TABLE + change, "expert.1.w": TABLE + 2 * change, "q.weight": MATRIX + 1}
    assert "expert.1.w" not in make(tmp_path, base, tuned, exclude=["expert.1.*"])


def test_a_tied_head_that_was_untied_is_not_left_out_alone(tmp_path: Path) -> None:
    base, tuned = {"embed_tokens.weight": TABLE}, {"embed_tokens.weight": TABLE + 1, "lm_head.weight": TABLE}
    with pytest.raises(CheckpointMismatch, match=r"untied 'lm_head\.weight'"):
        make(tmp_path, base, tuned, {"tie_word_embeddings": True}, exclude=["lm_head.weight"])


@pytest.mark.parametrize("known", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_a_model_of_a_class_with_a_head_that_holds_none_has_it_tied(tmp_path: Path, known: str) -> None:
    base, config = {"wte.weight": TABLE, "q.weight": MATRIX}, {"architectures": [known]}
    apart = moved(base) | {"lm_head.weight": TABLE + 2}
    with pytest.raises(CheckpointMismatch, match=r"untied.*`--exclude lm_head\.weight --exclude wte\.weight`\.$"):
        make(tmp_path, base, apart, config, shared_only=True)
    assert set(make(tmp_path / "head", base, {"lm_head.weight": TABLE + 2, "q.weight": MATRIX}, config)) == {
        "wte.weight"
    }
    for number, other in enumerate([{"architectures": ["GPT2Model"]}, config | {"tie_word_embeddings": False}]):
        assert "wte.weight" in make(tmp_path / f"{number}", base, apart, other, shared_only=True)


# Prefixes

BODY = {"wte.weight": TABLE, "h.0.attn.weight": MATRIX, "h.0.attn.bias": random(3, seed=2)}
HEAD = {"score.weight": random(2, 3, seed=3)}


def under(prefix: str, tensors: Tensors) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def told_by(folder: Path, base: Tensors, tuned: Tensors, **options: Any) -> Diffed:
    """Diff two checkpoints; return what is told of it."""
    write_model(folder / "base", base)
    write_model(folder / "tuned", tuned)
    with open_checkpoint(folder / "base") as before, open_checkpoint(folder / "tuned") as after:
        return diff(before, after, folder / "patch", ALL, **options)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "transformer.", "base_model.model.", "any/", "_orig_mod.module."]
)
@pytest.mark.parametrize("side", ["tuned", "base"])
@pytest.mark.parametrize("inner", ["", "model."])
def test_a_prefix_that_one_side_has_is_overlooked_and_told(tmp_path: Path, prefix: str, side: str, inner: str) -> None:
    body = under(inner, BODY)
    base, tuned = (under(prefix, body), moved(body)) if side == "base" else (body, under(prefix, moved(body)))
    info = told_by(tmp_path, base, tuned)
    assert info.pairing.prefix == Prefix(prefix, side)
    assert info.tensors.keys() == base.keys()
    plain = told_by(tmp_path / "plain", base, moved(base))
    assert plain.sha256 == info.sha256
    assert plain.pairing.prefix == NO_PREFIX


def test_names_that_lack_the_prefix_on_both_sides_fit_as_they_are(tmp_path: Path) -> None:
    info = told_by(tmp_path, under("transformer.", BODY) | HEAD, moved(BODY | HEAD))
    assert info.tensors.keys() == under("transformer.", BODY).keys() | HEAD.keys()


def test_a_tied_head_is_found_under_another_prefix(tmp_path: Path) -> None:
    tuned = under("transformer.", moved(BODY)) | {"lm_head.weight": TABLE + 1}
    assert told_by(tmp_path, BODY, tuned).tensors.keys() == BODY.keys()


def test_of_two_prefixes_one_is_chosen_by_the_option(tmp_path: Path) -> None:
    tuned = under("model.", moved(BODY)) | under("ema.", moved(moved(BODY)))
    with pytest.raises(CheckpointMismatch, match=r"`--strip-prefix ema\.` or `--strip-prefix model\.`\.$"):
        told_by(tmp_path, BODY, tuned)
    info = told_by(tmp_path / "chosen", BODY, tuned, strip_prefix="model", shared_only=True)
    assert info.sha256 == told_by(tmp_path / "plain", BODY, moved(BODY)).sha256
    assert {fault.name for fault in info.pairing.left_out} == under("ema.", BODY).keys()


def test_a_prefix_of_few_names_is_another_tensor(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatch, match=r"'score\.weight' is missing.*--shared-only"):
        told_by(tmp_path, BODY | HEAD, moved(BODY) | under("other.", moved(HEAD)))


@pytest.mark.parametrize(("prefix", "told"), [("zzz.", "begins with 'zzz.'"), ("h.", "two tensors have one name")])
def test_a_prefix_that_cannot_be_taken_is_refused(tmp_path: Path, prefix: str, told: str) -> None:
    twice = BODY | {"0.attn.weight": random(3, 3, seed=4)}
    with pytest.raises(InvalidRequest, match=told):
        told_by(tmp_path, twice, moved(twice), strip_prefix=prefix)


# What both sides share


def test_tensors_that_one_side_has_are_left_out_on_request_and_listed(tmp_path: Path) -> None:
    base = BODY | {"h.0.mask": torch.tril(torch.ones(3, 3))} | {"head.weight": random(4, 3)}
    tuned = under("transformer.", moved(BODY)) | HEAD | {"head.weight": random(5, 3)}
    told = r"^Names of the tuned checkpoint are read without 'transformer\.'\. 3 tensors .*with `--shared-only`\.$"
    with pytest.raises(CheckpointMismatch, match=told):
        told_by(tmp_path, base, tuned)
    info = told_by(tmp_path / "shared", base, tuned, shared_only=True)
    assert info.tensors.keys() == BODY.keys()
    assert [(fault.name, fault.kind) for fault in info.pairing.left_out] == [
        ("h.0.mask", "missing"), ("head.weight", "rows"), ("score.weight", "added"),
    ]  # fmt: skip


@pytest.mark.parametrize("grown", [3, -3])
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "float32"), ("float32", "float64")])
def test_rows_that_both_have_are_compared_on_request(tmp_path: Path, grown: int, dtypes: tuple[str, str]) -> None:
    old, new = (getattr(torch, dtype) for dtype in dtypes)
    base = {"embed_tokens.weight": TABLE.to(old), "w": MATRIX.to(old)}
    longer = torch.cat([TABLE.to(old).to(new) + 1, random(3, 3, seed=5).to(new)])[: 8 + grown]
    tuned = {"embed_tokens.weight": longer, "w": MATRIX.to(old).to(new)}
    with pytest.raises(CheckpointMismatch, match=r"rows that both have with `--shared-rows`\.$"):
        make(tmp_path, base, tuned)
    patch = make(tmp_path / "rows", base, tuned, shared_rows=True)
    both = min(8, 8 + grown)
    assert patch.keys() == {"embed_tokens.weight"}
    assert [place for place, _ in patch["embed_tokens.weight"]] == list(range(3 * both))
    delta = (longer[:both].double() - TABLE.to(old)[:both].double()).float()
    assert [value for _, value in patch["embed_tokens.weight"]] == delta.reshape(-1).tolist()


def test_rows_of_a_head_of_other_classes_are_not_suggested(tmp_path: Path) -> None:
    base = BODY | {"classifier.weight": random(10, 3)}
    with pytest.raises(CheckpointMismatch, match=r"with `--shared-only`\.$"):
        told_by(tmp_path, base, moved(BODY) | {"classifier.weight": random(3, 3)})
    grown = moved(BODY) | {"classifier.weight": random(3, 3), "wte.weight": random(9, 3)}
    with pytest.raises(CheckpointMismatch, match=r"with `--shared-rows --exclude classifier.weight`\.$"):
        told_by(tmp_path / "both", base, grown)
    options = {"shared_rows": True, "exclude": ["classifier.weight"]}
    assert told_by(tmp_path / "done", base, grown, **options).pairing.rows == {"wte.weight": 8}


def test_another_architecture_is_not_compared_on_request(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatch, match=r"choose the base that it was made from\.$"):
        told_by(tmp_path, BODY, under("b.", HEAD) | {"h.0.attn.bias": random(3)})
    with pytest.raises(CheckpointMismatch, match="another architecture"):
        told_by(tmp_path / "none", BODY, HEAD, shared_only=True)


def test_a_tie_is_not_patched_by_half_because_one_of_its_names_has_another_shape(tmp_path: Path) -> None:
    base = copies(THREE) | {"q.weight": MATRIX}
    tuned = {SHARED: TABLE + 1, ENCODER: random(9, 3), "q.weight": MATRIX + 1}
    with pytest.raises(CheckpointMismatch, match="one tensor"):
        told_by(tmp_path, base, tuned, shared_only=True)


# Suggestions, followed


def follow(folder: Path, base: Tensors, tuned: Tensors, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Diff two checkpoints that do not fit, then with the options in the last backticks of the message."""
    with pytest.raises(CheckpointMismatch) as caught:
        make(folder / "refused", base, tuned, config)
    words = shlex.split(re.findall(r"`(--[^`]+)`", str(caught.value))[-1])
    options: dict[str, Any] = {}
    for word in words:
        if word in ("--shared-only", "--shared-rows"):
            options[word[2:].replace("-", "_")] = True
        elif word.startswith("--"):
            name = word[2:].replace("-", "_")
        else:
            options.setdefault(name, []).append(word)
    return make(folder / "followed", base, tuned, config, **options)


def test_of_a_small_model_whose_vocabulary_grew_the_rows_are_suggested(tmp_path: Path) -> None:
    base = {"model.embed_tokens.weight": random(4, 3), "lm_head.weight": random(4, 3, seed=1)}
    tuned = {name: torch.cat([tensor + 1, random(2, 3)]) for name, tensor in base.items()}
    assert set(follow(tmp_path, base, tuned)) == set(base)


def test_counters_that_differ_are_left_out_by_a_glob(tmp_path: Path) -> None:
    base = {f"bn{i}.{leaf}": torch.ones(4) for i in range(30) for leaf in ("weight", "running_mean")}
    tuned = {name: tensor + 0.5 for name, tensor in base.items()}
    counters = {f"bn{i}.num_batches_tracked": torch.tensor(i) for i in range(30)}
    with pytest.raises(CheckpointMismatch, match=r"and 10 more.*`--exclude '\*\.num_batches_tracked'`\.$"):
        make(tmp_path / "all", {**base, **counters}, {**tuned, **{name: count + 1 for name, count in counters.items()}})
    same = {**counters, "bn0.num_batches_tracked": torch.tensor(9), "bn1.num_batches_tracked": torch.tensor(9)}
    assert set(follow(tmp_path, {**base, **counters}, {**tuned, **same})) == set(base)  # of two of 30, not all


def test_a_tensor_without_a_name_is_compared(tmp_path: Path) -> None:
    assert set(make(tmp_path, {"": random(2, 2), "w": random(2)}, {"": random(2, 2, seed=1), "w": random(2)})) == {""}


def test_a_base_of_narrow_numbers_is_known_as_quantised_without_a_config(tmp_path: Path) -> None:
    wide = {f"{i}.weight": random(4, 4, seed=i).bfloat16() for i in range(3)}
    narrow = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in wide.items()}
    scales = {f"{name}_scale_inv": random(1, 1) for name in wide}
    for base, tuned, side in (({**narrow, **scales}, wide, "base"), (wide, {**narrow, **scales}, "tuned checkpoint")):
        with pytest.raises(CheckpointMismatch, match=f"^The {side} is quantised by .* \\(its '0.weight' is F8_E4M3\\)"):
            make(tmp_path / side[:1], base, tuned)
    again = {name: (tensor.float() * 2).to(torch.float8_e4m3fn) for name, tensor in narrow.items()}
    with pytest.raises(CheckpointMismatch, match="quantised weights, which no patch can change; use base and tuned"):
        make(tmp_path / "q", {**narrow, **scales}, {**again, **scales})


def test_an_adapter_in_the_place_of_the_base_is_named(tmp_path: Path) -> None:
    factors = {f"base_model.model.q.lora_{letter}.weight": random(2, 2) for letter in "AB"}
    with pytest.raises(CheckpointMismatch, match=r"^The base is an adapter.*`crumb diff BASE ADAPTER -o FILE`"):
        make(tmp_path, factors, {"q.weight": random(2, 2)})
