"""Companions: what only the tuned model has, written beside a patch, and strangers' ones refused."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.breadcrumbs.checking import companions
from registry.breadcrumbs.checking.companions import check_companion, write_companion
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.header import TensorSpec
from registry.errors import InvalidPatch
from tests.support.science_makers import write_model

Tensors = Mapping[str, torch.Tensor]
BODY = {"embed.weight": torch.arange(12.0).reshape(4, 3), "layers.0.w": torch.ones(3, 3)}
SPECS = {name: TensorSpec("F32", tuple(tensor.shape)) for name, tensor in BODY.items()}


def written(folder: Path, base: Tensors, tuned: Tensors, **options: Any) -> dict[str, torch.Tensor] | None:
    """Diff two checkpoints; return what the companion of the patch holds, if there is one."""
    write_model(folder / "base", base)
    write_model(folder / "tuned", tuned)
    out = folder / "companion.safetensors"
    with open_checkpoint(folder / "base") as before, open_checkpoint(folder / "tuned") as after:
        pairing = diff(before, after, folder / "patch", **options).pairing
        specs = write_companion(before, after, pairing, out)
    if not specs:
        assert not out.exists()
        return None
    assert check_companion(out, SPECS) == specs
    return load_file(out)


def test_a_head_travels_as_it_is_in_its_own_dtype(tmp_path: Path) -> None:
    head = {"score.weight": torch.randn(2, 3).bfloat16(), "score.steps": torch.tensor([7])}
    found = written(tmp_path, BODY, {name: t + 1 for name, t in BODY.items()} | head, shared_only=True)
    assert found is not None and found.keys() == head.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in head.items())


def test_rows_of_added_tokens_travel_under_a_name_of_their_own(tmp_path: Path) -> None:
    grown = torch.cat([BODY["embed.weight"] + 1, torch.full((2, 3), 9.0)])
    found = written(tmp_path, BODY, {**BODY, "embed.weight": grown}, shared_rows=True)
    assert found is not None and list(found) == ["embed.weight.added_rows"]
    assert torch.equal(found["embed.weight.added_rows"], grown[4:])
    shrunk = {**BODY, "embed.weight": BODY["embed.weight"][:2] + 1}
    assert written(tmp_path / "shrunk", BODY, shrunk, shared_rows=True) is None


def test_names_are_those_of_the_model_and_not_of_what_trained_it(tmp_path: Path) -> None:
    tuned = {f"module.{name}": t + 1 for name, t in BODY.items()} | {"module.score.weight": torch.ones(2, 3)}
    found = written(tmp_path, BODY, tuned, shared_only=True)
    assert found is not None and list(found) == ["score.weight"]


def test_the_same_models_give_the_same_bytes_whatever_their_shards(tmp_path: Path) -> None:
    tuned = {name: t + 1 for name, t in BODY.items()} | {"b.head": torch.ones(2), "a.head": torch.zeros(3)}
    written(tmp_path / "1", BODY, tuned, shared_only=True)
    written(tmp_path / "2", BODY, dict(reversed(tuned.items())), shared_only=True)
    raw = [(tmp_path / name / "companion.safetensors").read_bytes() for name in "12"]
    assert raw[0] == raw[1]


def test_without_something_of_its_own_there_is_none(tmp_path: Path) -> None:
    assert (
        written(tmp_path, {**BODY, "lm_head": torch.ones(4)}, {n: t + 1 for n, t in BODY.items()}, shared_only=True)
        is None
    )


def test_what_is_too_much_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(companions, "MOST_BYTES", 20)
    tuned = {name: t + 1 for name, t in BODY.items()} | {"score.weight": torch.ones(2, 3)}
    with pytest.raises(InvalidPatch, match="1 tensors of 24 bytes, and a companion has at most"):
        written(tmp_path, BODY, tuned, shared_only=True)
    assert not (tmp_path / "companion.safetensors").exists()


def hostile(header: object, data: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "shorter than the 8 bytes"),
        (struct.pack("<Q", 2**40) + b"{}", "claims"),
        (struct.pack("<Q", 2**20 + 8) + b"{" + b" " * (2**20 + 8), "more than the 1048576 allowed"),
        (hostile({}), "no tensors"),
        (hostile({"x": ONE}), "hold"),
        (hostile({"x": ONE | {"shape": [2**40]}}, b"\0" * 4), "do not hold"),
        (hostile({"x": ONE, "y": ONE}, b"\0" * 4), "overlap"),
        (hostile({"x": ONE}, b"\0" * 8), "8 bytes of data"),
        (hostile({"x": ONE | {"dtype": "F31"}}, b"\0" * 4), "dtype"),
        (hostile({"layers.0.w": ONE}, b"\0" * 4), "the base has a tensor"),
        (hostile({"x": ONE}, struct.pack("<f", float("nan"))), "1 NaN or Inf"),
        (hostile({"__metadata__": {"format": "breadcrumb-patch"}, "x": ONE}, b"\0" * 4), "is a breadcrumb patch"),
        (hostile({f"t{number}": ONE | {"shape": [0], "data_offsets": [0, 0]} for number in range(4097)}), "4096"),
    ],
)
def test_a_strangers_companion_that_breaks_a_rule_is_refused_by_name(tmp_path: Path, raw: bytes, said: str) -> None:
    file = tmp_path / "blob"
    file.write_bytes(raw)
    with pytest.raises(InvalidPatch, match=said) as refused:
        check_companion(file, SPECS)
    assert "companion/tensors.safetensors" in str(refused.value)


def test_a_sound_one_is_taken_whatever_it_is_called_on_disk(tmp_path: Path) -> None:
    save_file({"score.weight": torch.ones(2, 3)}, tmp_path / "s.safetensors")
    (tmp_path / "s.safetensors").rename(tmp_path / "blob")
    assert check_companion(tmp_path / "blob", SPECS) == {"score.weight": TensorSpec("F32", (2, 3))}
