"""What the people of the demo do: create the model, contribute, compose, tune; by the functions that `crumb` calls."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from client.actions.composing import compose
from client.actions.models import create
from client.actions.patching import apply, diff
from client.actions.pulling.pull import pull
from client.actions.push import push
from client.actions.verify import verify
from client.api.client import Client
from client.demo.report import DemoBase, DemoMerge, DemoPatch
from client.trials.searching import Setting
from client.trials.tuning import How, Tuned, tune, tune_files
from registry.errors import DigestMismatch, JobFailed

if TYPE_CHECKING:
    from client.demo.tasks import Digits

MODEL = "mira/digits"
Score = Callable[[Path], float]


def create_model(client: Client, base: Path) -> DemoBase:
    """Create the model with its base."""
    model = create(client, MODEL, base)
    if model.base is None or model.parameters is None:
        raise JobFailed(f"The registry did not import the base of {MODEL}.")
    return DemoBase(MODEL, model.base, model.parameters, (base / "model.safetensors").stat().st_size)


def contribute(client: Client, author: str, task: str, digits: "Digits", folder: Path) -> DemoPatch:
    """Fine-tune the base on a task, make the patch, push it, and wait for the registry's check."""
    from client.demo.models import fine_tune

    tuned, file = tuned_folder(folder, task), patch_file(folder, task)
    for parent in (tuned, file.parent):
        parent.mkdir(parents=True, exist_ok=True)
    fine_tune(folder / "base", task, digits, tuned)
    diff(folder / "base", tuned, file)
    patch = push(client, file, MODEL, f"Tell whether a digit is {task}", task=task.replace(" ", "-"))
    if patch.nnz is None or patch.density is None:
        raise JobFailed(f"The registry did not check #{patch.number}.")
    whole = (tuned / "model.safetensors").stat().st_size
    return DemoPatch(task, author, patch.number, patch.sha256, patch.size, whole, patch.nnz, patch.density)


def tuned_folder(folder: Path, task: str) -> Path:
    """Return where the model is that was fine-tuned on a task."""
    return folder / "tuned" / task.replace(" ", "-")


def patch_file(folder: Path, task: str) -> Path:
    """Return where the patch of a task is."""
    return folder / "patches" / f"{task.replace(' ', '-')}.safetensors"


def whole_differences(folder: Path, tasks: Sequence[str]) -> list[Path]:
    """Write all that fine-tuning changed, nothing left out, as a patch for each of these tasks."""
    files = []
    for task in tasks:
        file = folder / "whole" / patch_file(folder, task).name
        file.parent.mkdir(exist_ok=True)
        diff(folder / "base", tuned_folder(folder, task), file, drop_bottom="0", drop_top="0")
        files.append(file)
    return files


def add_whole(files: Sequence[Path], setting: Setting, name: str, folder: Path) -> Path:
    """Write base + alpha * the weighed sum of whole differences: plain task arithmetic."""
    out = folder / name
    weighed = [(file, weight) for file, weight in zip(files, setting.weights, strict=True) if weight != "0"]
    apply(folder / "base", weighed, out, alpha=setting.alpha, device="cpu")
    return out


def even(count: int) -> Setting:
    """Return the setting by which whole differences make the average of so many models."""
    return Setting(f"{1 / Decimal(count):.16f}", ("1",) * count)


def tune_whole(files: Sequence[Path], score: Score, folder: Path) -> Tuned:
    """Do with whole differences what `crumb tune` does with patches, from the average on, where they end better."""
    how = How(score, alpha=even(len(files)).alpha)
    return tune_files(folder / "base", [(file, "1") for file in files], how)


def tune_patches(client: Client, patches: Sequence[DemoPatch], score: Score) -> Tuned:
    """Do what `crumb tune` does with these patches."""
    return tune(client, MODEL, "main", [(patch.number, "1") for patch in patches], How(score))


def merge(client: Client, patches: Sequence[DemoPatch], setting: Setting, name: str, folder: Path) -> DemoMerge:
    """Compose patches at the registry, pull and verify the model, and compose it here as well.

    Raises:
        DigestMismatch: The three do not have the same weights.
    """
    weighed = [(patch, weight) for patch, weight in zip(patches, setting.weights, strict=True) if weight != "0"]
    composition = compose(client, MODEL, [(patch.number, weight) for patch, weight in weighed], alpha=setting.alpha)
    recipe = composition.recipe
    pulled, here = folder / "pulled" / name, folder / "applied" / name
    for parent in (pulled.parent, here.parent):
        parent.mkdir(exist_ok=True)
    pull(client, MODEL, recipe.digest, pulled)
    proof = verify(client, pulled, MODEL, recipe.digest)
    files = [(patch_file(folder, patch.task), weight) for patch, weight in weighed]
    applied = apply(folder / "base", files, here, alpha=setting.alpha, device="cpu")
    if not proof.ok or applied.weights_digest != proof.expected:
        raise DigestMismatch(
            f"{MODEL}@{recipe.digest[:12]} should have weights {proof.expected}, but {proof.found} was pulled and "
            f"{applied.weights_digest} comes out here."
        )
    return DemoMerge(
        alpha=recipe.alpha,
        patches={patch.number: weight for patch, weight in weighed},
        recipe=recipe.digest,
        weights_digest=proof.expected,
        composed_here=applied.weights_digest,
        device=composition.device or "",
    )
