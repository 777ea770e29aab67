"""`crumb diff` as a person uses it: what it tells, how far the model moved, and refusals that end in a line to copy."""

import json
import shlex
from pathlib import Path

import pytest
import torch

from tests.support.science_makers import write_model
from tests.support.visitors import Crumb

BODY = {
    "embed_tokens.weight": torch.randn(40, 6, generator=torch.Generator().manual_seed(0)),
    "h.w": torch.randn(6, 6, generator=torch.Generator().manual_seed(1)),
}
TUNED = {name: tensor + 0.01 for name, tensor in BODY.items()}


def follow(crumb: Crumb, error: str) -> dict[str, object]:
    """Run the command again with the options that the error ends with."""
    line = error.strip().removesuffix("`.").rpartition("`")[2]
    return dict(json.loads(crumb("diff", "base", "tuned", "-o", "p", "--json", *shlex.split(line))))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda: {f"module.{name}": tensor for name, tensor in TUNED.items()} | {"score.w": torch.ones(2)}, "score"),
        (lambda: TUNED | {"embed_tokens.weight": torch.zeros(44, 6)}, "rows"),
        (lambda: TUNED | {"embed_tokens.weight": torch.zeros(44, 5)}, "shape"),
    ],
)
def test_the_options_that_an_error_ends_with_help(crumb: Crumb, tmp_path: Path, change, told: str) -> None:
    write_model(tmp_path / "base", BODY)
    write_model(tmp_path / "tuned", change())
    crumb("diff", "base", "tuned", "-o", "p", code=1)
    made = follow(crumb, crumb.errors)
    assert told in json.dumps(made)
    assert any(word in crumb.errors for word in ("Left out", "rows of"))
    assert ("With `--companion`" in crumb.errors) == (told != "shape")


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "float32"), ("float64", "float16")])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_how_far_the_model_moved_is_told(
    crumb: Crumb, tmp_path: Path, dtypes: tuple[str, str], granularity: str
) -> None:
    old, new = (getattr(torch, dtype) for dtype in dtypes)
    made = torch.Generator().manual_seed(2)
    base = {"big": torch.randn(1000, 1000, generator=made).to(old), "odd": torch.randn(7, 5, generator=made).to(old)}
    tuned = {name: (tensor.double() * 1.05 + 0.1).to(new) for name, tensor in base.items()}
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "tuned", tuned)
    options = ("diff", "base", "tuned", "-o", "p", "--granularity", granularity)
    moved = json.loads(crumb(*options, "--json"))["relative_change"]
    before, after = (torch.cat([t.double().reshape(-1) for t in side.values()]) for side in (base, tuned))
    assert moved == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-9)
    assert f"moved    {moved:.3g} of norm(base)" in crumb(*options)
    assert "far from" not in crumb.errors


def test_another_model_of_the_same_shape_is_doubted(crumb: Crumb, tmp_path: Path) -> None:
    scales = {"norm.w": torch.ones(400)}  # as in every model
    write_model(tmp_path / "base", BODY | scales)
    write_model(tmp_path / "tuned", {name: tensor.flip(0) for name, tensor in BODY.items()} | scales)
    crumb("diff", "base", "tuned", "-o", "p")
    assert "far from this base: norm(tuned - base) is 1." in crumb.errors


def test_a_base_of_zeros_has_no_ratio(crumb: Crumb, tmp_path: Path) -> None:
    write_model(tmp_path / "base", {"w": torch.zeros(9)})
    write_model(tmp_path / "tuned", {"w": torch.ones(9)})
    assert json.loads(crumb("diff", "base", "tuned", "-o", "p", "--json"))["relative_change"] is None


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
        ({"quant_method": "awq"}, "AWQ"),
        ({"quant_method": "hqq"}, "'hqq'"),
    ],
)
@pytest.mark.parametrize("side", ["base", "tuned"])
def test_a_quantised_side_is_named(
    crumb: Crumb, tmp_path: Path, settings: dict[str, object], name: str, side: str
) -> None:
    quantised = {"embed_tokens.weight": BODY["embed_tokens.weight"], "h.w": torch.zeros(18, 1, dtype=torch.uint8)}
    for folder in ("base", "tuned"):
        config = {"quantization_config": settings} if folder == side else {}
        write_model(tmp_path / folder, quantised if folder == side else TUNED, config=config)
    crumb("diff", "base", "tuned", "-o", "p", code=1)
    assert f"quantised by {name} (" in crumb.errors
    assert crumb.errors.endswith("`crumb diff BASE ADAPTER -o patch.safetensors`.\n")


def test_a_training_run_names_its_last_checkpoint(crumb: Crumb, tmp_path: Path) -> None:
    write_model(tmp_path / "base", BODY)
    write_model(tmp_path / "run" / "checkpoint-500", TUNED)
    crumb("diff", "base", "run", "-o", "p", code=1)
    assert "checkpoint-500`." in crumb.errors
    crumb("diff", "base", crumb.errors.strip().removesuffix("`.").rpartition("`")[2], "-o", "p")


def test_what_differs_beside_the_weights_is_shown(crumb: Crumb, tmp_path: Path) -> None:
    settings = {"rope_theta": 10000.0, "torch_dtype": "float32", "transformers_version": "4.1.0"}
    write_model(tmp_path / "base", BODY, config=settings)
    write_model(tmp_path / "tuned", TUNED, config={**settings, "rope_theta": 1e6, "transformers_version": "5.0.0"})
    (tmp_path / "tuned" / "chat_template.jinja").write_text("{{ x }}")
    (tmp_path / "tuned" / "training_args.bin").write_bytes(b"a pickle")
    shown = crumb("diff", "base", "tuned", "-o", "p")
    assert "Beside the weights, and not in the patch:" in shown
    assert "rope_theta: 10000.0 -> 1000000.0" in shown and "transformers_version" not in shown
    found = crumb.json("diff", "base", "tuned", "-o", "p")["beside"]
    assert [(it["path"], it["change"], [key["key"] for key in it["keys"]]) for it in found] == [
        ("chat_template.jinja", "new", []),
        ("config.json", "changed", ["rope_theta"]),
    ]
    (tmp_path / "tuned" / "config.json").write_bytes((tmp_path / "base" / "config.json").read_bytes())
    (tmp_path / "tuned" / "chat_template.jinja").unlink()
    assert "Beside" not in crumb("diff", "base", "tuned", "-o", "p")
    assert crumb.json("diff", "base/model.safetensors", "tuned", "-o", "p")["beside"] == []


def test_a_config_that_only_follows_the_dtype_of_the_weights_is_no_change(crumb: Crumb, tmp_path: Path) -> None:
    write_model(tmp_path / "base", BODY, config={"torch_dtype": "float32"})
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in TUNED.items()}
    write_model(tmp_path / "tuned", halved, config={"dtype": "bfloat16"})
    assert crumb.json("diff", "base", "tuned", "-o", "p")["beside"] == []
