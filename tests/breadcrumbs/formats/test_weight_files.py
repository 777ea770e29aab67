"""Which files of a folder are the model: one rule, whatever the folder's layout."""

import json

import pytest
import torch
from safetensors.torch import save_file

from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.errors import InvalidCheckpoint

A, B = {"a": torch.ones(4)}, {"b": torch.ones(4)}


def lay(folder, files):
    """Write files: tensors as safetensors, a list of weight_map's pairs or any other object as JSON, None as a link."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.symlink_to(folder / "nowhere")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, dict) and all(isinstance(value, torch.Tensor) for value in content.values()):
            save_file(content, path)
        else:
            path.write_text(json.dumps(content))
    return folder


def index(**weight_map):
    return {"metadata": {}, "weight_map": weight_map}


MODULES = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]
PIPELINE = {"_class_name": "X", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"], "checker": [None, None]}
SHARDS = {"model-00001-of-00002.safetensors": A, "model-00002-of-00002.safetensors": B}

LAYOUTS = {
    "one file of any name": ({"anything.safetensors": A}, ["a"], []),
    "shards without an index": (SHARDS, ["a", "b"], []),
    "one shard of one": ({"model-00001-of-00001.safetensors": A}, ["a"], []),
    "shards counted from 0": ({"m-0-of-2.safetensors": A, "m-1-of-2.safetensors": B}, ["a", "b"], []),
    "an original beside the converted file": (
        {"model.safetensors": A, "consolidated.safetensors": B},
        ["a"],
        ["consolidated.safetensors"],
    ),
    "an original beside an index": (
        {
            **SHARDS,
            "model.safetensors.index.json": index(a=next(iter(SHARDS)), b=list(SHARDS)[1]),
            "consolidated-00001-of-00002.safetensors": A,
            "consolidated.safetensors.index.json": index(a="consolidated-00001-of-00002.safetensors"),
        },
        ["a", "b"],
        ["consolidated-00001-of-00002.safetensors", "consolidated.safetensors.index.json"],
    ),
    "an original alone": ({"consolidated.safetensors": A}, ["a"], []),
    "an adapter beside a whole model": (
        {"model.safetensors": A, "adapter_model.safetensors": B},
        ["a"],
        ["adapter_model.safetensors"],
    ),
    "variants": (
        {"m.safetensors": A, "m.fp16.safetensors": A, "m.non_ema.safetensors": B, "m.fp16-1-of-2.safetensors": B},
        ["a"],
        ["m.fp16-1-of-2.safetensors", "m.fp16.safetensors", "m.non_ema.safetensors"],
    ),
    "variants of shards": (
        {**SHARDS, "model-00001-of-00002.fp16.safetensors": A},
        ["a", "b"],
        ["model-00001-of-00002.fp16.safetensors"],
    ),
    "a variant alone": ({"m.fp16.safetensors": A}, ["a"], []),
    "a variant of shards alone, with its index": (
        {
            "m.fp16-1-of-2.safetensors": A,
            "m.fp16-2-of-2.safetensors": B,
            "m.safetensors.index.fp16.json": index(a="m.fp16-1-of-2.safetensors", b="m.fp16-2-of-2.safetensors"),
        },
        ["a", "b"],
        [],
    ),
    "a variant of shards alone, as older diffusers named it": (
        {"m-1-of-2.fp16.safetensors": A, "m-2-of-2.fp16.safetensors": B},
        ["a", "b"],
        [],
    ),
    "other formats": (
        {
            "model.safetensors": A,
            "q4.gguf": b"x",
            "onnx/model.onnx": b"x",
            "onnx/model.onnx_data": b"x",
            "openvino/openvino_model.xml": b"x",
            "openvino/openvino_model.bin": b"x",
            "pytorch_model.bin": b"x",
            "training_args.bin": b"x",
            "openvino.txt": b"x",
        },
        ["a"],
        [
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "openvino/openvino_model.bin",
            "openvino/openvino_model.xml",
            "pytorch_model.bin",
            "q4.gguf",
        ],
    ),
    "a checkpoint in a folder that nothing names": (
        {"model.safetensors": A, "checkpoint-500/model.safetensors": A},
        ["a"],
        ["checkpoint-500/model.safetensors"],
    ),
    "modules of sentence-transformers": (
        {"model.safetensors": A, "2_Dense/model.safetensors": A, "modules.json": MODULES, "1_Pooling/config.json": {}},
        ["2_Dense/a", "a"],
        [],
    ),
    "modules without weights at the top": (
        {"0_T/model.safetensors": A, "2_Dense/model.safetensors": B, "modules.json": [{"path": "0_T"}, *MODULES[1:]]},
        ["0_T/a", "2_Dense/b"],
        [],
    ),
    "a router's modules": (
        {
            "modules.json": [{"path": ""}],
            "router_config.json": {"types": {"query_0_T": "x", "document_0_T": "y"}},
            "query_0_T/model.safetensors": A,
            "document_0_T/model.safetensors": A,
        },
        ["document_0_T/a", "query_0_T/a"],
        [],
    ),
    "a pipeline with sharded and single components": (
        {
            "model_index.json": PIPELINE,
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors": A,
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors": B,
            "unet/diffusion_pytorch_model.safetensors.index.json": index(
                a="diffusion_pytorch_model-00001-of-00002.safetensors",
                b="diffusion_pytorch_model-00002-of-00002.safetensors",
            ),
            "vae/diffusion_pytorch_model.safetensors": A,
            "vae/diffusion_pytorch_model.fp16.safetensors": A,
            "v1-5.safetensors": A,
            "v1-5-pruned.safetensors": A,
        },
        ["unet/a", "unet/b", "vae/a"],
        ["v1-5-pruned.safetensors", "v1-5.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors"],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_has_the_weights_that_programs_load_from_it(tmp_path, layout):
    files, tensors, left_out = LAYOUTS[layout]
    with open_checkpoint(lay(tmp_path, files)) as model:
        assert list(model.tensors) == tensors
        assert list(model.left_out) == left_out


CLASSES = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"], "te": [None, None]}
TYPES = [{"path": "", "type": "st.models.Transformer"}, {"path": "2_Dense", "type": "st.models.Dense"}]

FAULTS = {
    "an index without a shard": (
        {"model.safetensors.index.json": index(a="model-1-of-2.safetensors")},
        r"model\.safetensors\.index\.json names 'model-1-of-2\.safetensors', and there is no such file",
    ),
    "a component's index without a shard": (
        {
            "model_index.json": PIPELINE,
            "vae/d.safetensors": A,
            "unet/d.safetensors.index.json": index(a="d-1-of-2.safetensors"),
        },
        r"unet/d\.safetensors\.index\.json names 'd-1-of-2\.safetensors', and there is no such file",
    ),
    "a component without weights": (
        {"model_index.json": CLASSES, "unet/d.safetensors": A, "vae/config.json": {}},
        r"model_index\.json names 'vae', and there are no weights in it; complete the folder",
    ),
    "a module without weights": (
        {"model.safetensors": A, "modules.json": TYPES, "2_Dense/config.json": {}},
        r"modules\.json names '2_Dense', and there are no weights in it; complete the folder",
    ),
    "a missing shard of an older variant": (
        {"m-00001-of-00002.fp16.safetensors": A},
        r"'m-00002-of-00002\.fp16\.safetensors' is missing: 1 of 2",
    ),
    "a missing shard": (
        {"model-00001-of-00003.safetensors": A, "model-00003-of-00003.safetensors": B},
        r"'model-00002-of-00003\.safetensors' is missing: 2 of 3",
    ),
    "a missing last shard": ({"m-1-of-2.safetensors": A}, r"'m-2-of-2\.safetensors' is missing"),
    "a shard that is a dangling link": (
        {"model-00001-of-00002.safetensors": A, "model-00002-of-00002.safetensors": None},
        r"'model-00002-of-00002\.safetensors' is a link to nothing",
    ),
    "a dangling single file": ({"model.safetensors": None}, r"'model\.safetensors' is a link to nothing"),
    "a dangling index": (
        {**SHARDS, "model.safetensors.index.json": None},
        r"model\.safetensors\.index\.json is a link to nothing",
    ),
    "a component with a shard missing": (
        {
            "model_index.json": PIPELINE,
            "unet/d-1-of-2.safetensors": A,
            "unet/d.safetensors.index.json": index(a="d-1-of-2.safetensors", b="d-2-of-2.safetensors"),
            "vae/d.safetensors": A,
        },
        r"unet/d\.safetensors\.index\.json names 'd-2-of-2\.safetensors', and there is no such file",
    ),
    "a component without an index and a shard missing": (
        {"model_index.json": PIPELINE, "unet/d-2-of-2.safetensors": A, "vae/d.safetensors": A},
        r"'unet/d-1-of-2\.safetensors' is missing",
    ),
    "a component of pickles": (
        {"model.safetensors": A, "modules.json": MODULES, "2_Dense/pytorch_model.bin": b"x"},
        r"2_Dense/pytorch_model\.bin.*never opened",
    ),
    "a whole file beside a component's index of others": (
        {
            "model_index.json": PIPELINE,
            "unet/d.safetensors": A,
            "unet/d-1-of-1.safetensors": A,
            "unet/d.safetensors.index.json": index(a="d-1-of-1.safetensors"),
        },
        r"There is unet/d\.safetensors beside",
    ),
    "two files that are not shards": ({"x.safetensors": A, "y.safetensors": B}, "'x.safetensors', 'y.safetensors'"),
    "shards of two models": ({"m-1-of-2.safetensors": A, "m-1-of-1.safetensors": A}, "of 1 and 2 files"),
    "weights in folders that nothing names": ({"sub/model.safetensors": A}, "none at the top"),
    "an index out of its component": (
        {"model_index.json": PIPELINE, "vae/d.safetensors": A, "unet/d.safetensors.index.json": index(a="../x")},
        "not a .safetensors file beside it",
    ),
    "modules that are not a list": ({"model.safetensors": A, "modules.json": {"a": 1}}, "not a list of modules"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_not_one_whole_model_is_refused_by_name(tmp_path, fault):
    files, message = FAULTS[fault]
    if fault == "an index out of its component":
        files = {**files, "unet/d-1-of-1.safetensors": A}
    with pytest.raises(InvalidCheckpoint, match=message):
        open_checkpoint(lay(tmp_path, files))


def test_one_shard_of_several_is_not_a_model(tmp_path):
    lay(tmp_path, SHARDS)
    with pytest.raises(InvalidCheckpoint, match="shard 1 of 2"):
        open_checkpoint(tmp_path / "model-00001-of-00002.safetensors")


def test_a_component_counts_in_the_digest_and_a_copy_does_not(tmp_path):
    digests = []
    for number, extra in enumerate(({}, {"consolidated.safetensors": B}, {"2_Dense/model.safetensors": B})):
        folder = lay(tmp_path / str(number), {"model.safetensors": A, "modules.json": MODULES, **extra})
        with open_checkpoint(folder) as model:
            digests.append(digest_checkpoint(model))
    assert digests[0] == digests[1] != digests[2]
