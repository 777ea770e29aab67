"""Verifying: files are fetched and hashed, bases and patches read by the same processes that read those of users here.

    document ── fetch: size and sha256 of each file ── look into: base, new patches ── signatures ──> imports.apply

A file becomes a blob as soon as it is whole, leased for a day, so that an interrupted mirror goes on where it was.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import structlog

from registry.db.tables import BaseFile, Model, Release, RevisionFile
from registry.documents.signing.bundles import require_key, require_signs, verify_manifest
from registry.errors import BreadcrumbError, DigestMismatch, InvalidRequest, Unavailable
from registry.files.folders import concerns_weights
from registry.outside.primary import Primary
from registry.services.blobs import blobs
from registry.services.catalog import hub_bases, models
from registry.services.mirroring import files, imports
from registry.services.mirroring.carried import SEALED
from registry.services.mirroring.documents import Document
from registry.services.mirroring.imports import Contents
from registry.services.queue.jobs import Claim
from registry.settings import Settings
from registry.storage.cache import PART
from registry.storage.pieces import Beat
from registry.worker.runner import Runner, Stopped

log = structlog.get_logger()
NOBODY = cast("Claim", None)  # has a claim: this is no job, and no lease runs out


class Verifier(Runner):
    """Brings the files of documents here, and finds out what is in them."""

    primary: Primary

    def beating(self, claim: Claim, progress: Any = None) -> Beat:
        """Return what ends the work soon if this process is to end."""

        def beat() -> bool:
            if self.stopping.is_set():
                raise Stopped
            return True

        return beat

    def fetch(self, model: str, document: Document) -> None:
        """Have all files here that can be had; one that is here for others alone has to be sent all the same.

        Raises:
            DigestMismatch: The primary sends other bytes.
            StorageFull, StorageFailed, Unavailable: They do not come now.
        """
        wanted = {sha256: size for sha256, (size, place) in document.blobs.items() if place == "here"}
        with self.database.write() as session:
            present = files.granted(session, wanted)
        for sha256 in sorted(wanted.keys() - present):
            self.fetch_one(model, sha256, wanted[sha256])

    def fetch_one(self, model: str, sha256: str, size: int) -> None:
        """Fetch a file, and make it a blob; what is there of it from an earlier attempt is kept."""
        beat = self.beating(NOBODY)
        if size > self.settings.upload_bytes:
            raise InvalidRequest(f"The file {sha256} of {model} has {size} bytes, more than REGISTRY_UPLOAD_BYTES.")
        with self.cache.partial(f"mirror-{sha256}") as file:
            self.cache.make_room(size, f"a file of {model}")
            try:
                self.primary.download(model, sha256, size, file, beat)
            except DigestMismatch:
                self.cache.discard(f"mirror-{sha256}")
                raise
            staged = self.store.staging / f"mirror-{sha256}"
            with self.store.writing("a blob"):
                (self.cache.folder / f"mirror-{sha256}{PART}").replace(staged)
        self.store.send_ahead(staged, sha256, beat)
        with self.database.write() as session:
            blobs.register(session, self.store, staged, sha256, size)
            files.record_sent(session, sha256)
        log.info("mirror.file", model=model, sha256=sha256, bytes=size)

    def look_into(self, document: Document) -> Contents:
        """Read what is new: the base of a new model, and revisions that were not looked into here.

        Raises:
            DigestMismatch: The primary calls something checked that is not sound.
        """
        key = document.model["id"]
        with self.database.read() as session:
            known = session.get(Model, key)
            has_base = known is not None and models.count_tensors(session, known) > 0
            unread = imports.unread(session, document)
        base = None
        if not has_base and document.part.kind == "model":
            base = self.read_base(document)
        return Contents(base, {row["id"]: self.read_patch(document, row) for row in unread})

    def read_base(self, document: Document) -> dict[str, Any]:
        """Read the tensors of a base, as a job of an import does."""
        base = {row["path"]: row["sha256"] for row in document.of(BaseFile)}
        remote = [
            hub_bases.HubFile(path, document.blobs[sha256][0], sha256)
            for path, sha256 in base.items()
            if document.blobs[sha256][1] == "hub"
        ]
        with self.files_here(document.model["source"], remote, base):
            found: dict[str, Any] = self.look("import_base", "the base", files=self.readable(base))
        return found

    def read_patch(self, document: Document, row: dict[str, Any]) -> dict[str, Any]:
        """Check a patch against the base that is here, as a job of a check does."""
        with self.database.read() as session:
            model = session.get_one(Model, document.model["id"])
            tensors = [tensor[:3] for tensor in models.base_tensors(session, model)]
            base = {file.path: file.sha256 for file in models.base_files(session, model)}
            remote = hub_bases.remote(session, model)
        beside = {
            file["path"]: file["sha256"] for file in document.of(RevisionFile) if file["revision_id"] == row["id"]
        }
        if missing := set(beside.values()) - document.blobs.keys():
            raise Unavailable(f"The primary does not send the file {min(missing)} of a patch now.")
        if row["base_digest"] != model.base_digest:
            raise DigestMismatch(f"The patch {row['sha256']} is for another base than {model.full_name}.")
        with self.files_here(model.source, remote, base, [row["sha256"], *beside.values()]):
            found: dict[str, Any] = self.look(
                "check_patch",
                f"the patch {row['sha256']} of {model.full_name}",
                path=str(self.store.path(row["sha256"])),
                sha256=row["sha256"],
                base=model.base_digest,
                tensors=tensors,
                files=self.readable(base),
                beside={path: self.pair(sha256, base.get(path)) for path, sha256 in beside.items()},
            )
        return found

    @contextmanager
    def files_here(
        self,
        source: str | None,
        remote: Collection[hub_bases.HubFile],
        paths: dict[str, str],
        others: Collection[str] = (),
    ) -> Iterator[None]:
        """Have files on this machine for a while; those of a base by reference come from the Hub."""
        elsewhere = {file.name for file in remote}
        stored = {sha256 for path, sha256 in paths.items() if concerns_weights(path)} - elsewhere
        with self.fetched(NOBODY, source or "", list(remote), mirrored=True), ExitStack() as stack:
            self.store.hold(stack, {*stored, *others}, self.beating(NOBODY))
            yield

    def look(self, task: str, what: str, **arguments: Any) -> Any:
        """Run a task in a process of its own.

        Raises:
            DigestMismatch: What it reads is not sound, though the primary says so.
        """
        try:
            return self.in_sandbox(NOBODY, f"registry.sandboxes.tasks:{task}", **arguments)
        except BreadcrumbError as why:
            if isinstance(why, ValueError):  # a rule of the input is broken
                raise DigestMismatch(f"The primary calls {what} sound, and here it is refused: {why}") from why
            raise

    def require_keys(self) -> None:
        """Refuse keys of the settings that cannot be used, before anything is signed by them.

        Raises:
            InvalidRequest: A key is not there, or is not one.
            MissingExtra: The extra `sign` is not installed.
        """
        for key in keys_of(self.settings):
            require_key(key)

    def check_signatures(self, document: Document) -> Document:
        """Hold the signatures of releases to their manifests, and to the keys of the settings, if there are any.

        Returns:
            The document; if there are keys, it leaves out releases that nobody has signed yet.

        Raises:
            DigestMismatch, InvalidRequest: One is of another manifest, or by no such key.
        """
        published = [row for row in document.of(Release) if row["state"] in SEALED]
        for row in published:
            if row["signature"] is not None:
                verify(row["manifest"] or "", row["signature"], self.settings)
        if not self.settings.mirror_keys:
            return document
        return replace(document, unsigned=frozenset(row["id"] for row in published if row["signature"] is None))


def verify(manifest: str, signature: str, settings: Settings) -> None:
    """Refuse a signature that is not of a manifest, or by none of the keys of the settings, if there are any."""
    raw, refusals = manifest.encode(), list[BreadcrumbError]()
    require_signs(raw, signature)
    for key in keys_of(settings):
        try:
            verify_manifest(raw, signature, key)
            return
        except DigestMismatch as why:
            refusals.append(why)
    if refusals:
        raise DigestMismatch(f"No key of REGISTRY_MIRROR_KEYS made the signature: {refusals[-1]}", field="signature")


def keys_of(settings: Settings) -> list[Path]:
    """Return the keys by which signatures have to be made; none if any will do."""
    return [Path(key) for key in settings.mirror_keys.split(":") if key]
