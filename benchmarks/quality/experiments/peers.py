"""Are the methods what others mean by them? mergekit merges the same checkpoints, and models are compared.

mergekit is run as its users run it, in an environment of its own (benchmarks/mergekit.py says what its parameters are):
`mergekit-yaml` on Llamas; on vision transformers `mergekit-pytorch`, since the other leaves their layers out.

    linear            weight 1 each, normalised                              averaging
    task_arithmetic   weight alpha                                           task arithmetic
    ties              density 1 - drop_bottom, weight 1, lambda alpha        TIES
    breadcrumbs       density 1 - drop_bottom - drop_top, gamma drop_top     breadcrumbs
"""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.experiments.bench import DEFAULT, Bench
from benchmarks.quality.experiments.counts import AVERAGING
from benchmarks.quality.experiments.merging import Setting, Vector, read_weights
from benchmarks.science.mergekit import environment

COUNT = 4
"""Tasks that are merged: the first ones of the first order."""

TINY = 1e-6
"""Weights that differ by less are the same but for rounding."""


def settings() -> dict[str, Setting]:
    """Return what is compared, by mergekit's names."""
    return {
        "linear": AVERAGING,
        "task_arithmetic": Setting("task arithmetic", alpha="0.3"),
        "ties": Setting("TIES", "0.8", "0", "0.5"),
        "breadcrumbs": DEFAULT,
    }


def run(bench: Bench, command: Path) -> list[dict[str, Any]]:
    """Return how far mergekit's models are from ours, and how both score."""
    return [compare(bench, command, method, setting) for method, setting in settings().items()]


def compare(bench: Bench, command: Path, method: str, setting: Setting) -> dict[str, Any]:
    """Compare one method."""
    tasks = bench.order(0)[:COUNT]
    ours, theirs = bench.merge(setting, tasks), merged(bench, command, recipe_of(bench, method, setting, tasks))
    apart = ours.astype(np.float64) - theirs
    return {
        "method": method,
        "setting": setting.key,
        "tasks": tasks,
        "distance": float(np.linalg.norm(apart) / np.linalg.norm(ours - bench.base)),
        "places": int((np.abs(apart) > TINY).sum()),
        "weights": bench.size,
        "ours": bench.normalised(ours, tasks, "test"),
        "theirs": bench.normalised(theirs, tasks, "test"),
    }


def recipe_of(bench: Bench, method: str, setting: Setting, tasks: list[str]) -> dict[str, Any]:
    """Return what mergekit is to do."""
    parameters: dict[str, float] = {"weight": float(setting.alpha) if method not in ("linear", "ties") else 1.0}
    if method in ("ties", "breadcrumbs"):
        parameters["density"] = 1 - float(setting.drop_bottom) - float(setting.drop_top)
    if method == "breadcrumbs":
        parameters["gamma"] = float(setting.drop_top)
    folders = [bench.folder / "tuned" / task for task in tasks]
    models = [{"model": str(folder / file_of(bench)), "parameters": parameters} for folder in folders]
    recipe: dict[str, Any] = {"merge_method": method, "models": models, "dtype": "float32"}
    if method != "linear":
        recipe["base_model"] = str(bench.folder / "base" / file_of(bench))
    if method == "ties":
        recipe["parameters"] = {"lambda": float(setting.alpha)}
    return recipe


def is_llama(bench: Bench) -> bool:
    """Say whether mergekit knows the architecture."""
    return bench.kind.name == "language"


def file_of(bench: Bench) -> str:
    """Return what is named in a model's folder: nothing, or its weights."""
    return "" if is_llama(bench) else "model.safetensors"


def merged(bench: Bench, command: Path, recipe: dict[str, Any]) -> Vector:
    """Return the weights of the model that mergekit makes."""
    with tempfile.TemporaryDirectory() as room:
        file, out = Path(room) / "recipe.yaml", Path(room) / "merged"
        file.write_text(json.dumps(recipe), "utf-8")  # JSON is YAML too
        told = [command, file, out, "--no-copy-tokenizer"]
        if not is_llama(bench):
            told = [command.with_name("mergekit-pytorch"), file, out]
        subprocess.run(told, env=environment(Path(room) / "hub"), check=True, capture_output=True)
        return read_weights(out, list(bench.shapes))
