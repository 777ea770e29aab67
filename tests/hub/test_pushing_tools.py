"""Pushing with the tools that people have, in processes of their own and with nothing of ours installed there."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from tests.packaging.environments import install_only
from tests.support.hubs import make_llama
from tests.support.makers import fine_tuned, make_patch, write_weights
from tests.support.processes import Registry, Valve, open_registry, until

pytestmark = pytest.mark.slow

NAME = "alice/tiny-llama"
HF = [sys.executable, "-c", "from huggingface_hub.cli.hf import main; main()"]
NPM = "@huggingface/hub@2.17.5"


@dataclass
class Studio:
    registry: Registry
    folder: Path
    tokens: dict[str, str]
    base: Path

    def run(self, user: str, *command: str | Path, code: int = 0, **more: str) -> str:
        """Run a program as somebody who has set where the registry is, and that it has no Xet."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        kept.pop("PYTHONPATH", None)
        quiet = {"HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
        ours = {"HF_ENDPOINT": self.registry.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": self.tokens[user]}
        home = {"HF_HOME": str(self.folder / "home" / user), "NO_COLOR": "1"}
        where = self.folder / "work"
        where.mkdir(exist_ok=True)
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            cwd=where,
            env={**kept, **quiet, **ours, **home, **more},
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + (done.stderr if code else "")

    def call(self, user: str, method: str, path: str, **options: Any) -> Any:
        """Call our API as a person with curl would."""
        headers = {"Authorization": f"Bearer {self.tokens[user]}"}
        answer = httpx2.request(method, f"{self.registry.url}/api/v1/models/{NAME}{path}", headers=headers, **options)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def patch(self, number: int) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            token = {"Authorization": f"Bearer {self.tokens['alice']}"}
            there = f"{self.registry.url}/api/v1/models/{NAME}/patches/{number}"
            answer = httpx2.get(there, headers=token)
            if answer.status_code == 404:
                assert httpx2.get(f"{there}/push", headers=token).json()["error"] is None
                return None
            return answer.json() if answer.json()["check"] != "checking" else None

        return until(look)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    with open_registry(folder / "registry", rate_address="", rate_token="", part_bytes=8192) as registry:
        registry.serve()
        registry.start("worker")  # a second, which has to get the same bytes before a release is published
        tokens = {user: registry.token(user) for user in ("alice", "bob", "carol")}
        made = Studio(registry, folder, tokens, make_llama(folder / "base", 1, shards=1))
        made.run("alice", *HF, "upload", NAME, made.base)
        until(lambda: made.call("alice", "GET", "")["state"] == "ready")
        yield made


def number_in(text: str) -> int:
    """Return the number of the pull request whose address, or whose commit's, a tool has printed."""
    address = next(word for word in text.split() if "/discussions/" in word or "/commit/" in word)
    if "/commit/" in address:
        address = httpx2.get(address).headers["location"]
    return int(address.rpartition("/")[2])


def test_hf_upload_makes_a_patch(studio: Studio, tmp_path: Path) -> None:
    tuned = fine_tuned(studio.base, tmp_path / "tuned", seed=1)
    said = studio.run("bob", *HF, "upload", NAME, tuned, "--create-pr", "--commit-message", "By hf")
    patch = studio.patch(number_in(said))
    assert (patch["author"], patch["title"], patch["state"]) == ("bob", "By hf", "proposed")
    assert patch["sha256"] == make_patch(studio.base, tuned, tmp_path / "p.safetensors").sha256
    refused = studio.run("bob", *HF, "upload", NAME, tuned, code=1)
    assert "--create-pr" in refused


TRANSFORMERS = f"""
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({NAME!r}, revision="base")
torch.manual_seed(0)
with torch.no_grad():
    for weight in model.parameters():
        weight += 0.01 * torch.randn_like(weight)
print(model.push_to_hub({NAME!r}, create_pr=True, commit_message="By transformers").pr_url)
"""
PEFT = f"""
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({NAME!r}, revision="base")
torch.manual_seed(0)
model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
with torch.no_grad():
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight += 0.1 * torch.randn_like(weight)
print(model.push_to_hub({NAME!r}, create_pr=True, commit_message="By PEFT").pr_url)
"""
USE = f"""
import json, sys
from transformers import AutoModelForCausalLM
found = {{}}
for revision in ("base", "main"):
    model = AutoModelForCausalLM.from_pretrained({NAME!r}, revision=revision)
    found[revision] = float(model.model.layers[1].self_attn.q_proj.weight.detach().double().sum())
print(json.dumps(found))
"""


@pytest.mark.long
def test_three_people_who_installed_nothing_of_ours(studio: Studio) -> None:
    """One pushes with transformers, another with PEFT, the maintainer releases both, and a third uses the release."""
    first = studio.patch(number_in(studio.run("bob", sys.executable, "-c", TRANSFORMERS)))
    second = studio.patch(number_in(studio.run("carol", sys.executable, "-c", PEFT)))
    assert (first["title"], second["title"]) == ("By transformers", "By PEFT")
    numbers = [first["number"], second["number"]]
    studio.call("alice", "PATCH", "", json={"min_approvals": 0})
    for number in numbers:
        studio.call("alice", "POST", f"/patches/{number}/accept", json={"message": "Good."})
    asked = {"version": "1.0.0", "patches": [{"number": number} for number in numbers], "alpha": "0.5"}
    studio.call("alice", "POST", "/releases", json=asked)
    until(lambda: studio.call("alice", "GET", "/releases/1.0.0")["state"] == "candidate")
    until(lambda: len(studio.call("alice", "GET", "/releases/1.0.0")["builds"]) > 1)
    studio.call("alice", "POST", "/releases/1.0.0/publish")
    found = json.loads(studio.run("carol", sys.executable, "-c", USE).strip().splitlines()[-1])
    assert found["base"] != found["main"]


TRAINER = f"""
import sys, torch
from huggingface_hub import create_pull_request
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

def trainer(folder, name, **more):
    model = AutoModelForCausalLM.from_pretrained({NAME!r}, revision="base")
    rows = [{{"input_ids": torch.arange(8) + at, "labels": torch.arange(8) + at}} for at in range(8)]
    settings = {{"max_steps": 2, "learning_rate": 0.01, "use_cpu": True, "report_to": "none", "disable_tqdm": True}}
    arguments = TrainingArguments(folder, push_to_hub=True, hub_model_id=name, **settings, **more)
    return Trainer(model, arguments, train_dataset=rows)

number = create_pull_request({NAME!r}, title="A Trainer").num
into = trainer("patch", {NAME!r}, hub_revision=f"refs/pr/{{number}}", save_steps=1)
into.train()  # which pushes at each save
into.push_to_hub(commit_message="By the Trainer")
try:
    trainer("refused", {NAME!r}).push_to_hub()
except HfHubHTTPError as why:
    print("refused:", why.server_message)
fresh = trainer("base", "bob/by-trainer", save_steps=1)
fresh.train()
fresh.push_to_hub()
print(number)
"""


def test_the_trainers_own_push_makes_a_patch_a_model_or_a_sentence(studio: Studio, tmp_path: Path) -> None:
    """It sends a card, its arguments (a pickle), a tokenizer if it has one, and a checkpoint at each save."""
    said = studio.run("bob", sys.executable, "-c", TRAINER).strip().splitlines()
    number = int(said[-1])
    folder = studio.folder / "work"
    assert (folder / "patch" / "training_args.bin").is_file()
    expected = make_patch(studio.base, folder / "patch", tmp_path / "p.safetensors").sha256
    patch = until(lambda: (found := studio.patch(number))["sha256"] == expected and found)
    assert patch["author"] == "bob"
    assert patch["title"] in ("By the Trainer", "Training in progress, step 2")  # if that was compared before
    files = {file["path"] for file in patch["files"]}
    assert not any(path.endswith((".bin", ".md")) or "checkpoint" in path for path in files)
    assert any(line.startswith("refused:") and "hub_revision='refs/pr/N'" in line for line in said)
    held = httpx2.get(f"{studio.registry.url}/bob/by-trainer/resolve/main/model.safetensors", follow_redirects=True)
    assert held.content == (folder / "base" / "model.safetensors").read_bytes()


OLD = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("bob/old", exist_ok=True)
said = api.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2], create_pr=True, commit_message="Old")
print(said.pr_url)
"""


@pytest.mark.parametrize("version", ["0.36.2", "1.20.0"])
def test_older_libraries_push_as_well(studio: Studio, tmp_path: Path, version: str) -> None:
    """Each in an environment of its own, from the package index."""
    python = install_only(tmp_path / "venv", f"huggingface_hub=={version}")
    tuned = fine_tuned(studio.base, tmp_path / "tuned", seed=int(version[0]) + 20)
    patch = studio.patch(number_in(studio.run("bob", python, "-c", OLD, NAME, tuned)))
    assert patch["sha256"] == make_patch(studio.base, tuned, tmp_path / "p.safetensors").sha256


SCRIPT = """
import {{ uploadFiles }} from "@huggingface/hub";
import {{ pathToFileURL }} from "node:url";
const done = await uploadFiles({{
  repo: {name!r}, hubUrl: process.env.HF_ENDPOINT, accessToken: process.env.HF_TOKEN, isPullRequest: true,
  files: [pathToFileURL({weights!r})], commitTitle: "By npm", useWebWorkers: false,
}});
console.log(done.pullRequestUrl);
"""


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs node and npm")
def test_npms_library_pushes_as_well(studio: Studio, tmp_path: Path) -> None:
    tuned = fine_tuned(studio.base, tmp_path / "tuned", seed=30)
    subprocess.run(["npm", "install", "--silent", "--prefix", tmp_path, NPM], check=True)
    script = tmp_path / "push.mjs"
    script.write_text(SCRIPT.format(name=NAME, weights=str(tuned / "model.safetensors")))
    patch = studio.patch(number_in(studio.run("bob", "node", script)))
    assert patch["title"] == "By npm"
    assert patch["sha256"] == make_patch(studio.base, tuned, tmp_path / "p.safetensors").sha256


UPLOAD = """
import sys
from huggingface_hub import HfApi
said = HfApi().upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2], create_pr=True, commit_message="Killed")
print(said.pr_url)
"""


def test_a_push_whose_sender_and_server_were_killed_is_sent_again(tmp_path: Path) -> None:
    """The sender in the middle of a file, the server in the middle of the diff; what was stored is not lost."""
    weights = {"w": torch.randn(2**21, generator=torch.Generator().manual_seed(1))}
    with open_registry(tmp_path / "registry", rate_address="", rate_token="", part_bytes=2**18) as registry:
        server = registry.serve()
        tokens = {user: registry.token(user) for user in ("alice", "bob")}
        other = Studio(registry, tmp_path, tokens, tmp_path / "base")
        write_weights(other.base, weights, 1)
        other.run("alice", *HF, "upload", NAME, other.base)
        until(lambda: other.call("alice", "GET", "")["state"] == "ready")
        write_weights(tmp_path / "tuned", {"w": weights["w"] + 0.01}, 1)
        with Valve(registry.url, up=2**20) as shut:
            environment = {**os.environ, "HF_ENDPOINT": shut.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": tokens["bob"]}
            command = [sys.executable, "-c", UPLOAD, NAME, str(tmp_path / "tuned")]
            sender = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until(lambda: any(registry.data.glob("staging/upload-*")))
            sender.kill()
            sender.wait()
        number = number_in(other.run("bob", sys.executable, "-c", UPLOAD, NAME, tmp_path / "tuned"))
        server.kill()
        server.wait()
        registry.serve()
        patch = other.patch(number)
        expected = make_patch(other.base, tmp_path / "tuned", tmp_path / "p.safetensors").sha256
        assert (number, patch["sha256"]) == (1, expected)
        registry.check()
