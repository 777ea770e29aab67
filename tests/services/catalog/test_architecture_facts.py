"""What a model is built like, by configs that strangers wrote."""

import hashlib
import json
from typing import Any

import pytest

from registry.services.blobs import texts
from registry.services.catalog import architecture
from tests.support.community import NAME, Community
from tests.support.world import World, upload


@pytest.fixture
def database_kind() -> str:
    """SQLite alone: configs are read from files, where the database decides nothing."""
    return "sqlite"


def test_numbers_are_found_by_all_their_names_and_nothing_else_is_shown() -> None:
    gpt2 = {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
    assert architecture.numbers_in(gpt2) == {
        "layers": 12,
        "hidden_size": 768,
        "heads": 12,
        "vocabulary": 50257,
        "context": 1024,
    }
    both = {"text_config": {"num_hidden_layers": 4, "vocab_size": 9}, "vocab_size": 7}
    assert architecture.numbers_in(both) == {"layers": 4, "vocabulary": 7}
    hostile: dict[str, Any] = {"num_hidden_layers": True, "hidden_size": "9", "vocab_size": -1, "n_head": 2**60}
    assert architecture.numbers_in(hostile | {"text_config": [1]}) == {}


@pytest.mark.parametrize("raw", [b"[1]", b"{", b"[" * 100_000, b"\xff"])
def test_a_config_that_is_no_object_says_nothing(world: World, raw: bytes) -> None:
    assert texts.read_config(world.store, upload(world.client(), raw)) == {}


def test_the_api_says_what_a_model_is_built_like(sqlite_crew: Community) -> None:
    found = sqlite_crew.get("/architecture")
    config = json.loads((sqlite_crew.base / "config.json").read_text())
    assert (found["names"], found["model_type"]) == (config["architectures"], config["model_type"])
    assert sum(found["dtypes"].values()) == sqlite_crew.get("")["parameters"]
    assert found["tensors"] == 4 and found["layers"] is None


def test_a_model_is_shown_while_its_config_cannot_be_read(sqlite_crew: Community) -> None:
    config = sqlite_crew.world.store.path(hashlib.sha256((sqlite_crew.base / "config.json").read_bytes()).hexdigest())
    raw = config.read_bytes()
    config.unlink()
    http = sqlite_crew.world.browser()
    page = http.get(f"/{NAME}")
    assert page.status_code == 200 and "<dt>Weights</dt>" in page.text and "<dt>Tensors</dt>" not in page.text
    config.write_bytes(raw)
    assert "<dt>Tensors</dt>" in http.get(f"/{NAME}").text
