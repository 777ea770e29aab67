import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint, tensor_digests
from registry.errors import InvalidCheckpoint, NotFound
from tests.support.science_makers import raw, read_tensor, write_model

TENSORS = {
    "z.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a.weight": torch.tensor(1.5, dtype=torch.bfloat16),
    "ü": torch.zeros(0, 4, dtype=torch.float16),
    "steps": torch.tensor([1, 2], dtype=torch.int64),
    "flag": torch.tensor([True, False, True]),
}


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_a_digest_does_not_depend_on_the_shards(tmp_path, shards):
    whole, parts = write_model(tmp_path / "one", TENSORS), write_model(tmp_path / "many", TENSORS, shards)
    with open_checkpoint(whole) as one, open_checkpoint(parts) as many:
        assert digest_checkpoint(one) == digest_checkpoint(many)
        assert tensor_digests(one) == {n: hashlib.sha256(raw(TENSORS[n])).hexdigest() for n in sorted(TENSORS)}
        assert list(one.tensors) == list(many.tensors) == sorted(TENSORS)
        assert len(many.files) == shards


@pytest.mark.parametrize("name", TENSORS)
def test_every_tensor_reads_back(tmp_path, name):
    with open_checkpoint(write_model(tmp_path / "m", TENSORS, 2)) as model:
        assert torch.equal(read_tensor(model, name), TENSORS[name].reshape(-1))
        start, stop = min(1, TENSORS[name].numel()), min(3, TENSORS[name].numel())
        assert torch.equal(read_tensor(model, name, start, stop), TENSORS[name].reshape(-1)[start:stop])


def test_one_file_a_folder_and_a_mapping_of_files_are_the_same_checkpoint(tmp_path):
    folder = write_model(tmp_path / "m", TENSORS, config={"a": 1})
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "config.json").rename(tmp_path / "other-blob")
    files = {"model.safetensors": tmp_path / "blob", "config.json": tmp_path / "other-blob"}
    with open_checkpoint(files) as model:
        assert model.config == {"a": 1}
        digest = digest_checkpoint(model)
    (tmp_path / "blob").rename(tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as model:
        assert digest_checkpoint(model) == digest
        assert list(model.files) == ["x.safetensors"]


def test_progress_ends_at_all_bytes(tmp_path):
    seen = []
    with open_checkpoint(write_model(tmp_path / "m", TENSORS)) as model:
        digest_checkpoint(model, lambda done, total: seen.append((done, total)))
        assert seen[-1] == (model.size, model.size)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_pickle_weights_are_refused_with_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(InvalidCheckpoint, match="save_pretrained"):
        open_checkpoint(tmp_path)
    with pytest.raises(InvalidCheckpoint, match="save_pretrained"):
        open_checkpoint(tmp_path / name)


def test_an_empty_folder_and_no_folder_are_different_faults(tmp_path):
    with pytest.raises(InvalidCheckpoint, match=r"no \.safetensors files"):
        open_checkpoint(tmp_path)
    with pytest.raises(NotFound):
        open_checkpoint(tmp_path / "none")


def index(folder, change):
    path = folder / "model.safetensors.index.json"
    table = json.loads(path.read_text())
    change(table["weight_map"])
    path.write_text(json.dumps(table))


INDEX_FAULTS = {
    "a tensor too many": (lambda m: m.update(ghost=m["steps"]), "ghost.*no file"),
    "a tensor too few": (lambda m: m.pop("steps"), "steps.*in no file"),
    "the wrong shard": (lambda m: m.update(steps=next(v for v in m.values() if v != m["steps"])), "steps"),
    "a missing shard": (lambda m: m.update(steps="gone.safetensors"), "no such file"),
    "a path out of the folder": (lambda m: m.update(steps="../x.safetensors"), "not a .safetensors file beside"),
    "an absolute path": (lambda m: m.update(steps="/etc/x.safetensors"), "not a .safetensors file beside"),
    "a drive": (lambda m: m.update(steps="C:x.safetensors"), "not a .safetensors file beside"),
    "a pickle": (lambda m: m.update(steps="pytorch_model.bin"), "not a .safetensors file beside"),
    "a hidden file": (lambda m: m.update(steps=".x.safetensors"), "not a .safetensors file beside"),
    "a number": (lambda m: m.update(steps=1), "not a .safetensors file beside"),
    "nothing": (lambda m: m.clear(), "no weight_map"),
}


@pytest.mark.parametrize("fault", INDEX_FAULTS)
def test_an_index_that_does_not_agree_with_its_shards_is_refused(tmp_path, fault):
    change, rule = INDEX_FAULTS[fault]
    folder = write_model(tmp_path / "m", TENSORS, 2)
    index(folder, change)
    with pytest.raises(InvalidCheckpoint, match=rule):
        open_checkpoint(folder)


def test_a_head_that_an_index_names_and_no_shard_holds_is_the_tied_one(tmp_path):
    for number, tensor in enumerate(("model.embed_tokens.weight", "model.norm.weight")):
        save_file({tensor: torch.ones(4, 2)}, tmp_path / f"model-{number + 1}-of-2.safetensors")
    places = {"model.embed_tokens.weight": "model-1-of-2.safetensors", "model.norm.weight": "model-2-of-2.safetensors"}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {**places, "lm_head.weight": "model-2-of-2.safetensors"}}))
    for config in (None, {"tie_word_embeddings": True}, {"text_config": {"tie_word_embeddings": True}}):
        if config:
            (tmp_path / "config.json").write_text(json.dumps(config))
        with open_checkpoint(tmp_path) as model:
            assert list(model.tensors) == list(places)
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": false}')
    with pytest.raises(InvalidCheckpoint, match=r"'lm_head\.weight'.*no file"):
        open_checkpoint(tmp_path)
    path.write_text(json.dumps({"weight_map": {**places, "lm_head.bias": "model-2-of-2.safetensors"}}))
    with pytest.raises(InvalidCheckpoint, match=r"'lm_head\.bias'.*no file"):
        open_checkpoint(tmp_path)


def test_of_a_key_twice_in_a_config_the_last_counts_and_in_an_index_none_may_be(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model-1-of-1.safetensors")
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": false, "tie_word_embeddings": true}')
    with open_checkpoint(tmp_path) as model:
        assert model.config == {"tie_word_embeddings": True}
    place = '"a": "model-1-of-1.safetensors"'
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{place}, {place}}}}}')
    with pytest.raises(InvalidCheckpoint, match=r"index\.json is not sound JSON: a key occurs twice.*save it again"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '"\xff'])
def test_a_broken_config_is_refused(tmp_path, text):
    folder = write_model(tmp_path / "m", TENSORS)
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidCheckpoint, match=r"config\.json"):
        open_checkpoint(folder)


def test_files_beside_an_index_are_not_weights(tmp_path):
    folder = write_model(tmp_path / "m", TENSORS, 2)
    save_file({"steps": TENSORS["steps"]}, folder / "consolidated.safetensors")
    with open_checkpoint(folder) as model:
        assert "consolidated.safetensors" not in model.files


def test_a_file_that_shrinks_while_open_is_an_error_and_no_crash(tmp_path):
    folder = write_model(tmp_path / "m", TENSORS)
    with open_checkpoint(folder) as model:
        os.truncate(folder / "model.safetensors", 300)
        with pytest.raises(InvalidCheckpoint, match="became shorter"):
            digest_checkpoint(model)


def test_two_answers_to_which_weights_are_the_model_are_refused(tmp_path):
    folder = write_model(tmp_path / "model", {"a": torch.ones(4), "b": torch.ones(4)}, shards=2)
    save_file({"a": torch.zeros(4), "b": torch.zeros(4)}, folder / "model.safetensors")
    with pytest.raises(InvalidCheckpoint, match=r"model\.safetensors beside") as caught:
        open_checkpoint(folder)
    assert caught.value.field == "model.safetensors"


def test_a_patch_in_the_place_of_a_model_is_not_taken_for_weights(tmp_path):
    save_file({"a.values": torch.zeros(4)}, tmp_path / "patch.safetensors", {"format": "breadcrumb-patch"})
    with pytest.raises(InvalidCheckpoint, match=r"patch\.safetensors is a breadcrumb patch"):
        open_checkpoint(tmp_path)


OTHERS = {
    "GGUF": (b"GGUF\x03\0\0\0", "is a GGUF file; use the .safetensors model"),
    "a zip archive": (b"PK\x03\x04\0\0\x08\x08", "is a zip archive.*save_pretrained"),
    "a pickle": (b"\x80\x02}q\0(X\x0c", "is a pickle.*save_pretrained"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "a web page": (b"<!DOCTYPE html>", "is a web page; download the file again, signed in"),
    "JSON": (b'{"error": "Unauthorized"}', "is JSON text"),
    "anything": (b"anything at all", "claims .* bytes, and the file has .* truncated, or not safetensors"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_file_in_the_place_of_weights_is_named(tmp_path, kind):
    start, told = OTHERS[kind]
    (tmp_path / "model.safetensors").write_bytes(start + bytes(100))
    with pytest.raises(InvalidCheckpoint, match=told):
        open_checkpoint(tmp_path)


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(InvalidCheckpoint, match="git lfs pull"):
        open_checkpoint(tmp_path)
