"""What a user fetches: a snapshot's files, verified; or base and patches, composed here; and the proof of either."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.actions.transfers import download_patch, download_snapshot
from client.api.client import Client
from client.machine.config import cache
from client.machine.folders import (
    OWN,
    Source,
    check_folder,
    check_target,
    digest_weights,
    inside,
    read_source,
    strays,
    weight_files,
    write_source,
)
from client.machine.locks import locked
from client.terminal.addresses import is_digest, is_version
from client.terminal.console import Console, plain
from registry.errors import (
    BreadcrumbError,
    DigestMismatch,
    InvalidCheckpoint,
    InvalidRequest,
    NotFound,
    StorageFull,
    WrongState,
)
from registry.files.durable import storage_error
from registry.files.folders import INDEX
from registry.files.hashing import hash_file
from registry.schemas import File, RecipeItem, Snapshot

if TYPE_CHECKING:
    from registry.breadcrumbs.composing.compose import Composed
    from registry.breadcrumbs.formats.checkpoint import Checkpoint
    from registry.breadcrumbs.formats.patchfile import Patch

QUIET = Console(quiet=True)
CARD = "README.md"  # the one file that a composition here writes in other words than the registry


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found in a folder, against what the registry says.

    Args:
        expected: The snapshot's weights digest.
        found: That of the folder; None when its weights cannot be read.
        recomposed: That of the recipe composed here, when it was asked for.
        different: Files of the snapshot that are missing or have other bytes, weights that are the same apart.
        strays: Files beside them that may change what from_pretrained loads.
        signed: Whether the release's signature is by the key that was given; None without a key.
    """

    expected: str
    found: str | None
    recomposed: str | None
    different: list[str]
    strays: list[str]
    signed: bool | None = None

    @property
    def ok(self) -> bool:
        """Whether all agree."""
        same = self.found == self.expected and self.recomposed in (None, self.expected)
        return same and not self.different and not self.strays and self.signed is not False


def pull(client: Client, model: str, ref: str, folder: Path, *, console: Console = QUIET) -> Snapshot:
    """Download a snapshot into a folder, every byte verified; a pull that was killed goes on.

    Raises:
        WrongState: Something that no pull brought is where a file must go.
        DigestMismatch: The weights are not those that the registry names.
    """
    snapshot = find_snapshot(client, model, ref, console)
    with _pulling(snapshot, folder, console) as wanted, console.progress(f"pulling {model}") as progress:
        _check_room(folder, snapshot.files)
        download_snapshot(client, snapshot, folder, paths=wanted, progress=progress)
    return snapshot  # _pulling has seen that its weights are those it names


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
    """Fetch base and patches, compose them here, and see that the same weights come out as at the registry.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: A recipe digest or a unique prefix; `base` has no recipe.
        folder: Where the model is to be.
        base: A local copy of the base, which is verified; it is downloaded into the cache when None.
        device: auto, cpu or cuda.
        device_memory: Most bytes to use on a GPU; see `compose`.
        console: Where notes and progress go.

    Raises:
        DigestMismatch: Other weights come out; none of them are kept.
    """
    snapshot = find_snapshot(client, model, ref, console)
    if snapshot.recipe is None:
        raise InvalidRequest(f"{model}@{ref} is the base and has no patches; leave out --as-patches.", field="ref")
    sent = {file.path: file.sha256 for file in snapshot.files}
    with _pulling(snapshot, folder, console) as wanted:
        work = folder / OWN / "composing"
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
            if any(sent.get(path) != file.sha256 for path, file in composed.files.items()):
                raise WrongState(_other_layout(model, base))
            for path, target in zip(composed.files, inside(folder, list(composed.files)), strict=True):
                (work / path).replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        rest = [path for path in wanted if path not in composed.files]
        with console.progress(f"pulling the rest of {model}") as progress:
            download_snapshot(client, snapshot, folder, paths=rest, progress=progress)
    return snapshot


def compose_here(
    client: Client,
    snapshot: Snapshot,
    out: Path,
    *,
    base: Path | None = None,
    device: str = "auto",
    device_memory: int | None = None,
    same_files: bool = False,
    console: Console = QUIET,
) -> "Composed":
    """Compose a snapshot's weight files into the empty folder `out` from base and patches, all of them verified.

    With `same_files` a base in other weight files than the registry's is refused before anything is computed, and
    what is written is hashed by files, too.
    """
    from registry.breadcrumbs.composing.compose import compose
    from registry.breadcrumbs.formats.checkpoint import open_checkpoint
    from registry.breadcrumbs.formats.recipe import make_recipe

    recipe = snapshot.recipe
    assert recipe is not None
    made = make_recipe(recipe.base, recipe.alpha, [(item.sha256, item.weight) for item in recipe.patches])
    with open_checkpoint(base or fetch_base(client, snapshot.model, recipe.base, console=console)) as checkpoint:
        if same_files and not checkpoint.files.keys() <= {file.path for file in snapshot.files}:
            raise WrongState(_other_layout(snapshot.model, base))  # before the patches travel
        entry = open_patches(client, snapshot.model, recipe.patches, recipe.base, checkpoint, console=console)
        with entry as patches, console.progress("composing") as progress:
            return compose(  # checks the base as it reads it
                checkpoint,
                patches,
                made,
                out,
                device,
                progress,
                file_digests=same_files,
                device_memory=device_memory,
            )


@contextlib.contextmanager
def open_patches(
    client: Client,
    model: str,
    items: Iterable[RecipeItem],
    digest: str,
    base: "Checkpoint",
    *,
    console: Console = QUIET,
) -> Iterator[dict[str, "Patch"]]:
    """Fetch patches into the cache, check them against the base of this weights digest, and open them by sha256."""
    from registry.breadcrumbs.checking.check import check_patches
    from registry.breadcrumbs.formats.patchfile import open_patch

    files = _fetch_patches(client, model, items, console)
    with console.progress("checking patches") as progress:
        check_patches(list(files.values()), digest, base.tensors, progress)
    with contextlib.ExitStack() as stack:
        yield {sha256: stack.enter_context(open_patch(path)) for sha256, path in files.items()}


@contextlib.contextmanager
def open_cached(
    client: Client, model: str, digest: str, items: Iterable[RecipeItem], *, console: Console = QUIET
) -> Iterator[tuple[dict[str, Path], "Checkpoint", dict[str, "Patch"]]]:
    """Fetch a base and patches into the cache and open them: the base's files, its weights, the patches by sha256.

    Files are verified, but not that the base's weights have this digest.
    """
    from registry.breadcrumbs.formats.checkpoint import open_checkpoint

    files = fetch_base(client, model, digest, console=console)
    with (
        open_checkpoint(files) as base,
        open_patches(client, model, items, digest, base, console=console) as patches,
    ):
        yield files, base, patches


def verify(
    client: Client,
    folder: Path,
    model: str,
    ref: str,
    *,
    recompose: bool = False,
    base: Path | None = None,
    key: Path | None = None,
    console: Console = QUIET,
) -> Proof:
    """Compare a folder with a snapshot: weights, every other file but the card, and what else may be loaded.

    With `recompose` the recipe is composed anew here, too, and a maintainer's registry is told what came out. With
    `key`, the signature over the release's manifest is checked, and the files are held to that manifest.
    """
    snapshot = find_snapshot(client, model, ref, console)
    if recompose and snapshot.recipe is None:
        raise InvalidRequest(f"{model}@{ref} is the base and has no recipe; leave out --recompose.", field="ref")
    paths = [file.path for file in snapshot.files]
    files = {path: file for path, file in zip(paths, inside(folder, paths), strict=True) if file.is_file()}
    top = {file.name: file for file in folder.iterdir() if file.is_file()}
    found = recomposed = None
    with contextlib.suppress(InvalidCheckpoint), console.progress(f"verifying {folder}") as progress:
        found = digest_weights(top, progress)
    settled = {CARD}
    if found == snapshot.weights_digest:  # weights that are the same may be cut into other files
        settled |= {INDEX, *weight_files(top), *(path for path in paths if path.endswith(".safetensors"))}
    different = [
        file.path
        for file in snapshot.files
        if file.path not in settled and (file.path not in files or hash_file(files[file.path]) != file.sha256)
    ]
    if recompose:
        with tempfile.TemporaryDirectory(prefix="crumb-") as scratch:
            composed = compose_here(client, snapshot, Path(scratch), base=base, console=console)
            recomposed = composed.weights_digest
        assert snapshot.recipe is not None and recomposed is not None
        if client.model(model).role in ("maintainer", "owner", "admin"):
            client.report_build(model, snapshot.recipe.digest, recomposed, composed.device)
            console.note(f"{model} has been told what came out.")
    signed = None if key is None else signed_by(client, snapshot, key)
    return Proof(snapshot.weights_digest, found, recomposed, different, strays(folder, {*paths, *settled}), signed)


def recompose(client: Client, model: str, ref: str, *, console: Console = QUIET) -> str:
    """Compose a snapshot in a temporary folder, tell the registry what came out, and return its weights digest.

    Raises:
        DigestMismatch: Something else came out than the registry says; it has been told.
    """
    snapshot = find_snapshot(client, model, ref, console)
    if snapshot.recipe is None:
        raise InvalidRequest(f"{model}@{ref} is the base and has no recipe.", field="ref")
    with tempfile.TemporaryDirectory(prefix="crumb-") as scratch:
        composed = compose_here(client, snapshot, Path(scratch), console=console)
    assert composed.weights_digest is not None
    client.report_build(model, snapshot.recipe.digest, composed.weights_digest, composed.device)
    if composed.weights_digest != snapshot.weights_digest:
        raise DigestMismatch(
            f"Composed here, {model}@{ref} has weights {composed.weights_digest}, but the registry says "
            f"{snapshot.weights_digest}; it has been told, and nothing is published on this recipe."
        )
    return composed.weights_digest


def signed_by(client: Client, snapshot: Snapshot, key: Path) -> bool:
    """Say whether a release's manifest is signed by a key and is about the files that the registry names.

    Raises:
        InvalidRequest: It is no release, or the key cannot be read.
        NotFound: The release is not signed.
    """
    from client.machine.signatures import verify_manifest
    from registry.documents.manifest import read_manifest

    if snapshot.release is None:
        raise InvalidRequest(f"{snapshot.model}@{snapshot.ref} is no release; only releases are signed.", field="ref")
    raw, bundle = (
        client.manifest(snapshot.model, snapshot.release),
        client.signature(snapshot.model, snapshot.release),
    )
    try:
        verify_manifest(raw, bundle, key)
    except DigestMismatch:
        return False
    manifest = read_manifest(raw)
    files = {(file.path, file.sha256) for file in manifest.files}
    return (manifest.model, manifest.version, manifest.weights_digest, files) == (
        snapshot.model,
        snapshot.release,
        snapshot.weights_digest,
        {(file.path, file.sha256) for file in snapshot.files},
    )


def find_snapshot(client: Client, model: str, ref: str, console: Console = QUIET) -> Snapshot:
    """Return a snapshot, having seen that it is the one asked for and that its recipe has the digest it goes by.

    What the registry warns of is told.

    Raises:
        DigestMismatch: The registry answers with something else.
    """
    from registry.breadcrumbs.formats.recipe import make_recipe

    snapshot, recipe = client.snapshot(model, ref), None
    for warning in snapshot.warnings:
        console.note(f"Warning: {plain(warning)}")
    if snapshot.recipe is not None:
        items = [(item.sha256, item.weight) for item in snapshot.recipe.patches]
        recipe = make_recipe(snapshot.recipe.base, snapshot.recipe.alpha, items).digest
    due = snapshot.release or recipe or "base"  # what the answer must call itself
    asked = due.startswith(ref) if is_digest(ref) else due == ref or not (ref == "base" or is_version(ref))
    if snapshot.model != model or snapshot.ref != due or not asked:
        raise DigestMismatch(
            f"Asked for {model}@{ref}, the registry at {client.url} answers with {snapshot.model}@{snapshot.ref}, "
            f"whose recipe is {recipe or 'none'}; do not trust this snapshot, and tell the operator."
        )
    return snapshot


@contextlib.contextmanager
def _pulling(snapshot: Snapshot, folder: Path, console: Console) -> Iterator[list[str]]:
    """Note in the folder what is pulled into it, and yield the paths that it lacks; one pull at a time.

    When all went well and the weights are those that the snapshot names, what an earlier pull had beyond this one is
    removed.
    """
    files = {file.path: file.sha256 for file in snapshot.files}
    targets = dict(zip(files, inside(folder, list(files)), strict=True))
    check_folder(folder)
    with locked(folder, console):
        with console.progress("looking at what is there") as progress:
            wanted, stale = check_target(folder, files, progress)
        before = read_source(folder)
        both = {path: list(shas) for path, shas in before.files.items()} if before else {}
        for path, sha256 in files.items():
            both[path] = sorted({*both.get(path, ()), sha256})
        try:
            write_source(folder, Source(snapshot.model, snapshot.ref, snapshot.weights_digest, False, both))
            yield wanted
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
        console.note(f"Not of {snapshot.model}, but from_pretrained may load it: {', '.join(others[:5])} in {folder}.")


def _check_weights(snapshot: Snapshot, folder: Path, files: Mapping[str, Path], console: Console) -> None:
    with console.progress("verifying the weights") as progress:
        found = digest_weights(files, progress)
    if found != snapshot.weights_digest:
        raise DigestMismatch(
            f"The files of {snapshot.model}@{snapshot.ref[:12]} came as announced, but their weights are {found}, and "
            f"the registry says {snapshot.weights_digest}; do not use {folder}, and tell the operator."
        )


def _sweep(folder: Path, paths: Sequence[str]) -> None:
    """Remove what pulls into this folder left behind when they were killed."""
    shutil.rmtree(folder / OWN / "composing", ignore_errors=True)
    for own in {(folder / path).parent / OWN for path in paths}:
        for partial in own.glob("*.part"):
            partial.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            own.rmdir()  # only when it is empty


def _other_layout(model: str, base: Path | None) -> str:
    return (
        f"{base or 'The base'} holds the weights in other files than the base of {model} at the registry does; leave "
        f"out --base, or take `crumb pull {model}@base` for it."
    )


def fetch_base(client: Client, model: str, digest: str, *, console: Console = QUIET) -> dict[str, Path]:
    """Fetch all files of a model's base into the cache and return them: path in the folder -> file."""
    folder = cache() / "bases" / digest.removeprefix("sha256:")
    snapshot = client.snapshot(model, "base")
    with locked(folder, console), console.progress(f"fetching the base of {model}") as progress:
        _check_room(folder, snapshot.files)
        download_snapshot(client, snapshot, folder, progress=progress)
    # Another registry may have brought the same weights in other files: those of this one alone are opened.
    paths = [file.path for file in snapshot.files]
    return dict(zip(paths, inside(folder, paths), strict=True))


def _fetch_patches(client: Client, model: str, items: Iterable[RecipeItem], console: Console) -> dict[str, Path]:
    found = {}
    for item in items:
        if item.number == 0:
            raise NotFound(f"Patch {item.sha256} is no longer listed in {model}, and cannot be fetched.")
        patch = client.patch(model, item.number, item.revision)
        if patch.sha256 != item.sha256:
            raise DigestMismatch(f"{model}#{item.number} is {patch.sha256} now, but the recipe needs {item.sha256}.")
        found[item.sha256] = cache() / "patches" / f"{item.sha256}.safetensors"
        entry = locked(found[item.sha256].parent, console, f"{item.sha256}.lock")
        with entry, console.progress(f"fetching patch #{item.number}") as progress:
            download_patch(client, patch, found[item.sha256], progress=progress)
    return found


def _check_room(folder: Path, files: Sequence[File]) -> None:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    there = sum((folder / file.path).stat().st_size for file in files if (folder / file.path).is_file())
    need, free = sum(file.size for file in files) - there, shutil.disk_usage(place).free
    if need > free:
        raise StorageFull(f"{folder} needs {need} more bytes, but only {free} are free there.")
