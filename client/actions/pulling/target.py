"""Targets: a folder that a model is brought into, whatever way its files take there.

The folder records what is brought, before and after (`client/machine/folders.py`), so that an attempt that was killed
can go on, and nothing that a person put there is written over.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from client.machine.folders import (
    OWN,
    Source,
    check_folder,
    check_target,
    inside,
    make_own,
    read_source,
    strays,
    write_source,
)
from client.machine.locks import locked
from client.terminal.console import Console
from registry.breadcrumbs.formats.digest import digest_files
from registry.errors import BreadcrumbError, DigestMismatch
from registry.files.durable import storage_error
from registry.files.hashing import BLOCK

COMPOSING = "composing"  # folder in .crumb for files that are made here
SHOWN = 5  # names of files that a note lists


@contextlib.contextmanager
def bringing(goal: Source, folder: Path, console: Console) -> Iterator[list[str]]:
    """Record in the folder what is brought into it, and yield the paths that are missing; one process at a time.

    When the block ends well and the weights are those of the goal, files of an earlier pull that this one does not
    have are removed.

    Args:
        goal: What the folder is to hold; each file with one digest.
        folder: Made if need be.
        console: Where notes and progress go.

    Raises:
        WrongState: Something that no pull brought is where a file must go.
        DigestMismatch: The weights are not those of the goal.
        StorageFull: The disk has no room for the files.
    """
    files = {path: sha256 for path, (sha256,) in goal.files.items()}
    targets = dict(zip(files, inside(folder, list(files)), strict=True))
    check_folder(folder)
    with locked(folder, console):
        with console.progress("looking at what is there") as progress:
            missing, stale = check_target(folder, files, progress)
        before = read_source(folder)
        _tell_changed(goal, before, console)
        both = {path: list(digests) for path, digests in before.files.items()} if before else {}
        for path, sha256 in files.items():
            both[path] = sorted({*both.get(path, ()), sha256})
        try:
            write_source(folder, Source(goal.model, goal.ref, goal.weights_digest, False, both))
            yield missing
            _check_weights(goal, folder, targets, console)
            for path in stale:
                (folder / path).unlink(missing_ok=True)
            _sweep(folder, list(both))
            write_source(folder, goal)
        except BreadcrumbError:
            raise
        except OSError as why:
            raise storage_error(why, folder) from why
    if others := strays(folder, files):
        names = ", ".join(others[:SHOWN])
        console.note(f"Not of {goal.model or 'the model'}, but from_pretrained may load it: {names} in {folder}.")


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """Yield an empty folder on the target's file system for files that are made here; what is left is removed."""
    work = make_own(folder) / COMPOSING
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def move_in(work: Path, folder: Path, paths: Iterable[str]) -> None:
    """Move verified files from the workplace to where they belong."""
    paths = list(paths)
    for path, target in zip(paths, inside(folder, paths), strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        (work / path).replace(target)


def copy_hashed(source: Path, copy: BinaryIO) -> str:
    """Copy a file into an open one, and return the sha256 of what was written."""
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()


def _tell_changed(goal: Source, before: Source | None, console: Console) -> None:
    """Tell if a name stands for other weights than when it was pulled, though a published release never changes."""
    if before is None or not goal.model or (before.model, before.ref) != (goal.model, goal.ref):
        return
    if before.weights_digest != goal.weights_digest:
        console.note(
            f"{goal.model}@{goal.ref[:12]} has other weights than when it was pulled: {goal.weights_digest}, not "
            f"{before.weights_digest}. It was a candidate then, or the registry was restored from a backup and the "
            "name given again."
        )


def _check_weights(goal: Source, folder: Path, files: Mapping[str, Path], console: Console) -> None:
    with console.progress("verifying the weights") as progress:
        digest = digest_files(files, progress)
    if digest != goal.weights_digest:
        raise DigestMismatch(
            f"The files of {goal.model}@{goal.ref[:12]} came as announced, but their weights are {digest}, and "
            f"the registry says {goal.weights_digest}; do not use {folder}, and tell the operator."
        )


def _sweep(folder: Path, paths: Sequence[str]) -> None:
    """Remove what killed pulls left in this folder."""
    shutil.rmtree(folder / OWN / COMPOSING, ignore_errors=True)
    for own in {(folder / path).parent / OWN for path in paths}:
        for partial in () if own.is_symlink() else own.glob("*.part"):
            partial.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            own.rmdir()  # only when it is empty
