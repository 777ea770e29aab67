"""Composing: any subset of a model's patches, at the registry or on this machine."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from client.actions.conflicts import find_conflicts
from client.actions.jobs import watch
from client.actions.transfers import download_patch, download_snapshot
from client.api.calls import Item
from client.api.client import Client
from client.machine.bases import cached_base
from client.machine.config import cache
from client.machine.folders import check_room, inside
from client.machine.known_files import checked_base
from client.machine.locks import locked
from client.machine.patch_files import open_checked
from client.terminal.console import Console
from registry.breadcrumbs.comparing.alpha import AUTO
from registry.breadcrumbs.formats.recipe import Item as RecipePart
from registry.breadcrumbs.formats.recipe import make_recipe
from registry.errors import (
    DigestMismatch,
    Forbidden,
    NotCompared,
    NotFound,
    Unauthenticated,
    WrongState,
)
from registry.schemas import Composition, Preview, RecipeItem, Snapshot
from registry.schemas import Recipe as ListedRecipe

if TYPE_CHECKING:
    from registry.breadcrumbs.composing.compose import Composed
    from registry.breadcrumbs.formats.checkpoint import Checkpoint
    from registry.breadcrumbs.formats.patchfile import Patch
    from registry.breadcrumbs.formats.recipe import Recipe

T = TypeVar("T")
QUIET = Console(quiet=True)


def compose(
    client: Client,
    model: str,
    patches: Sequence[Item],
    *,
    alpha: str = AUTO,
    method: str = "sum",
    allow_yanked: bool = False,
    console: Console = QUIET,
) -> Composition:
    """Compose base + alpha * (patches combined by a method) at the registry, and wait for it.

    Args:
        client: The registry.
        model: NS/NAME.
        patches: Number, weight and perhaps revision and weights by tensor of each.
        alpha: The scale of all patches, a decimal, or `auto` for the one that the patches give.
        method: sum, ties or mean.
        allow_yanked: Whether patches may be yanked ones.
        console: Where notes and progress go.

    Returns:
        The recipe and the weights digest of the composed model.

    Raises:
        NotFound: There is no such model or patch.
        InvalidRequest: A weight or alpha is not a decimal.
        JobFailed: The composition failed, for example because it overflows.
    """
    ask = partial(client.compose, model, patches, alpha=alpha, method=method, allow_yanked=allow_yanked)
    composition = when_compared(client, ask, console=console)
    if composition.weights_digest is None and composition.job is not None:
        watch(
            client,
            composition.job,
            f"composing {composition.recipe.digest[:12]}",
            console,
            interrupted="The registry goes on composing; run the same command to wait for it again.",
        )
        composition = ask()
    return composition


def preview(
    client: Client,
    model: str,
    patches: Sequence[Item],
    *,
    alpha: str = AUTO,
    method: str = "sum",
    allow_yanked: bool = False,
    console: Console = QUIET,
) -> Preview:
    """Return what is known about a composition, and compose nothing; arguments are those of `compose`.

    Patches are compared first if alpha needs that and the caller may ask for it; else alpha stays unknown.
    """
    ask = partial(client.preview, model, patches, alpha=alpha, method=method, allow_yanked=allow_yanked)
    found = ask()
    if found.recipe is None:
        choices = [(item[0], item[2] if len(item) > 2 else None) for item in patches]
        with contextlib.suppress(Unauthenticated, Forbidden, WrongState):
            find_conflicts(client, model, choices, 0, console=console)
            return ask()
    return found


def when_compared(client: Client, ask: Callable[[], T], *, console: Console = QUIET) -> T:
    """Ask for something that takes alpha `auto`; if patches have to be compared for it, wait for that and ask again.

    Args:
        client: The registry.
        ask: What to ask.
        console: Where notes and progress go.

    Raises:
        NotCompared: Other patches have to be compared by now.
        JobFailed: The comparison failed.
        JobCancelled: Somebody cancelled the comparison.
    """
    try:
        return ask()
    except NotCompared as why:
        if why.job is not None:
            job = client.job(why.job)
            words = "The registry goes on comparing; run the same command to wait for it again."
            watch(client, job, f"comparing {job.subject}", console, interrupted=words)
        return ask()


def compose_here(
    client: Client,
    snapshot: Snapshot,
    out: Path,
    *,
    base: Path | Mapping[str, Path] | None = None,
    device: str = "auto",
    device_memory: int | None = None,
    same_files: bool = False,
    anew: bool = False,
    console: Console = QUIET,
) -> "Composed":
    """Compose a snapshot's weight files on this machine, from base and patches, all of them verified.

    Args:
        client: The registry.
        snapshot: It must have a recipe.
        out: An empty folder.
        base: A local copy of the base, or the base's files by their paths; downloaded into the cache when None.
        device: auto, cpu or cuda.
        device_memory: Most bytes to use on a GPU; see `compose` of the science.
        same_files: Whether the weights must come out in the registry's files; these are then hashed, too.
        anew: Whether to check base and patches though they were found sound before.
        console: Where notes and progress go.

    Raises:
        WrongState: The base has its weights in other files than the registry, and `same_files` is set.
        DigestMismatch: The base or a patch is not the one that the recipe names.
    """
    from registry.breadcrumbs.composing.compose import compose as compose_weights
    from registry.breadcrumbs.composing.variances import tell_negative
    from registry.breadcrumbs.formats.checkpoint import open_checkpoint

    recipe = recipe_of(snapshot)
    assert snapshot.recipe is not None and recipe is not None
    with open_checkpoint(base or fetch_base(client, snapshot.model, recipe.base, console=console)) as checkpoint:
        if same_files and not checkpoint.files.keys() <= {file.path for file in snapshot.files}:
            raise WrongState(other_files(snapshot.model, base))  # before the patches travel
        items = snapshot.recipe.patches
        entry = open_patches(client, snapshot.model, items, recipe.base, checkpoint, anew=anew, console=console)
        known_base = checked_base(checkpoint, recipe.base, anew)
        with entry as patches, known_base as known, console.progress("composing") as progress:
            composed = compose_weights(
                checkpoint,
                patches,
                recipe,
                out,
                device,
                progress,
                check_base=not known,
                file_digests=same_files,
                device_memory=device_memory,
            )
        for sentence in tell_negative(composed.negative):
            console.note(sentence)
        return composed


def recipe_of(snapshot: Snapshot) -> "Recipe | None":
    """Return the recipe of a snapshot in canonical form; None for the base."""
    return None if snapshot.recipe is None else canonical(snapshot.recipe)


def canonical(recipe: ListedRecipe) -> "Recipe":
    """Return a recipe as the registry lists it in canonical form."""
    items = [RecipePart(item.sha256, item.weight, tuple(item.where)) for item in recipe.patches]
    return make_recipe(recipe.base, recipe.alpha, items, recipe.method)


@contextlib.contextmanager
def open_cached(
    client: Client, model: str, digest: str, items: Iterable[RecipeItem], *, console: Console = QUIET
) -> Iterator[tuple[dict[str, Path], "Checkpoint", dict[str, "Patch"]]]:
    """Download a base and patches into the cache and open them.

    Args:
        client: The registry.
        model: NS/NAME.
        digest: Weights digest of the base; files are verified, but not that the weights have this digest.
        items: The patches.
        console: Where notes and progress go.

    Yields:
        The base's files by path, its weights, and the patches by sha256.
    """
    from registry.breadcrumbs.formats.checkpoint import open_checkpoint

    files = fetch_base(client, model, digest, console=console)
    with (
        open_checkpoint(files) as base,
        open_patches(client, model, items, digest, base, console=console) as patches,
    ):
        yield files, base, patches


@contextlib.contextmanager
def open_patches(
    client: Client,
    model: str,
    items: Iterable[RecipeItem],
    digest: str,
    base: "Checkpoint",
    *,
    anew: bool = False,
    console: Console = QUIET,
) -> Iterator[dict[str, "Patch"]]:
    """Download patches into the cache, check them against the base of this weights digest, and open them by sha256."""
    files = _fetch_patches(client, model, items, console)
    with open_checked(list(files.values()), digest, base, anew=anew, console=console) as opened:
        yield dict(zip(files, (patch for _, patch in opened), strict=True))


def fetch_base(
    client: Client,
    model: str,
    digest: str,
    *,
    only: Callable[[str], bool] = lambda path: True,
    console: Console = QUIET,
) -> dict[str, Path]:
    """Download the files of a model's base into the cache and return them: path in the folder -> file.

    Args:
        client: The registry.
        model: NS/NAME.
        digest: Weights digest of the base.
        only: Says of a path whether the file is wanted.
        console: Where notes and progress go.

    Raises:
        StorageFull: The disk has no room for the files.
        DigestMismatch: The registry sent other bytes than it announced.
    """
    folder = cached_base(digest)
    snapshot = client.snapshot(model, "base")
    sizes = {file.path: file.size for file in snapshot.files if only(file.path)}
    paths = list(sizes)
    with locked(folder, console), console.progress(f"fetching the base of {model}") as progress:
        check_room(folder, sizes)
        download_snapshot(client, snapshot, folder, paths=paths, progress=progress)
    # Another registry may have brought the same weights in other files: those of this one alone are opened.
    return dict(zip(paths, inside(folder, paths), strict=True))


def other_files(model: str, base: Path | Mapping[str, Path] | None) -> str:
    """Return the sentence for a base whose weights are cut into other files than at the registry."""
    held = base if isinstance(base, Path) else "The base"
    return (
        f"{held} holds the weights in other files than the base of {model} at the registry does; leave "
        f"out --base, or take `crumb pull {model}@base` for it."
    )


def _fetch_patches(client: Client, model: str, items: Iterable[RecipeItem], console: Console) -> dict[str, Path]:
    files = {}
    for item in items:
        file = patch_file(item.sha256)
        if item.number == 0:
            raise NotFound(f"Patch {item.sha256} is no longer listed in {model}, and cannot be fetched.")
        patch = client.patch(model, item.number, item.revision)
        if patch.sha256 != item.sha256:
            raise DigestMismatch(f"{model}#{item.number} is {patch.sha256} now, but the recipe needs {item.sha256}.")
        entry = locked(file.parent, console, f"{item.sha256}.lock")
        with entry, console.progress(f"fetching patch #{item.number}") as progress:
            download_patch(client, patch, file, progress=progress)
        files[item.sha256] = file
    return files


def patch_file(sha256: str) -> Path:
    """Return the file of the cache for a patch, whether or not it is there."""
    return cache() / "patches" / f"{sha256}.safetensors"
