"""Kinds: folders and files that hold no safetensors weights are named, with a command that helps."""

import json
from pathlib import Path

import pytest

from registry.files.folders import DESCRIPTIONS
from registry.files.kinds import name_kind, name_listed

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"]})
GGUF = b"GGUF\x03\0\0\0"


def fill(folder: Path, **files: bytes | str) -> Path:
    """Write a folder of files, of which the names have `__` for a slash and `_dot_` for a dot."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a_dot_distcp": ""}, ["FSDP or DCP", "`accelerate merge-weights {at} {at}-safetensors`."]),
        ({"pytorch_model_fsdp_0__a_dot_distcp": ""}, ["`accelerate merge-weights {at}/pytorch_model_fsdp_0 "]),
        ({"m_dot_gguf": GGUF}, ["m.gguf is a GGUF file", "gguf_file=", "`python -c "]),
        ({"m": GGUF}, ["m is a GGUF file"]),
        ({"zero_to_fp32_dot_py": "", "global_step5__x_dot_pt": ""}, ["zero_to_fp32.py {at} {at}-safetensors --safe"]),
        ({"pytorch_model_dot_bin": "", "config_dot_json": CONFIG}, ["never opened", "import LlamaForCausalLM as M"]),
        ({"model_dot_onnx": ""}, ["an export to ONNX"]),
        (
            {"checkpoint-500__model_dot_safetensors": "", "checkpoint-60__model_dot_safetensors": "",
             "training_args_dot_bin": ""},
            ["a training run", "`{at}/checkpoint-500`."],
        ),
        (
            {"checkpoint-500__pytorch_model_fsdp_0__a_dot_distcp": ""},
            ["merge-weights {at}/checkpoint-500/pytorch_model_fsdp_0"],
        ),
        ({"snapshots__abc__model_dot_safetensors": "", "refs__main": "abc"}, ["`{at}/snapshots/abc`."]),
        ({"final__model_dot_safetensors": ""}, ["a folder in it has: `{at}/final`."]),
    ],
)  # fmt: skip
def test_what_holds_no_safetensors_is_named_with_the_way_out(
    tmp_path: Path, files: dict[str, str], told: list[str]
) -> None:
    found = name_kind(fill(tmp_path / "it", **files))
    assert found is not None
    for part in told:
        assert part.format(at=tmp_path / "it") in found


@pytest.mark.parametrize(
    "files",
    [
        {"model_dot_safetensors": "", "m_dot_gguf": GGUF},
        {"adapter_config_dot_json": "{}", "adapter_model_dot_safetensors": ""},
        {"notes_dot_txt": ""},
        {"pytorch_model_dot_bin": "", "config_dot_json": '{"architectures": ["x; import os"]}'},
        {"pytorch_model_dot_bin": "", "config_dot_json": "no json"},
        {"unet__a_dot_safetensors": "", "model_index_dot_json": "{}"},
    ],
)
def test_what_may_be_a_checkpoint_or_is_not_known_has_no_name(tmp_path: Path, files: dict[str, str]) -> None:
    assert name_kind(fill(tmp_path / "it", **files)) is None


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (["a/b.distcp", "config.json"], "It holds shards of a distributed checkpoint (FSDP or DCP), which are merged"),
        (["x.GGUF", "README.md"], "It holds 'x.GGUF', a GGUF file"),
        (["zero_to_fp32.py", "global_step5/x.pt"], "It is a checkpoint of DeepSpeed ZeRO"),
        (["onnx/model.onnx"], "It is an export to ONNX"),
        (["model.gguf", "model.safetensors"], None),
        (["pytorch_model.bin"], None),
        ([], None),
    ],
)
def test_files_are_named_by_their_paths_alone(paths: list[str], told: str | None) -> None:
    found = name_listed(paths, "It")
    assert found is None if told is None else (found or "").startswith(told) and str(found).endswith(".")


def test_a_file_of_its_own_is_named_as_well(tmp_path: Path) -> None:
    assert "GGUF" in str(name_kind(fill(tmp_path, m_dot_gguf=GGUF) / "m.gguf"))
    assert name_kind(tmp_path / "none") is None


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_a_folder_whose_description_names_its_subfolders_is_a_model(tmp_path: Path, description: str) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "model.safetensors").touch()
    assert "a folder in it has" in (name_kind(tmp_path) or "")
    (tmp_path / description).write_text("{}")
    assert name_kind(tmp_path) is None
