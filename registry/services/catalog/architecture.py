"""Architecture: what a model is built like, by the config.json of its base and the headers of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sqlalchemy.orm import Session

from registry.db.tables import Model
from registry.files.folders import CONFIG
from registry.services.blobs import texts
from registry.services.catalog import models
from registry.storage.store import Store

LONGEST = 100  # characters of a name
MOST_NAMES = 5  # architectures
GREATEST = 2**53
# What the configs of transformers call the same thing; the first that is there counts.
NUMBERS = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "key_value_heads": ("num_key_value_heads",),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
}


@dataclass(frozen=True)
class Facts:
    """What a config.json says; what it does not say is None.

    Args:
        names: The classes of the model, such as LlamaForCausalLM.
        model_type: Its kind, such as llama.
        numbers: By the names in NUMBERS.
    """

    names: tuple[str, ...] = ()
    model_type: str | None = None
    numbers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """What a model is built like.

    Args:
        config: What its config says.
        tensors: How many there are.
        dtypes: The number of weights by dtype.
    """

    config: Facts
    tensors: int
    dtypes: dict[str, int]


def of_model(session: Session, store: Store, model: Model) -> Architecture:
    """Return what a model is built like.

    Raises:
        BlobDamaged, StorageFailed, TooMany: Its config cannot be read, or not yet.
    """
    digests = {file.path: file.sha256 for file in models.base_files(session, model)}
    facts = facts_of(store, digests[CONFIG]) if CONFIG in digests else Facts()
    return Architecture(facts, models.count_tensors(session, model), dict(model.dtypes))


@lru_cache(maxsize=1024)
def facts_of(store: Store, sha256: str) -> Facts:
    """Return the facts in a config.json. Blobs never change."""
    config = texts.read_config(store, sha256)
    names = config.get("architectures")
    return Facts(
        tuple(name for name in names[:MOST_NAMES] if is_name(name)) if isinstance(names, list) else (),
        config["model_type"] if is_name(config.get("model_type")) else None,
        numbers_in(config),
    )


def numbers_in(config: dict[str, Any]) -> dict[str, int]:
    """Return the numbers of a config; those that a model of text and pictures has in its config of text, too."""
    inner = config.get("text_config")
    parts = [config, inner] if isinstance(inner, dict) else [config]
    found = {}
    for name, keys in NUMBERS.items():
        values = (part.get(key) for part in parts for key in keys)
        number = next((value for value in values if type(value) is int and 0 < value <= GREATEST), None)
        if number is not None:
            found[name] = number
    return found


def is_name(value: object) -> bool:
    """Return whether a value of a config is a name that can be shown."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST and value.isprintable()
