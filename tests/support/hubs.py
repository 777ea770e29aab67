"""A registry in a process of its own, for the clients that people already have: models, releases, a channel.

Of what is composed only what the channel points at and `main` are on its disk: the rest is composed when it is read.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from registry.worker.worker import Worker
from tests.support.makers import fine_tuned, make_patch, write_weights
from tests.support.world import World, create_model, push_patch

NAME = "acme/tiny-llama"
WIDTH, HEADS, WORDS = 16, 2, 24
BIG = 26 * 2**20  # bytes: the Hub's client writes 10 MiB at a time


@dataclass
class Hub:
    """Where it is, who may what, and what is in it.

    Args:
        url: Of the running registry.
        data: Its data folder.
        tokens: By user; alice owns everything, carol nothing.
        commits: Commit id by revision of NAME.
        files: Files of NAME's base, by path.
    """

    url: str
    data: Path
    tokens: dict[str, str]
    commits: dict[str, str]
    files: dict[str, bytes]


def make_llama(folder: Path, seed: int, *, shards: int) -> Path:
    """Write what save_pretrained would of a tiny Llama and its tokenizer, without the seconds transformers takes."""
    random = torch.Generator().manual_seed(seed)
    inner = 2 * WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (WORDS, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (WORDS, WIDTH),
    }
    for layer in range(2):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (inner, WIDTH) for name in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (WIDTH, inner)
        shapes |= {f"{at}.{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}
    write_weights(folder, {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}, shards)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": WORDS,
        "hidden_size": WIDTH,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    vocabulary = {f"w{place}": place for place in range(WORDS - 1)} | {"[UNK]": WORDS - 1}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    card = "---\nlicense: apache-2.0\nlanguage: [en]\npipeline_tag: text-generation\n---\n\n# A tiny Llama\n"
    (folder / "README.md").write_text(card)
    return folder


def fill(world: World, folder: Path) -> Path:
    """Make the models, and two releases of one of them; return the folder of its base."""
    alice, second = world.client("alice"), Worker(world.settings, world.database, world.store)
    world.token("bob")
    assert alice.post("/api/v1/namespaces", json={"name": "acme"}).status_code == 201
    base = make_llama(folder / "base", 1, shards=3)
    create_model(world, NAME, base, "alice")
    where = f"/api/v1/models/{NAME}"
    assert alice.patch(where, json={"min_approvals": 0}).status_code == 200
    for number in (1, 2, 3):
        out = folder / f"{number}.safetensors"
        make_patch(base, fine_tuned(base, folder / f"tuned{number}", seed=number), out)
        push_patch(world, NAME, out, "bob", title=f"Patch {number}", propose=True)
    for number in (1, 2):
        assert alice.post(f"{where}/patches/{number}/accept", json={"message": ""}).status_code == 200
    for version, numbers in (("1.0.0", [1]), ("1.1.0", [1, 2])):
        asked = {"version": version, "patches": [{"number": number} for number in numbers], "alpha": "0.3"}
        assert alice.post(f"{where}/releases", json=asked).status_code == 202
        world.work()
        while second.step():
            pass
        published = alice.post(f"{where}/releases/{version}/publish")
        assert published.status_code == 200, published.text
    moved = alice.put(f"{where}/channels/stable", json={"version": "1.0.0", "reason": "First."})
    assert moved.status_code == 200, moved.text
    create_model(world, "alice/secret", make_llama(folder / "secret", 2, shards=1), "alice")
    assert alice.patch("/api/v1/models/alice/secret", json={"visibility": "private"}).status_code == 200
    large = folder / "large"
    write_weights(large, {"w": torch.arange(BIG // 4, dtype=torch.float32)}, 1)
    create_model(world, "alice/large", large, "alice")
    make_patch(large, fine_tuned(large, folder / "larger"), folder / "larger.safetensors")
    push_patch(world, "alice/large", folder / "larger.safetensors", "alice", title="Larger")
    composed = alice.post("/api/v1/models/alice/large/compositions", json={"alpha": "1", "patches": [{"number": 1}]})
    assert composed.status_code == 202, composed.text
    world.work()
    world.token("carol")
    return base


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
