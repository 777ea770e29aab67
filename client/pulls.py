"""What a user fetches: a revision's files, verified; or base and patches, composed here; and the proof of either."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.api import Client
from client.config import cache
from client.console import Console
from client.folders import Source, check_target, inside, read_source, write_source
from client.transfers import OWN
from registry.breadcrumbs.durable import storage_error
from registry.errors import BreadcrumbError, DigestMismatch, InvalidRequest, StorageFull
from registry.schemas import File, Revision

if TYPE_CHECKING:
    from registry.breadcrumbs.compose import Composed

QUIET = Console(quiet=True)


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found where; weights digests, `recomposed` only when it was asked for."""

    expected: str
    found: str
    recomposed: str | None

    @property
    def ok(self) -> bool:
        """Whether all agree."""
        return self.found == self.expected and self.recomposed in (None, self.expected)


def pull(client: Client, model: str, ref: str, folder: Path, *, console: Console = QUIET) -> Revision:
    """Download a revision into a folder, every byte verified; a pull that was killed goes on.

    Raises:
        Conflict: The folder holds something that no pull of this model brought.
    """
    revision = find_revision(client, model, ref)
    with _pulling(revision, folder, console) as wanted, console.progress(f"pulling {model}") as progress:
        _check_room(folder, revision.files)
        client.download_revision(revision, folder, paths=wanted, progress=progress)
    return revision


def pull_as_patches(
    client: Client,
    model: str,
    ref: str,
    folder: Path,
    *,
    base: Path | None = None,
    device: str = "auto",
    console: Console = QUIET,
) -> Revision:
    """Fetch base and patches, compose them here, and see that the same weights come out as at the registry.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: A recipe digest or a unique prefix; `base` has no recipe.
        folder: Where the model is to be.
        base: A local copy of the base, which is verified; it is downloaded into the cache when None.
        device: auto, cpu or cuda.
        console: Where notes and progress go.

    Raises:
        DigestMismatch: Other weights come out; none of them are kept.
    """
    revision = find_revision(client, model, ref)
    if revision.recipe is None:
        raise InvalidRequest(f"{model}@{ref} is the base and has no patches; leave out --as-patches.", field="ref")
    sent = {file.path: file.sha256 for file in revision.files}
    with _pulling(revision, folder, console) as wanted:
        work = folder / OWN / "composing"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            composed = compose_here(client, revision, work, base=base, device=device, console=console)
            same = all(sent.get(path) == file.sha256 for path, file in composed.files.items())
            if composed.weights_digest != revision.weights_digest or not same:
                raise DigestMismatch(
                    f"Composed here, {model}@{revision.ref[:12]} has weights {composed.weights_digest}, but the "
                    f"registry says {revision.weights_digest}; nothing was kept. One of the two is wrong: tell the "
                    "operator."
                )
            for path, target in zip(composed.files, inside(folder, list(composed.files)), strict=True):
                (work / path).replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        rest = [path for path in wanted if path not in composed.files]
        with console.progress(f"pulling the rest of {model}") as progress:
            client.download_revision(revision, folder, paths=rest, progress=progress)
    return revision


def compose_here(
    client: Client,
    revision: Revision,
    out: Path,
    *,
    base: Path | None = None,
    device: str = "auto",
    console: Console = QUIET,
) -> "Composed":
    """Compose a revision's weight files into the empty folder `out` from base and patches, all of them verified."""
    from registry.breadcrumbs.check import check_patch
    from registry.breadcrumbs.checkpoint import open_checkpoint
    from registry.breadcrumbs.compose import compose
    from registry.breadcrumbs.patchfile import open_patch
    from registry.breadcrumbs.recipe import make_recipe

    recipe = revision.recipe
    assert recipe is not None
    made = make_recipe(recipe.base, recipe.alpha, [(item.sha256, item.weight) for item in recipe.patches])
    local = base or _fetch_base(client, revision.model, recipe.base, console)
    patches = _fetch_patches(client, revision, console)
    with contextlib.ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(local))
        opened = {}
        for sha256, path in patches.items():
            with console.progress(f"checking patch {sha256[:12]}") as progress:
                check_patch(path, recipe.base, checkpoint.tensors, progress)
            opened[sha256] = stack.enter_context(open_patch(path))
        with console.progress("composing") as progress:
            return compose(checkpoint, opened, made, out, device, progress)  # checks the base as it reads it


def verify(
    client: Client,
    folder: Path,
    model: str,
    ref: str,
    *,
    recompose: bool = False,
    base: Path | None = None,
    console: Console = QUIET,
) -> Proof:
    """Compute the weights digest of a folder, and with `recompose` that of the recipe, composed anew here."""
    from registry.breadcrumbs.checkpoint import digest_checkpoint, open_checkpoint

    revision = find_revision(client, model, ref)
    if recompose and revision.recipe is None:
        raise InvalidRequest(f"{model}@{ref} is the base and has no recipe; leave out --recompose.", field="ref")
    with open_checkpoint(folder) as checkpoint, console.progress(f"verifying {folder}") as progress:
        found = digest_checkpoint(checkpoint, progress)
    recomposed = None
    if recompose:
        with tempfile.TemporaryDirectory(prefix="crumb-") as scratch:
            composed = compose_here(client, revision, Path(scratch), base=base, console=console)
            recomposed = composed.weights_digest
    return Proof(revision.weights_digest, found, recomposed)


def find_revision(client: Client, model: str, ref: str) -> Revision:
    """Return a revision, having seen that it is the one asked for and that its recipe has the digest it goes by.

    Raises:
        DigestMismatch: The registry answers with something else.
    """
    from registry.breadcrumbs.recipe import make_recipe

    revision, recipe = client.revision(model, ref), None
    if revision.recipe is not None:
        items = [(item.sha256, item.weight) for item in revision.recipe.patches]
        recipe = make_recipe(revision.recipe.base, revision.recipe.alpha, items).digest
    if revision.model != model or not (recipe or "base").startswith(ref) or revision.ref != (recipe or "base"):
        raise DigestMismatch(
            f"Asked for {model}@{ref}, the registry at {client.url} answers with {revision.model}@{revision.ref}, "
            f"whose recipe is {recipe or 'none'}; do not trust this revision, and tell the operator."
        )
    return revision


@contextlib.contextmanager
def _pulling(revision: Revision, folder: Path, console: Console) -> Iterator[list[str]]:
    """Note in the folder what is pulled into it, and yield the paths that it lacks.

    When all went well, what an earlier pull had beyond this one is removed.
    """
    files = {file.path: file.sha256 for file in revision.files}
    inside(folder, list(files))
    with console.progress("looking at what is there") as progress:
        wanted, stale = check_target(folder, files, progress)
    before = read_source(folder)
    source = Source(revision.model, revision.ref, revision.weights_digest, False, before.files if before else {})
    try:
        write_source(folder, source)
        yield wanted
        for path in stale:
            (folder / path).unlink(missing_ok=True)
        write_source(folder, Source(revision.model, revision.ref, revision.weights_digest, True, files))
    except BreadcrumbError:
        raise
    except OSError as why:
        raise storage_error(why, folder) from why


def _fetch_base(client: Client, model: str, digest: str, console: Console) -> Path:
    folder = cache() / "bases" / digest.removeprefix("sha256:")
    revision = client.revision(model, "base")
    with console.progress(f"fetching the base of {model}") as progress:
        _check_room(folder, revision.files)
        client.download_revision(revision, folder, progress=progress)
    return folder


def _fetch_patches(client: Client, revision: Revision, console: Console) -> dict[str, Path]:
    assert revision.recipe is not None
    found = {}
    for item in revision.recipe.patches:
        patch = client.patch(revision.model, item.number)
        if patch.sha256 != item.sha256:
            raise DigestMismatch(
                f"{revision.model}#{item.number} is {patch.sha256} now, but the recipe needs {item.sha256}."
            )
        found[item.sha256] = cache() / "patches" / f"{item.sha256}.safetensors"
        with console.progress(f"fetching patch #{item.number}") as progress:
            client.download_patch(patch, found[item.sha256], progress=progress)
    return found


def _check_room(folder: Path, files: Sequence[File]) -> None:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    there = sum((folder / file.path).stat().st_size for file in files if (folder / file.path).is_file())
    need, free = sum(file.size for file in files) - there, shutil.disk_usage(place).free
    if need > free:
        raise StorageFull(f"{folder} needs {need} more bytes, but only {free} are free there.")
