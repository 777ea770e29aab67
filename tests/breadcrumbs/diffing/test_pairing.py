"""Pairing: globs, ties, prefixes, and tensors that both sides share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from registry.errors import InvalidRequest
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

NAMED = {"model.embed_tokens.weight": random(4, 3), "model.layers[0].w": random(3, 3), "lm_head.weight": random(4, 3)}
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
