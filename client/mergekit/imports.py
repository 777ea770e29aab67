"""Import: patches and a recipe from a mergekit configuration - what mergekit does on the fly, done once and kept.

for each model    base, model --diff--> DIR/<name>.safetensors
DIR/recipe.json   base, alpha, weights, sha256 of the patches, and the recipe digest
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from client.machine.folders import check_vacant, new_folder
from client.machine.sources import read_text, resolve
from client.mergekit.config import Config, read_config
from client.mergekit.yaml import MOST_BYTES
from client.terminal.console import Console
from registry.breadcrumbs.formats.globs import matches
from registry.errors import BreadcrumbError, InvalidRequest

QUIET = Console(quiet=True)
RECIPE = "recipe.json"


@dataclass(frozen=True, slots=True)
class ImportedPatch:
    """A patch file in the folder, the model that it was made from, its weight, its mask, and its weights by tensor."""

    file: str
    sha256: str
    weight: str
    model: str
    drop_bottom: str
    drop_top: str
    where: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import.

    Args:
        base_model: Path or Hub id of the base.
        base: Its weights digest.
        method: Of the recipe.
        alpha: A decimal.
        recipe: Digest of the recipe.
        patches: In the order of the configuration.
        notes: Sentences on where the result differs from mergekit's.
    """

    base_model: str
    base: str
    method: str
    alpha: str
    recipe: str
    patches: tuple[ImportedPatch, ...]
    notes: tuple[str, ...]


def import_recipe(file: Path, folder: Path, *, base: str | None = None, console: Console = QUIET) -> Imported:
    """Write the patches and the recipe of a mergekit configuration.

    Args:
        file: The configuration; paths in it are taken from the current folder, as mergekit takes them.
        folder: Made with everything in it, or not at all.
        base: Path or Hub id of the base, in place of the configuration's own.
        console: Where progress goes.

    Raises:
        InvalidRequest: A recipe cannot express the configuration.
        WrongState: The folder exists and is not empty.
        CheckpointMismatch: A model does not fit the base.
        InvalidCheckpoint: A model is not sound safetensors.
        InvalidPatch: A model does not differ from the base.
    """
    config = read_config(read_text(file, MOST_BYTES), file.name, base)
    check_vacant(folder)
    base_model = config.base
    if base_model is None:
        raise InvalidRequest(f"{file.name} names no base_model; add it, or give --base.", field="base_model")
    models = {name: resolve(name, quiet=console.quiet) for name in (base_model, *(s.model for s in config.sources))}
    for name, model in models.items():
        if model.is_dir() and folder.resolve().is_relative_to(model.resolve()):
            raise InvalidRequest(f"{folder} is inside the model {name}, which it would change; choose another folder.")
    with new_folder(folder) as out:
        imported = _write(config, base_model, models, out, console)
        table = {**asdict(imported), "version": 1}
        (out / RECIPE).write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return imported


def _write(config: Config, base_model: str, models: dict[str, Path], out: Path, console: Console) -> Imported:
    from registry.breadcrumbs.diffing.diff import diff
    from registry.breadcrumbs.formats.checkpoint import open_checkpoint
    from registry.breadcrumbs.formats.layout import MaskParams
    from registry.breadcrumbs.formats.recipe import Item, make_recipe

    patches: list[ImportedPatch] = []
    digest = ""
    with open_checkpoint(models[base_model]) as before:
        for source in config.sources:
            name = _name(source.model, {patch.file for patch in patches})
            params = MaskParams(source.drop_bottom, source.drop_top, "tensor", config.value_dtype)
            try:
                with (
                    open_checkpoint(models[source.model]) as after,
                    console.progress(f"comparing {source.model}") as progress,
                ):
                    info = diff(before, after, out / name, params, progress=progress)
            except BreadcrumbError as why:
                raise type(why)(f"{source.model}: {why}", field=why.field) from why
            assert info.sha256 is not None
            digest = info.base
            patches.append(
                ImportedPatch(
                    name,
                    info.sha256,
                    source.weight,
                    source.model,
                    params.drop_bottom,
                    params.drop_top,
                    _used(source.where, info.tensors),
                )
            )
    items = [Item(patch.sha256, patch.weight, patch.where) for patch in patches]
    recipe = make_recipe(digest, config.alpha, items, config.method)
    return Imported(base_model, digest, recipe.method, recipe.alpha, recipe.digest, tuple(patches), config.notes)


def _used(where: tuple[tuple[str, str], ...], tensors: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return the weights by tensor that match one; others are refused where a recipe is asked for."""
    names = list(tensors)
    return tuple((glob, factor) for glob, factor in where if any(matches(glob, name) for name in names))


def _name(model: str, taken: set[str]) -> str:
    """Return a name for the patch of a model, unlike those taken."""
    last = model.partition("@")[0].rstrip("/").rpartition("/")[2].removesuffix(".safetensors")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-")[:100] or "patch"
    names = (f"{stem}{more}.safetensors" for more in ("", *(f"-{count}" for count in range(2, len(taken) + 3))))
    return next(name for name in names if name.lower() not in {other.lower() for other in taken})
