"""What `hf` and transformers make of the registry, in processes of their own with HF_ENDPOINT set, as people do it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.environments import install_only
from tests.support.hubs import NAME, WIDTH, Hub

HF = [sys.executable, "-c", "from huggingface_hub.cli.hf import main; main()"]
LOAD = f"""
import json, sys, torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
logging.disable_progress_bar()
found = {{}}
for revision in ("main", "stable", "1.1.0", "base"):
    model = AutoModelForCausalLM.from_pretrained({NAME!r}, revision=revision)
    found[revision] = float(model.model.layers[1].mlp.down_proj.weight.detach().double().sum())
model = AutoModel.from_pretrained({NAME!r}, revision="stable")
tokens = AutoTokenizer.from_pretrained({NAME!r}, revision="stable")("w1 w2 w3", return_tensors="pt")
found["tokens"] = tokens["input_ids"].tolist()
found["shape"] = list(model(input_ids=tokens["input_ids"]).last_hidden_state.shape)
found["layers"] = AutoConfig.from_pretrained({NAME!r}).num_hidden_layers
found["single"] = AutoModel.from_pretrained("alice/secret", token=sys.argv[1]).config.model_type
json.dump(found, sys.stdout)
"""


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    quiet = {"HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, **quiet, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "NO_COLOR": "1", **more}


def hf(hub: Hub, home: Path, *arguments: str, code: int = 0, **more: str) -> str:
    done = subprocess.run([*HF, *arguments], capture_output=True, text=True, env=environment(hub, home, **more))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


def test_hf_downloads_a_release_and_verifies_it(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hf(hub, tmp_path, "download", NAME, "--revision", "1.1.0", "--local-dir", str(out))
    assert {path.name for path in out.iterdir() if path.is_file()} == set(hub.files)
    hf(hub, tmp_path, "download", NAME, "--revision", "1.1.0")
    hf(hub, tmp_path, "cache", "verify", NAME, "--revision", "1.1.0")
    blob = next(tmp_path.glob("hub/models--*/snapshots/*/config.json")).resolve()
    blob.write_text("{}")
    assert "config.json" in hf(hub, tmp_path, "cache", "verify", NAME, "--revision", "1.1.0", code=1)


def test_hf_lists_shows_and_signs_in(hub: Hub, tmp_path: Path) -> None:
    assert NAME in hf(hub, tmp_path, "models", "ls", "--search", "llama", "--format", "json")
    assert hub.commits["1.0.0"] in hf(hub, tmp_path, "models", "info", NAME)
    assert "Revision not found" in hf(hub, tmp_path, "download", NAME, "--revision", "9.9.9", code=1)
    hf(hub, tmp_path, "auth", "login", "--token", hub.tokens["alice"])
    assert "alice" in hf(hub, tmp_path, "auth", "whoami")
    hf(hub, tmp_path, "download", "alice/secret", "config.json")


@pytest.mark.slow
def test_transformers_loads_sharded_and_single_models_and_their_tokenizers(hub: Hub, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, hub.tokens["alice"]],
        capture_output=True,
        text=True,
        env=environment(hub, tmp_path, OMP_NUM_THREADS="1"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["main"] == found["stable"]
    assert len({found[name] for name in ("stable", "1.1.0", "base")}) == 3
    kept = tmp_path / "hub" / "models--acme--tiny-llama" / "snapshots"
    assert {path.name for path in kept.iterdir()} == set(hub.commits.values())
    assert found["tokens"] == [[1, 2, 3]]
    assert found["shape"] == [1, 3, WIDTH]
    assert (found["layers"], found["single"]) == (2, "llama")


OLD = """
import json, sys
from huggingface_hub import HfApi, __version__
from huggingface_hub.utils import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
url, name, cache, token = sys.argv[1:]
api = HfApi(endpoint=url, token=False)
info = api.model_info(name, revision="1.1.0", files_metadata=True)
folder = api.snapshot_download(name, revision="stable", cache_dir=cache)
errors = []
for call in (
    lambda: api.model_info(name, revision="9.9.9"),
    lambda: api.model_info("acme/none"),
    lambda: api.hf_hub_download(name, "none.bin", cache_dir=cache),
):
    try:
        call()
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as why:
        errors.append(type(why).__name__)
print(json.dumps({
    "version": __version__, "sha": info.sha, "folder": folder, "errors": errors,
    "tags": [ref.name for ref in api.list_repo_refs(name).tags],
    "files": sorted(api.list_repo_files(name)),
    "paths": [found.path for found in api.get_paths_info(name, ["config.json", "none"])],
    "commits": [step.commit_id for step in api.list_repo_commits(name, revision="1.1.0")],
    "listed": [model.id for model in api.list_models(author="acme")],
    "who": HfApi(endpoint=url, token=token).whoami()["name"],
    "theirs": HfApi(endpoint=url, token="hf_" + "x" * 34).model_info(name).sha,
    "safetensors": api.get_safetensors_metadata(name).sharded,
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.36.2", "1.20.0"])
def test_older_libraries_pull_as_well(hub: Hub, tmp_path: Path, version: str) -> None:
    """Each in an environment of its own, from the package index."""
    python = install_only(tmp_path / "venv", f"huggingface_hub=={version}")
    done = subprocess.run(
        [python, "-c", OLD, hub.url, NAME, str(tmp_path / "cache"), hub.tokens["alice"]],
        capture_output=True,
        text=True,
        env=environment(hub, tmp_path),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"] == version
    assert found["sha"] == hub.commits["1.1.0"]
    assert Path(found["folder"]).name == found["theirs"] == hub.commits["stable"]
    assert {path.name for path in Path(found["folder"]).iterdir()} == set(hub.files) == set(found["files"])
    assert found["errors"][:2] == ["RevisionNotFoundError", "RepositoryNotFoundError"]
    assert found["errors"][2].endswith("EntryNotFoundError")
    assert found["tags"] == ["1.0.0", "1.1.0"]
    assert found["paths"] == ["config.json"]
    assert found["commits"] == [hub.commits[name] for name in ("1.1.0", "1.0.0", "base")]
    assert (found["listed"], found["who"], found["safetensors"]) == ([NAME], "alice", True)
