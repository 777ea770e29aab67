"""Pull: a snapshot's files into a folder, verified; or base and patches, composed here into the same files."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from client.actions.composing import compose, compose_here, other_files, recipe_of
from client.actions.transfers import download_snapshot
from client.api.client import Client
from client.machine.folders import (
    OWN,
    Source,
    check_folder,
    check_room,
    check_target,
    inside,
    read_source,
    strays,
    write_source,
)
from client.machine.locks import locked
from client.terminal.addresses import is_digest, is_version, parse_choice
from client.terminal.console import Console, plain
from registry.breadcrumbs.formats.digest import digest_files
from registry.breadcrumbs.formats.recipe import ALONE, Item, make_recipe
from registry.errors import (
    BreadcrumbError,
    DigestMismatch,
    Forbidden,
    InvalidRequest,
    NotComposed,
    NotFound,
    Unauthenticated,
    WrongState,
)
from registry.files.durable import storage_error
from registry.schemas import Snapshot

QUIET = Console(quiet=True)
COMPOSING = "composing"  # folder in .crumb for weights that are being composed
SHOWN = 5  # names of files that a note lists


def pull(client: Client, model: str, ref: str, folder: Path, *, console: Console = QUIET) -> Snapshot:
    """Download a snapshot into a folder, every byte verified; a pull that was killed resumes.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: `main`, `base`, a version, a channel, a recipe digest or 8 or more of its first digits; or `#N[.R]`, the
            base with a patch alone, which is composed first if need be and you may ask for it.
        folder: It may hold an earlier pull, which is brought up to date; other files stay as they are.
        console: Where notes and progress go.

    Raises:
        NotFound: There is no such model or snapshot.
        NotComposed: The patch alone is not composed yet, and you may not ask for it.
        WrongState: Something that no pull brought is where a file must go.
        DigestMismatch: The weights are not those that the registry names.
        StorageFull: The disk has no room for the files.
    """
    snapshot = find_snapshot(client, model, ref, console)
    with _pulling(snapshot, folder, console) as missing, console.progress(f"pulling {model}") as progress:
        check_room(folder, {file.path: file.size for file in snapshot.files})
        download_snapshot(client, snapshot, folder, paths=missing, progress=progress)
    return snapshot


def pull_as_patches(
    client: Client,
    model: str,
    ref: str,
    folder: Path,
    *,
    base: Path | None = None,
    device: str = "auto",
    device_memory: int | None = None,
    console: Console = QUIET,
) -> Snapshot:
    """Download base and patches, compose them here, and check that the registry's weights come out.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: As for `pull`, but not `base`, which has no recipe.
        folder: As for `pull`.
        base: A local copy of the base, which is verified; downloaded into the cache when None.
        device: auto, cpu or cuda.
        device_memory: Most bytes to use on a GPU.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: The snapshot is the base.
        DigestMismatch: Other weights come out; none of them are kept.
        WrongState: The local base has its weights in other files than the registry.
    """
    snapshot = find_snapshot(client, model, ref, console)
    if snapshot.recipe is None:
        raise InvalidRequest(f"{model}@{ref} is the base and has no patches; leave out --as-patches.", field="ref")
    announced = {file.path: file.sha256 for file in snapshot.files}
    with _pulling(snapshot, folder, console) as missing:
        work = folder / OWN / COMPOSING
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            composed = compose_here(
                client,
                snapshot,
                work,
                base=base,
                device=device,
                device_memory=device_memory,
                same_files=True,
                console=console,
            )
            if composed.weights_digest != snapshot.weights_digest:
                raise DigestMismatch(
                    f"Composed here, {model}@{snapshot.ref[:12]} has weights {composed.weights_digest}, but the "
                    f"registry says {snapshot.weights_digest}; nothing was kept. One of the two is wrong: tell the "
                    "operator."
                )
            if any(announced.get(path) != file.sha256 for path, file in composed.files.items()):
                raise WrongState(other_files(model, base))
            for path, target in zip(composed.files, inside(folder, list(composed.files)), strict=True):
                target.parent.mkdir(parents=True, exist_ok=True)
                (work / path).replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        rest = [path for path in missing if path not in composed.files]
        with console.progress(f"pulling the rest of {model}") as progress:
            download_snapshot(client, snapshot, folder, paths=rest, progress=progress)
    return snapshot


def find_snapshot(client: Client, model: str, ref: str, console: Console = QUIET) -> Snapshot:
    """Return the snapshot that a reference names, and note the registry's warnings about it.

    Raises:
        NotFound: There is no such model or snapshot.
        NotComposed: The patch alone is not composed yet, and you may not ask for it.
        DigestMismatch: The registry answers with another snapshot, or its recipe has another digest than it says.
    """
    if ref.startswith("#"):
        ref = _compose_alone(client, model, ref, console)
    snapshot = client.snapshot(model, ref)
    for warning in snapshot.warnings:
        console.note(f"Warning: {plain(warning)}")
    recipe = recipe_of(snapshot)
    digest = recipe.digest if recipe is not None else None
    due = snapshot.release or digest or "base"  # what the answer must call itself
    answers = due.startswith(ref) if is_digest(ref) else due == ref or not (ref == "base" or is_version(ref))
    if snapshot.model != model or snapshot.ref != due or not answers:
        raise DigestMismatch(
            f"Asked for {model}@{ref}, the registry at {client.url} answers with {snapshot.model}@{snapshot.ref}, "
            f"whose recipe is {digest or 'none'}; do not trust this snapshot, and tell the operator."
        )
    return snapshot


def _compose_alone(client: Client, model: str, address: str, console: Console) -> str:
    """Return the recipe digest of the base with a patch alone, having it composed first if need be."""
    number, revision = parse_choice(address)
    patch = client.patch(model, number, revision)
    recipe = make_recipe(patch.base, ALONE, [Item(patch.sha256, "1")]).digest
    try:
        return client.snapshot(model, recipe).ref
    except NotFound:
        pass  # it is not composed yet
    try:
        return compose(client, model, [(number, "1", patch.revision)], alpha=ALONE, console=console).recipe.digest
    except (Unauthenticated, Forbidden) as why:
        raise NotComposed(
            f"{model}{address} is not composed yet, and you may not ask for it: {why} Log in with `crumb login` and a "
            f"token of the scope push, or ask a member of {model} to run `crumb pull {model}{address}`."
        ) from why


@contextlib.contextmanager
def _pulling(snapshot: Snapshot, folder: Path, console: Console) -> Iterator[list[str]]:
    """Record in the folder what is pulled into it, and yield the paths that are missing; one pull at a time.

    When the block ends well and the weights are those of the snapshot, files of an earlier pull that this one does not
    have are removed.
    """
    files = {file.path: file.sha256 for file in snapshot.files}
    targets = dict(zip(files, inside(folder, list(files)), strict=True))
    check_folder(folder)
    with locked(folder, console):
        with console.progress("looking at what is there") as progress:
            missing, stale = check_target(folder, files, progress)
        before = read_source(folder)
        _tell_changed(snapshot, before, console)
        both = {path: list(digests) for path, digests in before.files.items()} if before else {}
        for path, sha256 in files.items():
            both[path] = sorted({*both.get(path, ()), sha256})
        try:
            write_source(folder, Source(snapshot.model, snapshot.ref, snapshot.weights_digest, False, both))
            yield missing
            _check_weights(snapshot, folder, targets, console)
            for path in stale:
                (folder / path).unlink(missing_ok=True)
            _sweep(folder, list(both))
            kept = {path: [sha256] for path, sha256 in files.items()}
            write_source(folder, Source(snapshot.model, snapshot.ref, snapshot.weights_digest, True, kept))
        except BreadcrumbError:
            raise
        except OSError as why:
            raise storage_error(why, folder) from why
    if others := strays(folder, files):
        console.note(
            f"Not of {snapshot.model}, but from_pretrained may load it: {', '.join(others[:SHOWN])} in {folder}."
        )


def _tell_changed(snapshot: Snapshot, before: Source | None, console: Console) -> None:
    """Tell if a name stands for other weights than when it was pulled, though a published release never changes."""
    if before is None or (before.model, before.ref) != (snapshot.model, snapshot.ref):
        return
    if before.weights_digest != snapshot.weights_digest:
        console.note(
            f"{snapshot.model}@{snapshot.ref[:12]} has other weights than when it was pulled: "
            f"{snapshot.weights_digest}, not {before.weights_digest}. It was a candidate then, or the registry was "
            "restored from a backup and the name given again."
        )


def _check_weights(snapshot: Snapshot, folder: Path, files: Mapping[str, Path], console: Console) -> None:
    with console.progress("verifying the weights") as progress:
        digest = digest_files(files, progress)
    if digest != snapshot.weights_digest:
        raise DigestMismatch(
            f"The files of {snapshot.model}@{snapshot.ref[:12]} came as announced, but their weights are {digest}, and "
            f"the registry says {snapshot.weights_digest}; do not use {folder}, and tell the operator."
        )


def _sweep(folder: Path, paths: Sequence[str]) -> None:
    """Remove what killed pulls left in this folder."""
    shutil.rmtree(folder / OWN / COMPOSING, ignore_errors=True)
    for own in {(folder / path).parent / OWN for path in paths}:
        for partial in () if own.is_symlink() else own.glob("*.part"):
            partial.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            own.rmdir()  # only when it is empty
