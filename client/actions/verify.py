"""Verify: whether a folder holds the very files of a snapshot, whether a recipe gives its weights, who signed it."""

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from client.actions.composing import compose_here
from client.actions.snapshots import find_snapshot
from client.api.client import Client
from client.machine.folders import inside, read_source, strays
from client.terminal.cards import Card
from client.terminal.console import Console
from registry.breadcrumbs.formats.checkpoint import list_files
from registry.breadcrumbs.formats.digest import digest_files
from registry.breadcrumbs.formats.weight_files import find_weights
from registry.errors import DigestMismatch, InvalidCheckpoint, InvalidRequest, NotFound
from registry.files.beside import COMPANION
from registry.files.folders import is_index, is_weights
from registry.files.hashing import hash_file
from registry.schemas import Snapshot

QUIET = Console(quiet=True)
CARD = "README.md"  # the one file that a composition here writes in other words than the registry
MAINTAINERS = ("maintainer", "owner", "admin")


@dataclass(frozen=True, slots=True, repr=False)
class Proof(Card):
    """How a folder compares with the registry.

    Args:
        expected: The snapshot's weights digest.
        found: The folder's; None when its weights cannot be read.
        recomposed: The weights digest of the recipe composed here, when that was asked for.
        different: Files of the snapshot that are missing or have other bytes, apart from weights that are the same.
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
        """Whether everything agrees."""
        same = self.found == self.expected and self.recomposed in (None, self.expected)
        return same and not self.different and not self.strays and self.signed is not False

    def rows(self) -> list[tuple[str, str]]:
        """Return what `crumb verify` shows, and the verdict."""
        pairs = [("registry", self.expected), ("folder", self.found or "unreadable")]
        if self.recomposed is not None:
            pairs.append(("recomposed", self.recomposed))
        if self.signed is not None:
            pairs.append(("signature", "by the key" if self.signed else "NOT by the key, or not of these files"))
        pairs += [("different", path) for path in self.different]
        pairs += [("stray", f"{path}, not of this snapshot, may be loaded") for path in self.strays]
        return [*pairs, ("verdict", self.verdict)]

    @property
    def verdict(self) -> str:
        """One sentence on whether to use the folder."""
        if self.ok:
            return "The weights are the same, and so is every other file but README.md, which is not compared."
        if self.signed is False:
            return "The SIGNATURE does not hold; do not use this model as that release."
        what = "files" if self.found == self.expected else "weights"
        return f"The {what} DIFFER; do not use this model as that snapshot."


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
    """Compare a folder with a snapshot: weights, every other file but the card, and other files that may be loaded.

    Args:
        client: The registry.
        folder: The folder.
        model: NS/NAME.
        ref: As for `pull`.
        recompose: Whether to compose the recipe here, too. The registry is sent the digest that comes out if you are a
            maintainer of the model.
        base: With `recompose`, a local copy of the base.
        key: A public key, by which the release must be signed.
        console: Where notes and progress go.

    Raises:
        NotFound: There is no such folder or snapshot, or the release is not signed.
        InvalidRequest: `recompose` was asked for the base, or a key given for something that is not a release.
    """
    check_there(folder)
    snapshot = find_snapshot(client, model, ref, console)
    if recompose and snapshot.recipe is None:
        raise InvalidRequest(f"{model}@{ref} is the base and has no recipe; leave out --recompose.", field="ref")
    paths = [file.path for file in snapshot.files]
    files = {path: file for path, file in zip(paths, inside(folder, paths), strict=True) if file.is_file()}
    there = list_files(folder)
    digest = recomposed = None
    with contextlib.suppress(InvalidCheckpoint), console.progress(f"verifying {folder}") as progress:
        digest = digest_files(there, progress)
    settled = {CARD}
    if digest == snapshot.weights_digest:  # weights that are the same may be cut into other files
        weights = find_weights(there)
        cut = (path for path in paths if (is_weights(path) or is_index(path)) and path != COMPANION)
        settled |= {*weights.files, *weights.indexes, *cut}
    different = [
        file.path
        for file in snapshot.files
        if file.path not in settled and (file.path not in files or hash_file(files[file.path]) != file.sha256)
    ]
    if recompose:
        recomposed = _recompose(client, snapshot, base, console, report=client.model(model).role in MAINTAINERS)
    signed = None if key is None else signed_by(client, snapshot, key)
    return Proof(snapshot.weights_digest, digest, recomposed, different, strays(folder, {*paths, *settled}), signed)


def check_there(folder: Path) -> None:
    """Check that there is a folder to verify.

    Raises:
        NotFound: There is no such folder.
    """
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}.")


def pulled_from(folder: Path) -> str:
    """Return the snapshot that a folder was pulled from, NS/NAME@REF.

    Raises:
        NotFound: There is no such folder, or no pull made it.
    """
    check_there(folder)
    source = read_source(folder)
    if source is None or not source.model:
        raise NotFound(f"{folder} does not say what it was pulled from; name the snapshot: NS/NAME@REF.")
    return f"{source.model}@{source.ref}"


def recompose(client: Client, model: str, ref: str, *, console: Console = QUIET) -> str:
    """Compose a snapshot in a temporary folder, report its weights digest to the registry, and return it.

    Raises:
        InvalidRequest: The snapshot is the base.
        DigestMismatch: The weights differ from the registry's, which has been told so.
    """
    snapshot = find_snapshot(client, model, ref, console)
    if snapshot.recipe is None:
        raise InvalidRequest(f"{model}@{ref} is the base and has no recipe.", field="ref")
    digest = _recompose(client, snapshot, None, console, report=True)
    if digest != snapshot.weights_digest:
        raise DigestMismatch(
            f"Composed here, {model}@{ref} has weights {digest}, but the registry says {snapshot.weights_digest}; it "
            "has been told, and nothing is published on this recipe."
        )
    return digest


def signed_by(client: Client, snapshot: Snapshot, key: Path) -> bool:
    """Return whether a release's manifest is signed by a key and is about the files that the registry names.

    Raises:
        InvalidRequest: The snapshot is not a release, or the key cannot be read.
        NotFound: The release is not signed.
    """
    from registry.documents.manifest import read_manifest
    from registry.documents.signing.bundles import verify_manifest

    if snapshot.release is None:
        raise InvalidRequest(
            f"{snapshot.model}@{snapshot.ref} is not a release; only releases are signed.", field="ref"
        )
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


def _recompose(client: Client, snapshot: Snapshot, base: Path | None, console: Console, *, report: bool) -> str:
    """Compose a snapshot in a temporary folder and return its weights digest, which the registry may be sent."""
    with tempfile.TemporaryDirectory(prefix="crumb-") as scratch:
        composed = compose_here(client, snapshot, Path(scratch), base=base, anew=True, console=console)
    assert snapshot.recipe is not None and composed.weights_digest is not None
    if report:
        client.report_build(snapshot.model, snapshot.recipe.digest, composed.weights_digest, composed.device)
        console.note(f"The weights digest composed here was reported to {snapshot.model}.")
    return composed.weights_digest
