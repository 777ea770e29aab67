"""Models whose weights lie in several folders, or beside other copies of themselves, on their way to a composed one."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support import makers
from tests.support.visitors import Crumb, Registry

COPIES = ["consolidated.safetensors", "model.gguf", "onnx/model.onnx", "2_Dense/model.fp16.safetensors"]
EVERYTHING = ("--drop-bottom", "0", "--drop-top", "0")


def embedder(folder: Path, shift: float) -> Path:
    """Write a model of sentence-transformers: a transformer, a head in two shards, and copies of the weights."""
    random = torch.Generator().manual_seed(0)
    head = {name: torch.randn(40, generator=random) + shift for name in ("linear.weight", "linear.bias")}
    makers.make_checkpoint(folder)
    moved = {name: value + shift for name, value in makers.read_weights(folder).items() if value.is_floating_point()}
    save_file({**makers.read_weights(folder), **moved}, folder / "model.safetensors", {"format": "pt"})
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    makers.write_weights(folder / "2_Dense", head, shards=2)
    (folder / "2_Dense/config.json").write_text('{"in_features": 40}')
    for path in COPIES:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(
            b"" if path.endswith(("gguf", "onnx")) else (folder / "model.safetensors").read_bytes()
        )
    return folder


def heads(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: value
        for file in (folder / "2_Dense").glob("model-*.safetensors")
        for name, value in load_file(file).items()
    }


def names(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and ".crumb" not in path.parts
    }


def test_every_component_is_composed_here_and_no_copy_of_the_base_travels(crumb: Crumb, tmp_path: Path) -> None:
    base, tuned = embedder(tmp_path / "base", 0), embedder(tmp_path / "tuned", 0.5)
    made = json.loads(crumb("diff", "base", "tuned", "-o", "p.safetensors", "--json", *EVERYTHING))
    assert sorted(made["left_out"]["base"]) == sorted(made["left_out"]["tuned"]) == sorted(COPIES)
    applied = json.loads(crumb("apply", "base", "p.safetensors", "-o", "merged", "--alpha", "1", "--json"))
    assert sorted(applied["left_out"]) == sorted(COPIES)
    merged = tmp_path / "merged"
    for name, tensor in heads(tuned).items():
        torch.testing.assert_close(heads(merged)[name], tensor, rtol=0, atol=1e-6)
    assert names(merged) == names(base) - set(COPIES)
    assert "2_Dense/model-00001-of-00002.safetensors" in names(merged)
    digest = json.loads(crumb("digest", "merged", "--json"))
    assert (digest["weights_digest"], digest["left_out"]) == (applied["weights_digest"], [])
    assert "consolidated.safetensors" in (merged / "README.md").read_text()


def test_the_registry_composes_every_component_and_serves_no_copy_of_the_base(
    here: Registry, crumb: Crumb, tmp_path: Path
) -> None:
    base, tuned = embedder(tmp_path / "base", 0), embedder(tmp_path / "tuned", 0.5)
    crumb("diff", "base", "tuned", "-o", "p.safetensors", *EVERYTHING)
    (tmp_path / "quantised").mkdir()
    (tmp_path / "quantised" / "m.gguf").write_bytes(b"GGUF")
    crumb("model", "create", "ana/quantised", "--base", "quantised", code=1)
    assert "is a GGUF file" in crumb.errors
    packed = {"h.weight": torch.ones(8, 1, dtype=torch.uint8), "h.weight.absmax": torch.ones(2)}
    makers.write_weights(tmp_path / "packed", packed, 1)
    crumb("model", "create", "ana/packed", "--base", "packed", code=1)
    assert "packed is quantised by bitsandbytes (it holds 'h.weight.absmax')" in crumb.errors
    crumb("model", "create", "ana/embedder", "--base", "base")
    assert "consolidated.safetensors" in crumb.errors
    crumb("push", "p.safetensors", "ana/embedder", "-m", "Moves everything")
    composed = json.loads(crumb("compose", "ana/embedder", "1", "--alpha", "1", "--json"))
    recipe = composed["recipe"]["digest"]
    assert "consolidated.safetensors" in composed["left_out"]
    for out, options in (("whole", ()), ("parts", ("--as-patches",))):
        crumb("pull", f"ana/embedder@{recipe}", "-o", out, *options)
        assert names(tmp_path / out) == names(base) - set(COPIES)
        for name, tensor in heads(tuned).items():
            torch.testing.assert_close(heads(tmp_path / out)[name], tensor, rtol=0, atol=1e-6)
    assert "consolidated.safetensors" in (tmp_path / "whole/README.md").read_text()
    crumb("verify", "whole", f"ana/embedder@{recipe}", "--recompose")
    (tmp_path / "whole/2_Dense/model-00001-of-00002.safetensors").write_bytes(
        (base / "2_Dense/model-00001-of-00002.safetensors").read_bytes()
    )
    crumb("verify", "whole", f"ana/embedder@{recipe}", code=3)


def test_a_tuned_model_saved_in_a_less_precise_dtype_is_compared_as_it_was_rounded(
    crumb: Crumb, tmp_path: Path
) -> None:
    base = makers.make_checkpoint(tmp_path / "base")
    for name, shift in (("untrained", 0.0), ("tuned", 0.5)):
        makers.changed(base, tmp_path / name, lambda name, tensor, shift=shift: lower(name, tensor, shift))
    crumb("diff", "base", "untrained", "-o", "p", code=1)
    assert "equal, once the base is rounded to BF16" in crumb.errors
    made = crumb.json("diff", "base", "tuned", "-o", "p", *EVERYTHING)
    assert made["tensors"] == 1
    assert "less precise than the base" in made["notes"][-1]


def lower(name: str, tensor: torch.Tensor, shift: float) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    return (tensor + (shift if name == makers.HEAD else 0)).bfloat16()
