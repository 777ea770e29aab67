"""How much there is, what things are called, and the keys by which they refer to each other.

Everything of a size follows from it, so two databases of one size are equal.
"""

import hashlib
import random
import uuid
from dataclasses import dataclass, field, fields
from typing import Any

from benchmarks.server.community.rows import Rows

NAME = "alice/llama"
BASE = f"sha256:{'b' * 64}"
SHAPE = [2048, 2048]
PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
PROJECTIONS += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm")
TENSORS = [f"model.layers.{layer}.{part}.weight" for layer in range(16) for part in PROJECTIONS]


@dataclass(frozen=True)
class Sizes:
    """How much there is; `patches` counts those of the large model, too."""

    models: int
    patches: int
    large: int
    events: int
    tensors: int

    def smaller(self, factor: float) -> "Sizes":
        """Return the sizes divided by a factor, but not below what the reads ask for."""
        least = Sizes(models=20, patches=500, large=200, events=1000, tensors=1000)
        return Sizes(
            **{one.name: max(int(getattr(self, one.name) / factor), getattr(least, one.name)) for one in fields(self)}
        )


@dataclass
class Community:
    """What is put into a database: where rows go, who owns the large model, and the keys of people and of models."""

    rows: Rows
    sizes: Sizes
    owner: uuid.UUID
    space: uuid.UUID
    chance: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    def __post_init__(self) -> None:
        self.people = [self.key() for _ in range(max(40, self.sizes.models))]
        self.spaces = [self.key() for _ in self.people]
        self.models = [self.key() for _ in range(self.sizes.models)]
        each = (self.sizes.patches - self.sizes.large) // (self.sizes.models - 1)
        self.counts = [self.sizes.large] + [each] * (self.sizes.models - 1)

    def key(self) -> uuid.UUID:
        """Return a key."""
        return uuid.UUID(int=self.chance.getrandbits(128), version=4)


def digest(*words: Any) -> str:
    """Return a digest of nothing in particular."""
    return hashlib.sha256(repr(words).encode()).hexdigest()


def person(n: int) -> str:
    """Return the name of a person."""
    return f"person-{n:06d}"
