"""Pull: a snapshot's files into a folder, verified; downloaded, or composed here into the same files."""

from pathlib import Path

from client.actions.composing import patch_file
from client.actions.downloads import bytes_to_come
from client.actions.pulling.here import compose_into, find_base, places_of_base, reuse
from client.actions.pulling.target import bringing
from client.actions.results import PulledModel
from client.actions.snapshots import find_snapshot
from client.actions.transfers import download_snapshot, wanted_files
from client.api.client import Client
from client.machine.bases import note_pulled
from client.machine.folders import Source, check_room
from client.terminal.console import Console
from registry.errors import BreadcrumbError, InvalidRequest
from registry.schemas import Snapshot

QUIET = Console(quiet=True)


def pull(
    client: Client,
    model: str,
    ref: str,
    folder: Path,
    *,
    as_patches: bool | None = None,
    base: Path | None = None,
    device: str = "auto",
    device_memory: int | None = None,
    console: Console = QUIET,
    note: bool = True,
) -> PulledModel:
    """Bring a snapshot's files into a folder, every byte verified; a pull that was killed resumes.

    Where the base is on this machine, and the patches that are not are smaller than the weights, only these patches
    are moved, and the weights are composed here, to the same bytes.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: `main`, `base`, a version, a channel, a recipe digest or 8 or more of its first digits; or `#N[.R]`, the
            base with a patch alone, which is composed first if need be and you may ask for it.
        folder: It may hold an earlier pull, which is brought up to date; other files stay as they are.
        as_patches: True to compose here whatever has to be moved for that; False to download the files as they are.
        base: A local copy of the base, which is verified.
        device: With `as_patches`, auto, cpu or cuda; without, the CPU composes.
        device_memory: With `as_patches`, most bytes to use on a GPU.
        console: Where notes and progress go.
        note: Whether to note where a base is, for later pulls to find it.

    Raises:
        NotFound: There is no such model or snapshot.
        NotComposed: The patch alone is not composed yet, and you may not ask for it.
        WrongState: Something that no pull brought is where a file must go; or with `as_patches`, the local base has
            its weights in other files than the registry.
        DigestMismatch: The weights are not those that the registry names.
        StorageFull: The disk has no room for the files.
        InvalidRequest: The base was asked for `as_patches`.
    """
    snapshot = find_snapshot(client, model, ref, console)
    if as_patches and snapshot.recipe is None:
        raise InvalidRequest(f"{model}@{ref} is the base and has no patches; leave out --as-patches.", field="ref")
    files = {file.path: [file.sha256] for file in snapshot.files}
    before, here = client.connection.received.done, _count_patches(snapshot)
    places = places_of_base(snapshot, folder, base)
    with bringing(Source(model, snapshot.ref, snapshot.weights_digest, True, files), folder, console) as missing:
        whole = bytes_to_come(wanted_files(snapshot, folder, missing))
        done: list[str] = []
        composed = bool(as_patches)
        if as_patches:
            there = base or find_base(client, snapshot, places, console)
            done = compose_into(
                client, snapshot, folder, there, device=device, device_memory=device_memory, console=console
            )
        elif as_patches is None and missing:
            try:
                done, composed = reuse(client, snapshot, folder, missing, places, base, console)
            except Exception as why:  # whatever it is, the registry has the files
                words = str(why) if isinstance(why, BreadcrumbError) else f"{type(why).__name__}: {why}"
                console.note(f"What is on this machine could not be used, and everything is downloaded. {words}")
        check_room(folder, {file.path: file.size for file in snapshot.files})
        with console.progress(f"pulling {model}") as progress:
            rest = [path for path in missing if path not in done]
            download_snapshot(client, snapshot, folder, paths=rest, progress=progress)
    if note and snapshot.recipe is None:
        note_pulled(snapshot.weights_digest, folder)
    moved = client.connection.received.done - before
    return PulledModel(snapshot, folder, moved, max(0, whole - moved), here if composed else None)


def _count_patches(snapshot: Snapshot) -> int:
    """Return how many patches of a snapshot are in the cache."""
    items = snapshot.recipe.patches if snapshot.recipe is not None else []
    return sum(patch_file(item.sha256).is_file() for item in items)
