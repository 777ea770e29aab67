"""Models of many small tensors, as mixtures of experts have them, written quickly."""

import json
from pathlib import Path

import numpy as np

from registry.breadcrumbs.formats.header import format_header

SHAPE = (2, 4)
PROJECTIONS = ("gate", "up", "down")


def name_of(number: int) -> str:
    layer, expert = number // 900, number // 3 % 300
    return f"model.layers.{layer}.mlp.experts.{expert}.{PROJECTIONS[number % 3]}_proj.weight"


def write_many(folder: Path, count: int, moved: float = 0.0, shards: int = 1) -> Path:
    """Write a model of so many tensors, the same each time, moved by that much as by fine-tuning; return its folder."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((count, *SHAPE), np.float32)
    weights += np.float32(moved) * np.random.default_rng(1).standard_normal(weights.shape, np.float32)
    folder.mkdir(parents=True)
    where = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        names = [name_of(number) for number in range(shard, count, shards)]
        header = format_header([(name, "F32", SHAPE) for name in names], {"format": "pt"})
        (folder / file).write_bytes(header + weights[shard::shards].tobytes())
        where |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text("{}")
    return folder
