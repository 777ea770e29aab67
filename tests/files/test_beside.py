"""What differs beside the weights, and which files may come with a patch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.errors import InvalidRequest
from registry.files import beside
from registry.files.beside import FileChange, KeyChange, check_files, compare, key_changes

BASE = {
    "rope_theta": 10000.0,
    "eos_token_id": 2,
    "torch_dtype": "float32",
    "transformers_version": "4.40.0",
    "_name_or_path": "org/base",
    "text": {"hidden_act": "silu"},
}


@pytest.fixture
def change(tmp_path: Path) -> Callable[..., list[FileChange]]:
    """Return a function that compares two folders of one file each."""

    def run(before: Any, after: Any, path: str = "config.json", dtypes: frozenset[str] = frozenset()) -> Any:
        sides = []
        for name, value in (("before", before), ("after", after)):
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if value is not None:
                file.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
            sides.append({path: file} if value is not None else {})
        return compare(sides[0], sides[1], dtypes)

    return run


def test_keys_of_a_config_are_named_with_both_values(change: Callable[..., Any]) -> None:
    after = {**BASE, "rope_theta": 1e6, "rope_scaling": {"type": "yarn"}, "text": {"hidden_act": "gelu", "x": "y" * 99}}
    del after["eos_token_id"]
    (found,) = change(BASE, after)
    assert (found.path, found.change, found.more) == ("config.json", "changed", 0)
    long = '"' + "y" * 58 + "…"
    assert found.keys == [
        KeyChange("eos_token_id", "2", None),
        KeyChange("rope_scaling", None, '{"type": "yarn"}'),
        KeyChange("rope_theta", "10000.0", "1000000.0"),
        KeyChange("text.hidden_act", '"silu"', '"gelu"'),
        KeyChange("text.x", None, long),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"transformers_version": "5.0.0", "_name_or_path": "/home/me/run"},
        {"torch_dtype": "bfloat16"},  # as the weights are
        {"torch_dtype": None, "dtype": "torch.float32"},  # the key was renamed
        {"torch_dtype": None},
        {"a_newer_key": None, "text": {"hidden_act": "silu", "head_dim": None}},
        {"text": {"hidden_act": "silu", "transformers_version": "5.0.0", "dtype": "bfloat16"}},
    ],
)
def test_what_every_save_changes_does_not_count(change: Callable[..., Any], other: dict[str, Any]) -> None:
    assert change(BASE, {**BASE, **other}, dtypes=frozenset({"BF16"})) == []


def test_another_dtype_than_that_of_the_weights_counts(change: Callable[..., Any]) -> None:
    (found,) = change(BASE, {**BASE, "torch_dtype": "float16"}, dtypes=frozenset({"BF16"}))
    assert found.keys == [KeyChange("torch_dtype", '"float32"', '"float16"')]
    assert change({"use_cache": True}, {"use_cache": 1}) != []


def test_more_keys_than_can_be_named_are_counted(change: Callable[..., Any]) -> None:
    (found,) = change({}, {f"k{number:03}": number for number in range(100)})
    assert (len(found.keys), found.more, found.keys[0].key) == (beside.MOST_KEYS, 60, "k000")


def test_a_tokenizer_that_was_only_formatted_anew_is_no_change(change: Callable[..., Any]) -> None:
    vocabulary = {"model": {"vocab": {"a": 0, "b": 1}}}
    assert change(vocabulary, json.dumps(vocabulary, indent=2).encode(), "tokenizer.json") == []
    (found,) = change(vocabulary, {"model": {"vocab": {"a": 0, "c": 1}}}, "tokenizer.json")
    assert (found.change, found.keys) == ("changed", [])


@pytest.mark.parametrize("path", ["chat_template.jinja", "vocab.txt", "unet/scheduler_config.json", "modeling_x.py"])
def test_other_files_are_new_or_changed(change: Callable[..., Any], path: str) -> None:
    assert change(None, b"{}", path) == [FileChange(path, "new", 2, [])]
    assert [(it.path, it.change) for it in change(b"one", b"two", path)] == [(path, "changed")]
    assert change(b"one", b"one", path) == change(b"one", None, path) == []


@pytest.mark.parametrize(
    "path",
    [
        "README.md", ".gitattributes", "optimizer.pt", "training_args.bin", "trainer_state.json", "run.log",
        "runs/x/events.out.tfevents.1.host", "checkpoint-500/config.json", "scheduler.pt", "rng_state.pth",
        "adapter_config.json", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "model.gguf",
        "all_results.json", ".cache/x.json", "global_step3/latest", "wandb/run.json",
    ],
)  # fmt: skip
def test_leftovers_of_training_and_other_weights_do_not_count(change: Callable[..., Any], path: str) -> None:
    assert change(b"one", b"other", path) == change(None, b"other", path) == []
    assert not beside.may_come(path)


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b"1" * 5000,
        b'"\\ud800"',
        b'{"\\u0000": 1e999}',
    ],
)
def test_json_that_is_made_to_break_a_reader_is_a_changed_file(change: Callable[..., Any], raw: bytes) -> None:
    (found,) = change(BASE, raw)
    assert found.change == "changed"
    json.dumps([[it.key, it.before, it.after] for it in found.keys], ensure_ascii=False).encode("utf-8")
    assert all(it.key.isprintable() and len(it.key) <= 60 for it in found.keys)


def test_for_a_maintainer_nothing_is_passed_over(tmp_path: Path) -> None:
    for name, version in (("a", "1"), ("b", "2")):
        (tmp_path / name).write_text(json.dumps({"transformers_version": version, "torch_dtype": name}))
    (tmp_path / "list").write_text("[]")
    keys, more = key_changes(tmp_path / "a", tmp_path / "b") or ([], -1)
    assert ([it.key for it in keys], more) == (["torch_dtype", "transformers_version"], 0)
    assert key_changes(tmp_path / "a", tmp_path / "list") is None


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"../x": 1}, "plain relative path"),
        ({"a.bin": 1}, "pickle"),
        ({"extra.safetensors": 1}, "hold weights"),
        ({"x/model.safetensors.index.json": 1}, "hold weights"),
        ({"model_index.json": 1}, "say which files"),
        ({"adapter_config.json": 1}, "say which files"),
        ({"readme.md": 1}, "card"),
        ({f"{number}.txt": 1 for number in range(beside.MOST_FILES + 1)}, "at most 64 files"),
        ({"a.txt": beside.MOST_BYTES, "b.txt": 1}, "50000000 bytes"),
        ({"Config.json": 1}, "one file on some systems"),
        ({"a.txt": 1, "A.txt": 1}, "one file on some systems"),
        ({"config.json/x": 1}, "lies inside config.json"),
        ({"unet": 1}, "lies inside unet"),
    ],
)
def test_files_that_cannot_come_with_a_patch_are_named(files: dict[str, int], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        check_files(files, ["config.json", "unet/model.safetensors"])


def test_files_that_replace_or_add_may_come() -> None:
    check_files({"config.json": 1, "unet/config.json": 2, "chat_template.jinja": 3}, ["config.json", "unet/a.txt"])
