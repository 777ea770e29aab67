"""What goes through a registry: the base, a patch of each task, compositions and conflicts, as any contributor's.

Patches are pushed, checked by the registry and downloaded again; the experiments read what came back. What a method
composes at the registry is pulled and loaded with `from_pretrained`, and compared bit by bit with what they composed.
"""

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.experiments.bench import Bench
from benchmarks.quality.experiments.merging import Setting, read_weights
from client.actions.composing import compose
from client.actions.conflicts import find_conflicts
from client.actions.models import create
from client.actions.pulling.pull import pull
from client.actions.push import push
from client.actions.transfers import download_patch
from client.api.client import Client
from registry.breadcrumbs.composing.compose import compose as compose_weights
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import Recipe, make_recipe
from registry.errors import NotFound
from registry.files.hashing import hash_file
from registry.schemas import Patch

OWNER = "quality"
METHODS = {"breadcrumbs": "sum", "task arithmetic": "sum", "TIES": "ties", "mean": "mean"}
"""What recipes call the methods of the experiments."""

MEASURES = (
    "iou",
    "lift",
    "sign_conflict",
    "sign_conflict_mass",
    "cosine",
    "overlap_cosine",
    "cancellation",
)


@dataclass(frozen=True)
class Login:
    """A registry, and the tokens of who contributes; the first one is the owner's."""

    url: str
    tokens: Sequence[str]


class Model:
    """A world's model at a registry, created there when it is not."""

    def __init__(self, bench: Bench, login: Login) -> None:
        self.bench = bench
        self.name = f"{OWNER}/{bench.kind.name}-{bench.seed}"
        self.clients = [Client(login.url, token) for token in login.tokens]
        self.owner = self.clients[0]
        try:
            self.owner.model(self.name)
        except NotFound:
            create(self.owner, self.name, bench.folder / "base", license="apache-2.0")
        self.patches: dict[tuple[str, str], Patch] = {}

    def close(self) -> None:
        """Close the connections."""
        for client in self.clients:
            client.close()

    def push(self, setting: Setting) -> dict[str, Patch]:
        """Push a patch of each task, each by one of the contributors; another way to make it is another revision."""
        found = {}
        for number, task in enumerate(self.bench.kind.tasks):
            key = (str(setting.params), task)
            if key not in self.patches:
                file = self.bench.path(setting.params, task)
                client = self.clients[1 + number % (len(self.clients) - 1)]
                before = self.patches.get((str(self.bench.default.params), task))
                update = before.number if before else None
                self.patches[key] = push(client, file, self.name, task, task=task, update=update)
            found[task] = self.patches[key]
        return found

    def fetch(self) -> dict[str, dict[str, Any]]:
        """Push the default patches and put what the registry has of them in their place; say what is known of them."""
        pushed = self.push(self.bench.default)
        for task, patch in pushed.items():
            file = self.bench.path(self.bench.default.params, task)
            file.unlink()
            download_patch(self.owner, patch, file)
        return {
            task: {"number": patch.number, "sha256": patch.sha256, "size": patch.size, "density": patch.density}
            for task, patch in pushed.items()
        }

    def conflicts(self) -> dict[tuple[str, str], dict[str, float]]:
        """Return what the registry says of each two patches; of the two tasks, the first in name order comes first."""
        pushed = self.push(self.bench.default)
        overview = find_conflicts(
            self.owner, self.name, [(patch.number, patch.revision) for patch in pushed.values()], 0
        )
        tasks = {patch.number: task for task, patch in pushed.items()}
        found = {}
        for pair in overview.conflicts.pairs:
            first, second = sorted((tasks[pair.first.number], tasks[pair.second.number]))
            found[first, second] = {name: value_of(pair.whole, name) for name in MEASURES}
        return found

    def compose(self, setting: Setting, tasks: Sequence[str]) -> dict[str, Any]:
        """Compose at the registry, pull, load, and compare with the composition of the experiments."""
        pushed = self.push(setting)
        items = [(pushed[task].number, "1", pushed[task].revision) for task in tasks]
        made = compose(self.owner, self.name, items, alpha=setting.alpha)
        folder = self.bench.folder / "pulled"
        shutil.rmtree(folder, ignore_errors=True)
        pull(self.owner, self.name, made.recipe.digest, folder)
        loaded, expected = self.bench.flatten(self.bench.kind.load(folder)), self.bench.merge(setting, tasks)
        same = np.array_equal(loaded.view(np.uint32), expected.view(np.uint32))
        shutil.rmtree(folder)
        return {"setting": setting.key, "count": len(tasks), "recipe": made.recipe.digest, "same": bool(same)}

    def compose_here(self, setting: Setting, tasks: Sequence[str]) -> dict[str, Any]:
        """Compose the registry's patches on this machine, by any method, and compare likewise."""
        folder = self.bench.folder / "composed"
        shutil.rmtree(folder, ignore_errors=True)
        files = [self.bench.path(setting.params, task) for task in tasks]
        recipe = compose_files(self.bench.folder / "base", files, setting, folder)
        made, expected = read_weights(folder, list(self.bench.shapes)), self.bench.merge(setting, tasks)
        same = np.array_equal(made.view(np.uint32), expected.view(np.uint32))
        shutil.rmtree(folder)
        return {"setting": setting.key, "count": len(tasks), "recipe": recipe.digest, "same": bool(same)}


def compose_files(base: Path, files: Sequence[Path], setting: Setting, out: Path) -> Recipe:
    """Compose patch files by any method into a new folder, as the product does; return the recipe."""
    out.mkdir()
    with contextlib.ExitStack() as stack:
        opened = {hash_file(file): stack.enter_context(open_patch(file)) for file in files}
        digest, items = next(iter(opened.values())).info.base, [(sha256, "1") for sha256 in opened]
        recipe = make_recipe(digest, setting.alpha, items, METHODS[setting.method])
        compose_weights(stack.enter_context(open_checkpoint(base)), opened, recipe, out, "cpu", threads=1)
    return recipe


def value_of(overlap: Any, name: str) -> float:
    """Return a measure; where patches do not overlap, there is no conflict in what they share."""
    value = getattr(overlap, name)
    return 0.0 if value is None else float(value)
