"""Pulls and what verify says of them, against a real registry."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from client import Client
from registry import schemas
from tests.support import makers
from tests.support.visitors import (
    WEIGHTS,
    Crumb,
    Files,
    Registry,
    model_with_patches,
)


@pytest.fixture(scope="module")
def model(registry: Registry, files: Files) -> str:
    """A model with two checked patches."""
    return model_with_patches(registry, files, "ana/pulled")


def test_a_subset_is_composed_pulled_both_ways_and_verified(
    here: Registry, model: str, files: Files, crumb: Crumb, home: Path
) -> None:
    made = json.loads(crumb("compose", model, "2:0.5", "#1", "--alpha", "0.7", "--json"))
    recipe, weights = made["recipe"]["digest"], made["weights_digest"]
    assert crumb("compose", model, "1", "2:0.50", "--alpha", "0.70", "-q") == f"{recipe} {weights}\n"
    address = f"{model}@{recipe[:10]}"

    crumb("pull", address, "-o", "merged")
    assert crumb("digest", "merged", "-q").strip() == weights
    for name, extra in (("local", ["--base", files.base]), ("cached", [])):
        crumb("pull", address, "-o", name, "--as-patches", *extra)
        subprocess.run(["diff", "-r", "merged", name], cwd=crumb.cwd, check=True)
    assert (home / "cache" / "patches").is_dir()
    applied = crumb(
        "apply", files.base, files.patches[0], f"{files.patches[1]}:0.5", "--alpha", "0.7", "-o", "ap", "-q"
    )
    assert applied.strip() == weights

    assert json.loads(crumb("verify", "merged", address, "--recompose", "--json")) == {
        "ok": True,
        "expected": weights,
        "found": weights,
        "recomposed": weights,
        "different": [],
        "strays": [],
        "signed": None,
    }
    crumb("verify", "merged", f"{model}@base", code=3)
    crumb("pull", address, "-o", "x", "--as-patches", "--base", files.tuned[0], code=1)
    assert "base" in crumb.errors
    assert [path.name for path in (crumb.cwd / "x").iterdir()] == [".crumb"]


def test_verify_shows_both_digests_when_a_weight_differs(here: Registry, model: str, crumb: Crumb) -> None:
    crumb("pull", model, "-o", "base")
    weights = sorted((crumb.cwd / "base").glob("*.safetensors"))[0]
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    shown = json.loads(crumb("verify", "base", f"{model}@base", "--json", code=3))
    assert shown["ok"] is False
    assert shown["expected"] != shown["found"]
    text = crumb("verify", "base", f"{model}@base", code=3)
    assert shown["expected"] in text
    assert shown["found"] in text
    crumb("pull", model, "-o", "base", code=1)  # what a person changed is not written over
    assert "changed" in crumb.errors


def test_a_pull_brings_the_folder_up_to_date_and_touches_no_other(here: Registry, model: str, crumb: Crumb) -> None:
    recipe, weights = crumb("compose", model, "1", "-q").split()
    crumb("pull", model, "-o", "it")
    note = json.loads((crumb.cwd / "it/.crumb/source.json").read_text())
    assert (note["model"], note["ref"], note["complete"]) == (model, "base", True)
    crumb("pull", f"{model}@{recipe}", "-o", "it")
    assert crumb("digest", "it", "-q").strip() == weights
    (crumb.cwd / "it" / "notes.txt").write_text("mine")
    crumb("pull", model, "-o", "it")
    assert (crumb.cwd / "it" / "notes.txt").read_text() == "mine"
    (crumb.cwd / "it" / "README.md").write_text("mine")
    crumb("pull", f"{model}@{recipe}", "-o", "it", code=1)
    assert "README.md" in crumb.errors
    assert "changed" in crumb.errors
    assert (crumb.cwd / "it" / "README.md").read_text() == "mine"


def test_a_pull_whose_weights_are_not_those_announced_is_never_complete(
    here: Registry, model: str, crumb: Crumb, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Client.snapshot

    def lie(client: Client, model: str, ref: str = "base") -> schemas.Snapshot:
        return ask(client, model, ref).model_copy(update={"weights_digest": "sha256:" + "0" * 64})

    monkeypatch.setattr(Client, "snapshot", lie)
    assert crumb("pull", model, "-o", "it", code=3) == ""
    assert "sha256:000" in crumb.errors
    assert json.loads((crumb.cwd / "it/.crumb/source.json").read_text())["complete"] is False


def test_verify_compares_every_file_and_names_what_else_may_be_loaded(here: Registry, model: str, crumb: Crumb) -> None:
    crumb("pull", model, "-o", "it")
    crumb("verify", "it")
    it = crumb.cwd / "it"
    (it / "README.md").write_text("my words")
    (it / "notes.txt").write_text("mine")
    assert "the same" in crumb("verify", "it", f"{model}@base")
    config = (it / "config.json").read_bytes()
    (it / "config.json").write_text("{}")
    (it / "tokenizer.json").unlink()
    shown = json.loads(crumb("verify", "it", "--json", code=3))
    assert shown["different"] == ["config.json", "tokenizer.json"]
    assert shown["found"] == shown["expected"]
    assert "The files DIFFER" in crumb("verify", "it", code=3)
    (it / "config.json").write_bytes(config)
    crumb("pull", model, "-o", "it", code=1)
    (it / "README.md").unlink()
    crumb("pull", model, "-o", "it")
    for name in ("model.safetensors", "adapter_config.json", "pytorch_model.bin", "x.pt", "modeling.py"):
        (it / name).write_bytes(b"x")
        assert json.loads(crumb("verify", "it", "--json", code=3))["strays"] == [name]
        assert name in crumb("verify", "it", code=3)
        crumb("pull", model, "-o", "it")
        assert name in crumb.errors
        (it / name).unlink()
    crumb("verify", "it")
    weights = it / WEIGHTS[0]
    weights.write_bytes(b"\xff" * 100)
    assert "unreadable" in crumb("verify", "it", code=3)
    (it / ".crumb" / "source.json").unlink()
    crumb("verify", "it", code=1)
    assert "NS/NAME@REF" in crumb.errors


def test_the_same_weights_in_other_files_verify(here: Registry, model: str, crumb: Crumb) -> None:
    crumb("pull", model, "-o", "it")
    it = crumb.cwd / "it"
    tensors = makers.read_weights(it)
    for name in WEIGHTS:
        (it / name).unlink()
    (it / "model.safetensors.index.json").unlink()
    makers.write_weights(it, tensors)
    assert json.loads(crumb("verify", "it", "--json"))["ok"] is True
    tensors["scale"] += 1
    makers.write_weights(it, tensors)
    crumb("verify", "it", code=3)


def test_pull_and_verify_load_no_torch(here: Registry, model: str, crumb: Crumb) -> None:
    code = (
        "import sys\n"
        "from client.cli import run\n"
        f"assert run(['pull', {model!r}, '-o', 'it']) == run(['verify', 'it']) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=crumb.cwd, env=os.environ, check=True)


def test_a_base_in_other_shards_is_no_fraud(here: Registry, model: str, files: Files, crumb: Crumb) -> None:
    address = f"{model}@{crumb('compose', model, '1', '-q').split()[0]}"
    whole = crumb.cwd / "whole"
    makers.write_weights(whole, makers.read_weights(files.base))
    crumb("pull", address, "-o", "it", "--as-patches", "--base", whole, code=1)
    assert "in other files" in crumb.errors
    assert "operator" not in crumb.errors
    named = crumb.cwd / "named"  # the same names, another order of the tensors within
    shutil.copytree(files.base, named)
    index = json.loads((named / "model.safetensors.index.json").read_text())
    index["weight_map"] = {
        name: WEIGHTS[1 - WEIGHTS.index(file)] for name, file in index["weight_map"].items()
    }  # fmt: skip
    (named / "model.safetensors.index.json").write_text(json.dumps(index))
    (named / WEIGHTS[0]).rename(named / "x")
    (named / WEIGHTS[1]).rename(named / WEIGHTS[0])
    (named / "x").rename(named / WEIGHTS[1])
    crumb("pull", address, "-o", "it", "--as-patches", "--base", named, code=1)
    assert "in other files" in crumb.errors
    crumb("pull", address, "-o", "it", "--as-patches")


def test_a_patch_alone_is_pulled_by_its_number_and_composed_for_who_may_ask(
    here: Registry, files: Files, crumb: Crumb
) -> None:
    model = model_with_patches(here, files, "ana/alone")
    crumb("pull", f"{model}#1", "-o", "no", code=1, CRUMB_TOKEN="")
    assert f"{model}#1 is not composed yet" in crumb.errors and "crumb login" in crumb.errors
    assert not (crumb.cwd / "no").exists()
    alone = crumb("apply", files.base, files.patches[0], "--alpha", "1", "-o", "applied", "-q").strip()
    assert crumb.json("pull", f"{model}#1", "-o", "alone")["weights_digest"] == alone
    crumb("verify", "alone")
    for address in (f"{model}#1.1", f"{model}@refs/pr/1"):  # once composed, anybody who may read has it
        assert crumb.json("pull", address, "-o", "alone", CRUMB_TOKEN="")["weights_digest"] == alone
    second = crumb.json("pull", f"{model}@refs/pr/2", "-o", "second", "--as-patches", "--base", files.base)
    assert second["weights_digest"] != alone
    crumb("verify", "second")
    crumb("pull", f"{model}#99", "-o", "no", code=1)
    assert "99" in crumb.errors
    for wrong in (f"{model}#", f"{model}#x", f"{model}#0", f"{model}@refs/pr/x", f"{model}#1@base"):
        crumb("pull", wrong, "-o", "no", code=1)
    assert not (crumb.cwd / "no").exists()
