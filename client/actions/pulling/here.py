"""Composing here: a snapshot's files out of what is on this machine: its base, and patches that came before.

    base      given, in the target, in the cache, or in the folder into which it was pulled last
    patches   in the cache; those that are missing come into it

A base is hashed before anything travels for it, unless it is known to be sound. What is composed is compared with the
registry's digest of every file, and what is copied is hashed, so the files are those that a download would bring.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from client.actions.composing import compose_here, other_files, patch_file
from client.actions.downloads import bytes_to_come
from client.actions.pulling.target import copy_hashed, move_in, workplace
from client.actions.transfers import wanted_files, wanted_patch
from client.api.client import Client
from client.machine.bases import base_folders, cached_base, keep_base
from client.machine.folders import inside
from client.machine.known_files import checked_base
from client.terminal.console import Console
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.errors import BaseMismatch, DigestMismatch, Forbidden, InvalidInput, NotFound, Unauthenticated, WrongState
from registry.extras import missing_extras
from registry.files.durable import new_files
from registry.files.folders import describes_weights, is_weights
from registry.schemas import File, Snapshot

Files = Mapping[str, Path]
"""Files of a model by their paths in its folder."""


def places_of_base(snapshot: Snapshot, folder: Path, given: Path | None) -> list[Path]:
    """Return where the base of a snapshot may be on this machine: in what was given, or else where it was before.

    Args:
        snapshot: The base, or what is composed of it.
        folder: Where the snapshot is to go; its record must not say so yet, but what it held before.
        given: A weight file, or a folder.
    """
    return [given] if given is not None else base_folders(_base_of(snapshot), folder)


def reuse(
    client: Client,
    snapshot: Snapshot,
    folder: Path,
    missing: Sequence[str],
    places: Sequence[Path],
    given: Path | None,
    console: Console,
) -> tuple[list[str], bool]:
    """Bring files of a snapshot into a folder out of what is on this machine, where that moves fewer bytes.

    Args:
        client: The registry.
        snapshot: The base, or what is composed of it.
        folder: Where it goes.
        missing: Paths of its files that are not there.
        places: Where the base may be, as of `places_of_base`.
        given: The one of them that a person named, of which is told why it is not used.
        console: Where notes and progress go.

    Returns:
        The paths that are there now, and whether weights were composed.

    Raises:
        Exception: Something was wrong; whatever is missing then can be downloaded.
    """
    if not places:
        return [], False
    listed = _list_base(client, snapshot)
    done: list[str] = []
    if "local" not in missing_extras() and _moves_less(client, snapshot, folder, missing):
        base = _first_sound(listed, _base_of(snapshot), places, given, console)
        if base is not None:
            done = compose_into(client, snapshot, folder, base, device="cpu", console=console)
    announced = {file.path: file.sha256 for file in snapshot.files if file.path in missing and file.path not in done}
    same = [file for file in listed if announced.get(file.path) == file.sha256]
    return [*done, *_take(same, places, folder)], bool(done)


def find_base(client: Client, snapshot: Snapshot, places: Sequence[Path], console: Console) -> Files | None:
    """Return the files of a snapshot's base, if they are in one of these places and have the right weights digest."""
    return _first_sound(_list_base(client, snapshot), _base_of(snapshot), places, None, console) if places else None


def _base_of(snapshot: Snapshot) -> str:
    return snapshot.recipe.base if snapshot.recipe is not None else snapshot.weights_digest


def _list_base(client: Client, snapshot: Snapshot) -> Sequence[File]:
    return (snapshot if snapshot.recipe is None else client.snapshot(snapshot.model, "base")).files


def _moves_less(client: Client, snapshot: Snapshot, folder: Path, missing: Sequence[str]) -> bool:
    """Say whether the patches that are not on this machine are smaller than the missing weights."""
    if snapshot.recipe is None:
        return False
    whole = bytes_to_come(wanted_files(snapshot, folder, [path for path in missing if is_weights(path)]))
    cost = 0
    try:
        for item in snapshot.recipe.patches:
            if not patch_file(item.sha256).is_file():
                patch = client.patch(snapshot.model, item.number, item.revision)
                cost += bytes_to_come([wanted_patch(patch, patch_file(item.sha256))])
    except (NotFound, Unauthenticated, Forbidden):  # patches that are no longer listed, or not for everybody
        return False
    return cost < whole


def _first_sound(
    listed: Sequence[File], digest: str, places: Sequence[Path], given: Path | None, console: Console
) -> Files | None:
    """Return the base's files of the first place that has all its weights, and these with their digest.

    A base in the cache that is damaged is removed from there. Why a place that a person gave is not used is told.
    """
    for place in places:
        files = _there(listed, place)
        weights: list[str] = []
        try:
            with open_checkpoint(files) as checkpoint, checked_base(checkpoint, digest) as known:
                weights += checkpoint.files
                with console.progress("verifying the base that is here") as progress:
                    held = digest if known else digest_checkpoint(checkpoint, progress)
                if held != digest:
                    raise BaseMismatch(f"{place} holds weights {held}, and not the base {digest}")
                return files
        except BaseMismatch as why:
            if place == given:
                console.note(f"{why}; it is not used.")
            elif place == cached_base(digest):  # nothing else would ever mend it
                for path in weights:
                    files[path].unlink(missing_ok=True)
                console.note(f"{why}: it was damaged, and is removed from the cache.")
        except InvalidInput as why:  # it is not complete
            if place == given:
                console.note(f"{place} is not used, since it does not have the weight files of the base: {why}")
    return None


def _there(listed: Sequence[File], place: Path) -> dict[str, Path]:
    """Return those of a base's files that a place has, by their paths, as far as sizes tell."""
    if not place.is_dir():
        return {place.name: place}
    targets = inside(place, [file.path for file in listed])
    pairs = zip(listed, targets, strict=True)
    return {file.path: target for file, target in pairs if target.is_file() and target.stat().st_size == file.size}


def compose_into(
    client: Client,
    snapshot: Snapshot,
    folder: Path,
    base: Files | Path | None,
    *,
    device: str,
    device_memory: int | None = None,
    console: Console,
) -> list[str]:
    """Compose a snapshot's weight files into a folder, where they appear once all are known to be the registry's.

    Args:
        client: The registry.
        snapshot: It must have a recipe.
        folder: Where it goes.
        base: The base; downloaded into the cache when None.
        device: auto, cpu or cuda.
        device_memory: Most bytes to use on a GPU.
        console: Where notes and progress go.

    Returns:
        Their paths.

    Raises:
        DigestMismatch: Other weights come out; none of them are kept.
        WrongState: The base has its weights in other files than the registry.
    """
    assert snapshot.recipe is not None
    announced = {file.path: file.sha256 for file in snapshot.files}
    with workplace(folder) as work:
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
                f"Composed here, {snapshot.model}@{snapshot.ref[:12]} has weights {composed.weights_digest}, but the "
                f"registry says {snapshot.weights_digest}; nothing was kept. One of the two is wrong: tell the "
                "operator."
            )
        if any(announced.get(path) != file.sha256 for path, file in composed.files.items()):
            raise WrongState(other_files(snapshot.model, base))
        if isinstance(base, Mapping):
            root = folder.resolve()
            own = {path: file for path, file in base.items() if file.resolve().is_relative_to(root)}
            kept = {path: file for path, file in own.items() if path in composed.files or describes_weights(path)}
            keep_base(snapshot.recipe.base, kept)
        move_in(work, folder, composed.files)
    return list(composed.files)


def _take(files: Sequence[File], places: Sequence[Path], folder: Path) -> list[str]:
    """Copy files of the base from where they are into a folder, each verified; return the paths of those that were."""
    if not files:
        return []
    wanted = {file.path: file for file in files}
    with workplace(folder) as work:
        for place in filter(Path.is_dir, places):
            for path, source in _there(list(wanted.values()), place).items():
                (work / path).parent.mkdir(parents=True, exist_ok=True)
                with new_files([work / path]) as (copy,):
                    sha256 = copy_hashed(source, copy)
                if sha256 == wanted[path].sha256:
                    del wanted[path]
        taken = [file.path for file in files if file.path not in wanted]
        move_in(work, folder, taken)
    return taken
