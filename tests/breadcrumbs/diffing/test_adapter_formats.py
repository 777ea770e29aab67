"""LoRA files of other programs: read by the base's names, and measured by PEFT's own merge, or named and refused."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from registry.breadcrumbs.diffing.adapters.adapted import Adapted, open_tuned
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.errors import CheckpointMismatch, InvalidCheckpoint
from tests.support.adapter_makers import CONFIG, PREFIX, add_slowly, factors, write_adapter
from tests.support.science_makers import Tensors, read_tensor, write_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the two libraries, about each other
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")

MODULE = "model.layers.0.self_attn.q_proj"
A, B = factors("m", 6, 5).values()
WEIGHT = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
FLAT = MODULE.replace(".", "_")


def kohya(module: str, alpha: float | None = 4.0, prefix: str = "lora_unet_") -> dict[str, torch.Tensor]:
    name = prefix + module.replace(".", "_")
    scale = {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)}
    return {f"{name}.lora_down.weight": A.clone(), f"{name}.lora_up.weight": B.clone()} | scale


def named(a: str, b: str) -> dict[str, torch.Tensor]:
    return {a: A.clone(), b: B.clone()}


def saved(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """Save the one file of a folder; return it."""
    folder.mkdir()
    save_file(dict(tensors), folder / "it.safetensors", metadata)
    return folder / "it.safetensors"


NEWER = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 6})}


@pytest.mark.parametrize(
    ("held", "tensors", "scale", "metadata"),
    [
        (MODULE, kohya(MODULE), 2.0, None),
        (MODULE, kohya(MODULE, None), 1.0, None),
        (MODULE, kohya(MODULE, 1.0, "lora_te_"), 0.5, None),
        (f"unet/{MODULE}", kohya(MODULE), 2.0, None),
        (f"text_encoder_2/{MODULE}", kohya(MODULE, prefix="lora_te2_"), 2.0, None),
        (MODULE, named(f"unet.{MODULE}.lora_A.weight", f"unet.{MODULE}.lora_B.weight"), 1.0, None),
        (f"unet/{MODULE}", named(f"unet.{MODULE}.lora_A.weight", f"unet.{MODULE}.lora_B.weight"), 3.0, NEWER),
        (MODULE, named(f"{MODULE}.lora.down.weight", f"{MODULE}.lora.up.weight"), 1.0, None),
        *((held, named(*(f"diffusion_model.{MODULE}.lora_{letter}.weight" for letter in "AB")), 1.0, None)
          for held in (MODULE, f"model.diffusion_model.{MODULE}", f"transformer/{MODULE}", f"unet/{MODULE}")),
        (MODULE, named(f"{MODULE}.lora_linear_layer.down.weight", f"{MODULE}.lora_linear_layer.up.weight"), 1.0, None),
        ("b.to_q", named("unet.b.processor.to_q_lora.down.weight", "unet.b.processor.to_q_lora.up.weight"), 1.0, None),
        ("b.to_out.0", named("b.processor.to_out_lora.down.weight", "b.processor.to_out_lora.up.weight"), 1.0, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_file_of_another_program_is_the_sum_that_its_names_say(
    tmp_path: Path, held: str, tensors: Tensors, scale: float, metadata: dict[str, str] | None, given: str
) -> None:
    base = saved(tmp_path / "base", {f"{held}.weight": WEIGHT, "other.weight": torch.ones(2)})
    file = saved(tmp_path / "adapter", tensors, metadata)
    with open_checkpoint(base) as opened, open_tuned(file if given == "file" else file.parent, opened) as adapted:
        assert isinstance(adapted, Adapted)
        assert adapted.shared == {"other.weight"}
        expected = add_slowly(WEIGHT, A, B, scale)
        assert torch.equal(read_tensor(adapted, f"{held}.weight"), expected.flatten())


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


HADA = {"w1_a": random(6, 2), "w1_b": random(2, 12), "w2_a": random(6, 2), "w2_b": random(2, 12)}
CORES = {"w1_a": random(2, 6), "w1_b": random(2, 3), "w2_a": random(2, 6), "w2_b": random(2, 3),
         "t1": random(2, 2, 2, 2), "t2": random(2, 2, 2, 2) / 3}  # fmt: skip
MID = {
    "lora_down.weight": random(2, 3, 1, 1),
    "lora_up.weight": random(6, 2, 1, 1),
    "lora_mid.weight": random(2, 2, 2, 2),
}
LYCORIS = {
    "loha": ({f"hada_{letter}": tensor for letter, tensor in HADA.items()},
             (HADA["w1_a"].double() @ HADA["w1_b"].double()) * (HADA["w2_a"].double() @ HADA["w2_b"].double()) * 1.5),
    "loha, cores": ({f"hada_{letter}": tensor for letter, tensor in CORES.items()}, 1.5 * torch.stack([
        torch.einsum("ijkl,jr,ip->prkl", *(CORES[part].double() for part in parts))
        for parts in (("t1", "w1_b", "w1_a"), ("t2", "w2_b", "w2_a"))]).prod(0)),
    "lokr": ({"lokr_w1": random(2, 3), "lokr_w2_a": random(3, 2), "lokr_w2_b": random(2, 4)},
             torch.kron(random(2, 3).double(), random(3, 2).double() @ random(2, 4).double()) * 1.5),
    "lokr, whole": ({"lokr_w1": random(2, 3), "lokr_w2": random(3, 1, 2, 2)},
                    torch.kron(random(2, 3).double(), random(3, 1, 2, 2).double().flatten(1))),
    "locon": (MID, torch.einsum("ijkl,jr,pi->prkl", MID["lora_mid.weight"].double(),
                                MID["lora_down.weight"].double().flatten(1),
                                MID["lora_up.weight"].double().flatten(1)) * 1.5),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["lora_unet_", "lycoris_"])
@pytest.mark.parametrize("case", list(LYCORIS))
def test_a_file_of_lycoris_is_the_sum_that_its_methods_say(tmp_path: Path, case: str, prefix: str) -> None:
    tensors, change = LYCORIS[case]
    weight = random(6, 3, 2, 2).bfloat16()
    base = saved(tmp_path / "base", {f"{MODULE}.weight": weight, "other.weight": torch.ones(2)})
    file = saved(
        tmp_path / "adapter",
        {f"{prefix}{FLAT}.{name}": tensor.clone() for name, tensor in tensors.items()}
        | {f"{prefix}{FLAT}.alpha": torch.tensor(3.0)},
    )
    with open_checkpoint(base) as opened, open_tuned(file, opened) as adapted:
        assert adapted.tensors[f"{MODULE}.weight"].shape == (6, 3, 2, 2)
        expected = (weight.double().flatten() + change.flatten()).float()
        torch.testing.assert_close(read_tensor(adapted, f"{MODULE}.weight"), expected, rtol=2e-7, atol=1e-9)


def as_kohya(module: str, letter: str) -> str:
    return f"lora_te_{module.replace('.', '_')}.lora_{'down' if letter == 'A' else 'up'}.weight"


def as_diffusers(module: str, letter: str) -> str:
    return f"transformer.{module}.lora_{letter}.weight"


@pytest.mark.parametrize("name", [as_kohya, as_diffusers])
def test_what_peft_trained_and_others_saved_is_what_peft_merges(
    tmp_path: Path, name: Callable[[str, str], str]
) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.LlamaConfig(vocab_size=40, bos_token_id=0, eos_token_id=1, **sizes)
        model = transformers.LlamaForCausalLM(config)
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        settings = {"target_modules": ["q_proj", "up_proj"], "r": 4, "lora_alpha": 4, "init_lora_weights": False}
        trained = peft.get_peft_model(model, peft.LoraConfig(**settings))
        state = peft.get_peft_model_state_dict(trained)
        renamed = {}
        for key, tensor in state.items():
            module, _, letter = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
            renamed[name(module, letter)] = tensor.clone()
        merged = trained.merge_and_unload().state_dict()
    base = write_model(tmp_path / "base", before)
    with open_checkpoint(base) as opened, open_tuned(saved(tmp_path / "x", renamed), opened) as adapted:
        assert len(adapted.tensors) - len(adapted.shared) == 4
        for key in adapted.tensors:
            torch.testing.assert_close(read_tensor(adapted, key), merged[key].flatten(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
@pytest.mark.parametrize("middle", ["", ".default"])
def test_peft_names_that_training_wrapped_are_read(tmp_path: Path, prefix: str, middle: str) -> None:
    base = write_model(tmp_path / "base", {f"{MODULE}.weight": WEIGHT})
    folder = write_adapter(tmp_path / "adapter", {})
    (folder / "adapter_model.safetensors").unlink()
    name = f"{prefix}{PREFIX}{MODULE}.lora_"
    save_file(named(f"{name}A{middle}.weight", f"{name}B{middle}.weight"), folder / "adapter.safetensors")
    for given in (folder, folder / "adapter.safetensors"):
        with open_checkpoint(base) as opened, open_tuned(given, opened) as adapted:
            expected = add_slowly(WEIGHT, A, B, CONFIG["lora_alpha"] / 2)  # type: ignore[operator]
            assert torch.equal(read_tensor(adapted, f"{MODULE}.weight"), expected.flatten())


@pytest.mark.parametrize(
    ("tensors", "error", "told"),
    [
        (kohya("somewhere.else"), CheckpointMismatch, "adapter of kohya for modules that the base does not have"),
        (named("unet.x.lora_A.weight", "unet.x.lora_B.weight"), CheckpointMismatch, "adapter of diffusers for modules"),
        (kohya(MODULE) | {f"lora_unet_{FLAT}.dora_scale": A}, InvalidCheckpoint, "DoRA of LyCORIS"),
        (kohya(MODULE) | {f"lora_unet_{FLAT}.lora_mid.weight": A}, InvalidCheckpoint, r"a core \[2, 5\]"),
        ({f"lora_unet_{FLAT}.hada_w1_a": A}, InvalidCheckpoint, "needs hada_w1_a, hada_w1_b"),
        ({f"lora_unet_{FLAT}.lokr_w1": A}, InvalidCheckpoint, "needs lokr_w2, or"),
        ({f"lora_unet_{FLAT}.oft_blocks": A}, InvalidCheckpoint, "the kind OFT"),
        ({f"unet.{MODULE}.hada_w1_a": A}, InvalidCheckpoint, "the kind LoHa"),
        ({f"{MODULE}.ia3_l": A}, InvalidCheckpoint, "the kind IA3"),
        ({f"{MODULE}.lora_a": A, f"{MODULE}.lora_b": B}, InvalidCheckpoint, "of MLX, .* `mlx_lm.fuse --model BASE "),
        ({f"{PREFIX}{MODULE}.ia3_l": A}, InvalidCheckpoint, "as PEFT saves it, without its adapter_config"),
        (named(f"{PREFIX}{MODULE}.lora_A.weight", f"{PREFIX}{MODULE}.lora_B.weight"), InvalidCheckpoint, "without its"),
        (kohya(MODULE) | {"stray": A}, InvalidCheckpoint, "'stray' is not a part"),
        ({f"lora_unet_{FLAT}.lora_down.weight": A}, InvalidCheckpoint, "one lora_A and one lora_B"),
        (
            named(f"unet.{MODULE}.lora_A.weight", f"unet.{MODULE}.lora_B.weight")
            | {f"unet.{MODULE}.lora.down.weight": A.clone()}, InvalidCheckpoint, "two factors",
        ),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(tmp_path: Path, tensors: Tensors, error: Any, told: str) -> None:
    base = write_model(tmp_path / "base", {f"{MODULE}.weight": WEIGHT})
    file = saved(tmp_path / "adapter", {name: tensor.clone() for name, tensor in tensors.items()})
    with open_checkpoint(base) as opened, pytest.raises(error, match=told):
        open_tuned(file, opened)


@pytest.mark.parametrize(
    ("text", "told"),
    [("[", "not a JSON object"), ('{"unet.use_dora": true}', "the setting 'use_dora'"),
     ('{"unet.alpha_pattern": {"x": 2}}', "the setting 'alpha_pattern'")],
)  # fmt: skip
def test_settings_in_a_header_that_are_not_read_are_named(tmp_path: Path, text: str, told: str) -> None:
    base = write_model(tmp_path / "base", {f"{MODULE}.weight": WEIGHT})
    pair = named(f"unet.{MODULE}.lora_A.weight", f"unet.{MODULE}.lora_B.weight")
    file = saved(tmp_path / "adapter", pair, {"lora_adapter_metadata": text})
    with open_checkpoint(base) as opened, pytest.raises(InvalidCheckpoint, match=told):
        open_tuned(file, opened)


def test_a_module_that_the_base_has_twice_is_not_chosen_from(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", {f"{FLAT}.weight": WEIGHT, f"{MODULE}.weight": WEIGHT.clone()})
    file = saved(tmp_path / "adapter", kohya(MODULE))
    with open_checkpoint(base) as opened, pytest.raises(CheckpointMismatch, match="more than once"):
        open_tuned(file, opened)
