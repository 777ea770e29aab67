"""A world's base, fine-tuned models and patches, ready to be merged and scored; everything is in one folder.

base/  tuned/<task>/                       Hugging Face folders
patches/<how>/<task>.safetensors           by the same function as `crumb diff`
patches/<default>/...                      as they came back from the registry
<experiment>.json                          what an experiment found; one that is there is not run again
"""

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import nn

from benchmarks.quality.experiments.merging import (
    Setting,
    Values,
    Vector,
    add_patches,
    elect,
    exact,
    mean,
    read_patch,
    read_weights,
)
from benchmarks.quality.worlds.kinds import Batch, Kind
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from registry.files.hashing import hash_file

COMBINED = {"TIES": elect, "mean": mean}
"""Methods that make one vector of the patches, which is then scaled."""

HELD = 32_000_000
"""About how many weights are held of each thing that is read once and used often: patches, combinations."""

DEFAULT = Setting("breadcrumbs", "0.85", "0.007", "0.3")
"""What `crumb diff` and `crumb compose` do when they are told nothing."""


class Bench:
    """See the module.

    Attributes:
        kind: The kind of data.
        seed: The world's.
        folder: Where everything is.
        default: What `crumb` does when it is told nothing, with values as the kind keeps them.
        shapes: Of the tensors that are composed.
        parts: Each task's examples.
        tuned: Score of each task's own fine-tuned model on the test part, which is 1 when normalised.
        untuned: The base's.
    """

    def __init__(self, kind: Kind, seed: int, folder: Path) -> None:
        self.kind, self.seed, self.folder = kind, seed, folder
        self.default = replace(DEFAULT, value_dtype=kind.value_dtype)
        self.parts = kind.world(seed).parts
        self.model = kind.load(folder / "base").eval()
        with safe_open(folder / "base" / "model.safetensors", "np") as file:
            names = [name for name in file.keys() if not name.startswith(tuple(kind.frozen))]  # noqa: SIM118
            self.shapes = {name: file.get_slice(name).get_shape() for name in names}
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        self.starts = dict(zip(self.shapes, np.cumsum([0, *sizes]).tolist(), strict=False))
        self.size = sum(sizes)
        self.base = read_weights(folder / "base", list(self.shapes))
        self._names = names_of(self.model)
        held = min(8, max(2, HELD // self.size))
        self.patches = lru_cache(held)(self._read_patches)
        self._combined = lru_cache(held)(self._combine)
        self._elsewhere = lru_cache(len(kind.tasks))(self._move)
        self._evaluated = cache(self._evaluate)
        tasks = [*kind.tasks, *kind.held_out]
        self.tuned = {task: self.score(self.weights(task), task, "test") for task in tasks}
        self.tuned_validation = {task: self.score(self.weights(task), task, "validation") for task in tasks}
        self.untuned = {task: self.score(self.base, task, "test") for task in tasks}

    def weights(self, task: str) -> Vector:
        """Return the weights of a task's fine-tuned model."""
        return read_weights(self.folder / "tuned" / task, list(self.shapes))

    def order(self, number: int) -> list[str]:
        """Return the tasks in one of the orders in which they are added."""
        places = np.random.default_rng([self.seed, number]).permutation(len(self.kind.tasks))
        return [self.kind.tasks[place] for place in places]

    def score(self, weights: Vector, task: str, part: str) -> float:
        """Return the score of a model on a part of a task; no use is 0, however bad it is."""
        self.put(weights)
        return self._score(task, part)

    def normalised(self, weights: Vector, tasks: Sequence[str], part: str, most: int | None = None) -> float:
        """Return the mean over tasks of score / score of the task's own fine-tuned model.

        Args:
            weights: The model.
            tasks: Whose examples are looked at.
            part: Which part of them.
            most: How many of each, the first ones; all when None.
        """
        known = self.tuned if part == "test" else self.tuned_validation
        self.put(weights)
        return float(np.mean([self._score(task, part, most) / known[task] for task in tasks]))

    def _score(self, task: str, part: str, most: int | None = None) -> float:
        batch: Batch = getattr(self.parts[task], part)
        if most is not None and most < len(batch):
            batch = batch.take(torch.arange(most))
        with torch.inference_mode():
            found = self.kind.score(self.model, batch)
        return max(0.0, found) if np.isfinite(found) else 0.0

    def put(self, weights: Vector) -> None:
        """Give the model these weights."""
        flat, tensors = torch.from_numpy(weights), self.model.state_dict()
        for name, shape in self.shapes.items():
            start = self.starts[name]
            tensors[self._names[name]].copy_(flat[start : start + int(np.prod(shape))].view(shape))

    def flatten(self, model: nn.Module) -> Vector:
        """Return the weights of a model, one tensor after the other."""
        tensors = model.state_dict()
        return np.concatenate([tensors[self._names[name]].numpy().ravel() for name in self.shapes])

    def merge(self, setting: Setting, tasks: Sequence[str]) -> Vector:
        """Return the weights of a composed model."""
        if setting.method in COMBINED:
            return (self.base + exact(setting.alpha) * self.combined(setting, tasks)).astype(np.float32)
        alpha = 1 / len(tasks) if setting.method == "averaging" else exact(setting.alpha)
        return add_patches(self.base, self.of_tasks(setting, tasks), alpha)

    def evaluate(self, setting: Setting, tasks: Sequence[str], part: str, most: int | None = None) -> float:
        """Return the mean normalised score of a composed model over its own tasks, whose order does not matter."""
        return self._evaluated(setting, self._sorted(tasks), part, most)

    def combined(self, setting: Setting, tasks: Sequence[str]) -> NDArray[np.float64]:
        """Return what TIES or mean makes of patches, before it is scaled."""
        return self._combined(setting.at(""), self._sorted(tasks))

    def _combine(self, setting: Setting, tasks: tuple[str, ...]) -> NDArray[np.float64]:
        return COMBINED[setting.method](self.of_tasks(setting, tasks), self.size)

    def _evaluate(self, setting: Setting, tasks: tuple[str, ...], part: str, most: int | None) -> float:
        return self.normalised(self.merge(setting, tasks), tasks, part, most)

    def _sorted(self, tasks: Sequence[str]) -> tuple[str, ...]:
        return tuple(task for task in self.kind.tasks if task in tasks)

    def of_tasks(self, setting: Setting, tasks: Sequence[str]) -> list[Values]:
        """Return the patches of tasks."""
        if setting.random:
            return [self._elsewhere(setting.params, task, setting.random) for task in tasks]
        patches = self.patches(setting.params)
        return [patches[task] for task in tasks]

    def path(self, params: MaskParams, task: str) -> Path:
        """Return the patch file of a task, which is made if it is not there."""
        how = f"{params.drop_bottom}-{params.drop_top}-{params.granularity}-{params.value_dtype}"
        path = self.folder / "patches" / how / f"{task}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_checkpoint(self.folder / "base") as base, open_checkpoint(self.folder / "tuned" / task) as tuned:
                diff(base, tuned, path, params, exclude=[f"{start}*" for start in self.kind.frozen], threads=1)
        return path

    def _read_patches(self, params: MaskParams) -> dict[str, Values]:
        paths = {task: self.path(params, task) for task in self.kind.tasks}
        return {task: read_patch(path, hash_file(path), self.starts, self.size) for task, path in paths.items()}

    def _move(self, params: MaskParams, task: str, seed: int) -> Values:
        """Return as many changes of each tensor as a task's patch has there, chosen at random."""
        patch = self.patches(params)[task]
        whole = self.patches(MaskParams("0", "0", "tensor", params.value_dtype))[task]
        changes, random = whole.dense(self.size), np.random.default_rng([self.seed, seed, int(patch.sha256[:8], 16)])
        kept = patch.dense(self.size) != 0
        places = []
        for name, start in self.starts.items():
            stop = start + int(np.prod(self.shapes[name]))
            changed = start + np.flatnonzero(changes[start:stop])
            places.append(random.choice(changed, min(len(changed), int(kept[start:stop].sum())), replace=False))
        chosen = np.sort(np.concatenate(places)).astype(np.int32)
        return Values(patch.sha256, chosen, changes[chosen])


def names_of(model: nn.Module) -> dict[str, str]:
    """Return the name that each tensor of a model's file has in the model itself; transformers renames some.

    Found by saving a copy whose tensors hold nothing but their own numbers.
    """
    numbered = copy.deepcopy(model)
    names = list(numbered.state_dict())
    for number, tensor in enumerate(numbered.state_dict().values()):
        tensor.fill_(number)
    with tempfile.TemporaryDirectory() as folder:
        numbered.save_pretrained(folder)  # type: ignore[operator]
        with safe_open(Path(folder) / "model.safetensors", "np") as file:
            return {name: names[int(file.get_tensor(name).flat[0])] for name in file.keys()}  # noqa: SIM118
