"""A world's base and fine-tuned models: trained, and kept as Hugging Face folders."""

import copy
import shutil
from pathlib import Path

from torch import nn

from benchmarks.quality.worlds.kinds import Kind
from benchmarks.quality.worlds.training import fine_tune, train_base


def train(kind: Kind, seed: int, folder: Path) -> None:
    """Train the base and all tasks, but for what is there already."""
    world = kind.world(seed)
    ready = kind.ready_base()
    if ready is not None and not (folder / "base").exists():
        shutil.copytree(ready, folder / ".base", dirs_exist_ok=True)
        (folder / ".base").rename(folder / "base")
    if not (folder / "base").exists():
        assert world.mixture is not None, f"nothing to train a base of {kind.name} on"
        keep(train_base(kind, world.mixture, seed), folder / "base")
    base = kind.load(folder / "base")
    for number, task in enumerate([*kind.tasks, *kind.held_out]):
        if not (folder / "tuned" / task).exists():
            examples, start = world.parts[task].tune, copy.deepcopy(base)
            tuned = fine_tune(kind, start, examples, 1000 * seed + number, kind.tune_steps, kind.rate)
            keep(tuned, folder / "tuned" / task)


def keep(model: nn.Module, folder: Path) -> None:
    """Save a model; its folder appears whole or not at all."""
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)  # type: ignore[operator]
    partial.rename(folder)
