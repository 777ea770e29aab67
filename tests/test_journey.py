"""Both halves joined: real servers, real clients, real files, killed and restarted for real."""

import hashlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import torch

from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import Person, Registry, Valve, open_registry, person, until

pytestmark = pytest.mark.slow

WIDE = {f"layers.{n}.weight": (1024, 1024) for n in range(8)}


@pytest.fixture
def registry(tmp_path: Path, migrated_url: str) -> Iterator[Registry]:
    """A registry on each database, with parts so small that an upload takes many."""
    with open_registry(tmp_path / "registry", migrated_url, part_bytes=250_000, lease_seconds=2) as made:
        yield made


@pytest.fixture
def sqlite_registry(tmp_path: Path) -> Iterator[Registry]:
    with open_registry(tmp_path / "registry", lease_seconds=2) as made:
        yield made


def patches(tmp_path: Path, base: Path, count: int) -> list[Path]:
    made = []
    for seed in range(1, count + 1):
        out = tmp_path / f"patch{seed}.safetensors"
        make_patch(base, fine_tuned(base, tmp_path / f"tuned{seed}", seed=seed), out)
        made.append(out)
    return made


def wide(tmp_path: Path) -> Path:
    """A base of 8 M bf16 weights: large enough to be killed in the middle of."""
    return make_checkpoint(tmp_path / "base", dtypes=(torch.bfloat16,), shapes=WIDE, shards=2)


def received(registry: Registry) -> float:
    headers = {"Authorization": f"Bearer {registry.token('chief', '--admin')}"}
    text = httpx2.get(f"{registry.url}/metrics", headers=headers).text
    found = re.search(r"^registry_received_bytes_total (\S+)", text, re.MULTILINE)
    assert found
    return float(found[1])


@pytest.mark.heavy
def test_from_a_fine_tuning_to_a_merged_model_that_anyone_can_verify(registry: Registry, tmp_path: Path) -> None:
    registry.serve()
    alice, bob = person(registry, "alice"), person(registry, "bob")
    base = make_checkpoint(tmp_path / "base", shards=2, dtypes=(torch.bfloat16, torch.float32))
    tuned = [fine_tuned(base, tmp_path / f"tuned{seed}", seed=seed) for seed in (1, 2, 3)]
    (base / "empty.txt").touch()
    alice.crumb("login", registry.url, "--token", alice.token)
    assert alice.json("whoami")["user"] == "alice"
    model = alice.json("model", "create", "alice/tiny", "--base", str(base))
    digest = alice.json("digest", str(base))
    assert model["base"] in str(digest)
    for number, folder in enumerate(tuned, 1):
        patch = tmp_path / f"{number}.safetensors"
        bob.crumb("diff", str(base), str(folder), "-o", str(patch))
        bob.crumb("show", str(patch))
        bob.crumb("push", str(patch), "alice/tiny", "-m", f"Task {number}", "--task", "digits")
    log = bob.crumb("log", "alice/tiny")
    assert log.index("Task 3") < log.index("Task 1")
    bob.crumb("show", "alice/tiny#2")
    made = bob.json("compose", "alice/tiny", "1", "3:0.5", "--alpha", "0.4")
    recipe, weights = made["recipe"]["digest"], made["weights_digest"]
    out = tmp_path / "pulled"
    alice.crumb("pull", f"alice/tiny@{recipe[:10]}", "-o", str(out))
    alice.crumb("verify", str(out), f"alice/tiny@{recipe}", "--recompose")
    here = tmp_path / "as-patches"
    alice.crumb("pull", f"alice/tiny@{recipe}", "-o", str(here), "--as-patches", "--base", str(base))
    local = tmp_path / "local"
    first, third = str(tmp_path / "1.safetensors"), str(tmp_path / "3.safetensors")
    alice.crumb("apply", str(base), f"{third}:0.5", first, "-o", str(local), "--alpha", "0.4")
    for folder in (out, here, local):
        assert weights in alice.crumb("digest", str(folder))
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"):
        assert (out / name).read_bytes() == (local / name).read_bytes() == (here / name).read_bytes()
    weights_file = out / "model-00001-of-00002.safetensors"
    raw = bytearray(weights_file.read_bytes())
    raw[-1] ^= 1
    weights_file.write_bytes(raw)
    assert alice.crumb("verify", str(out), f"alice/tiny@{recipe}", code=3)
    registry.check()
    assert alice.token not in registry.logs()


@pytest.mark.slow
def test_a_client_killed_in_the_middle_of_an_upload_goes_on_where_it_was(registry: Registry, tmp_path: Path) -> None:
    registry.serve()
    alice, bob = person(registry, "alice"), person(registry, "bob")
    base = wide(tmp_path)
    alice.crumb("model", "create", "alice/tiny", "--base", str(base))
    (patch,) = patches(tmp_path, base, 1)
    before = received(registry)
    with Valve(registry.url, up=patch.stat().st_size / 2) as valve:
        sender = bob.start("push", str(patch), "alice/tiny", "-m", "Killed", url=valve.url)
        assert valve.shut.wait(60)
        sender.send_signal(signal.SIGKILL)
        sender.wait()
    assert bob.json("push", str(patch), "alice/tiny", "-m", "Killed")["number"] == 1
    assert received(registry) - before < 1.3 * patch.stat().st_size
    registry.check()


@pytest.mark.slow
def test_a_server_killed_in_the_middle_of_an_upload_has_what_it_acknowledged(
    registry: Registry, tmp_path: Path
) -> None:
    server = registry.serve()
    alice = person(registry, "alice")
    base = wide(tmp_path)
    whole = sum(path.stat().st_size for path in base.iterdir())
    with Valve(registry.url, up=whole / 2) as valve:
        sender = alice.start("model", "create", "alice/tiny", "--base", str(base), url=valve.url)
        assert valve.shut.wait(60)
        server.send_signal(signal.SIGKILL)
        server.wait()
        registry.serve()
    sender.wait(60)  # it may have gone on by itself, or given up with a sentence
    alice.crumb("model", "create", "alice/tiny", "--base", str(base))
    assert alice.json("model", "show", "alice/tiny")["state"] == "ready"
    assert received(registry) < 0.9 * whole, "what had been acknowledged was sent again"
    registry.check()


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_composition_is_succeeded_with_the_same_bytes(
    registry: Registry, tmp_path: Path
) -> None:
    registry.serve("--no-worker")
    worker = registry.start("worker")
    alice = person(registry, "alice")
    base = wide(tmp_path)
    alice.crumb("model", "create", "alice/tiny", "--base", str(base))
    made = patches(tmp_path, base, 4)
    for patch in made:
        alice.crumb("push", str(patch), "alice/tiny", "-m", patch.stem)
    waiting = alice.start("compose", "alice/tiny", "1", "2", "3", "4")
    staging = registry.data / "staging"
    until(lambda: any(path.stat().st_size for path in staging.glob("job-*/*")))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert any(staging.glob("job-*/*")), "it was killed too late to show anything"
    registry.start("worker")
    assert waiting.wait(60) == 0
    done = alice.json("compose", "alice/tiny", "1", "2", "3", "4")
    alice.crumb("apply", str(base), *map(str, made), "-o", str(tmp_path / "local"))
    assert done["weights_digest"] in alice.crumb("digest", str(tmp_path / "local"))
    out = tmp_path / "pulled"
    alice.crumb("pull", f"alice/tiny@{done['recipe']['digest']}", "-o", str(out))
    registry.check()


def test_a_pull_killed_in_the_middle_goes_on_where_it_was(sqlite_registry: Registry, tmp_path: Path) -> None:
    registry = sqlite_registry
    registry.serve()
    alice = person(registry, "alice")
    base = make_checkpoint(tmp_path / "base", shapes={f"w{n}": (1024, 1024) for n in range(2)})
    sha256 = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    alice.crumb("model", "create", "alice/tiny", "--base", str(base))
    out = tmp_path / "out"
    with Valve(registry.url, down=5_000_000) as valve:
        puller = alice.start("pull", "alice/tiny", "-o", str(out), url=valve.url)
        assert valve.shut.wait(60)
        (partial,) = out.rglob(f"{sha256}.*.part")  # of the weights alone: a small file's goes while it is looked at
        until(lambda: partial.stat().st_size > 4_000_000)
        puller.send_signal(signal.SIGKILL)
        puller.wait()
    assert partial.stat().st_size > 4_000_000
    alice.crumb("pull", "alice/tiny", "-o", str(out))
    assert (out / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def make_llama(folder: Path, seed: int, *, tied: bool) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="40KB")
    return folder


@pytest.mark.parametrize("tied", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_transformers_model_comes_back_with_the_same_logits(
    sqlite_registry: Registry, tmp_path: Path, tied: bool
) -> None:
    from transformers import AutoModelForCausalLM

    registry = sqlite_registry
    registry.serve()
    alice: Person = person(registry, "alice")
    base = make_llama(tmp_path / "base", 0, tied=tied)
    alice.crumb("model", "create", "alice/llama", "--base", str(base))
    files = []
    for seed in (1, 2):
        tuned = AutoModelForCausalLM.from_pretrained(base)
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in tuned.parameters():
                weight += 0.02 * torch.randn_like(weight)
        tuned.save_pretrained(tmp_path / f"tuned{seed}")
        patch = tmp_path / f"{seed}.safetensors"
        alice.crumb("diff", str(base), str(tmp_path / f"tuned{seed}"), "-o", str(patch))
        alice.crumb("push", str(patch), "alice/llama", "-m", f"Tuned {seed}")
        files.append(str(patch))
    recipe = alice.json("compose", "alice/llama", "1", "2")["recipe"]["digest"]
    alice.crumb("pull", f"alice/llama@{recipe}", "-o", str(tmp_path / "pulled"))
    alice.crumb("apply", str(base), *files, "-o", str(tmp_path / "local"))
    words = torch.arange(12).reshape(2, 6)
    logits = [
        AutoModelForCausalLM.from_pretrained(tmp_path / name)(words).logits for name in ("pulled", "local", "base")
    ]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
