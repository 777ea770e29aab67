"""Parts of uploads on a disk: one staging file for each upload, with every part at its place."""

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.errors import WrongState
from registry.files.durable import sync_folder
from registry.files.hashing import hash_file
from registry.storage.folder import DataFolder
from registry.storage.parts import Announced, Slot, being_completed
from registry.storage.pieces import CHUNK

COMPLETE_SECONDS = 5.0  # that completing waits for parts in flight
ENDED = "This upload was completed or cancelled just now; ask for its state."


@dataclass(frozen=True)
class DiskParts:
    """The parts in a data folder; `find` returns the path of a blob, whether or not it exists."""

    folder: DataFolder
    find: Callable[[str], Path]

    def slot(self, upload_id: uuid.UUID, offset: int, size: int, stored: str | None) -> Slot:
        """Return the part's place in the staging file."""
        return Slot(staging_path(self.folder, upload_id), offset, size, stored)

    def keep(self, upload_id: uuid.UUID, number: int, slot: Slot, sha256: str) -> None:
        """Do nothing: the staging file is durable."""

    @contextmanager
    def completing(self, upload: Announced) -> Iterator[list[int]]:
        """Hash the staging file; no part is written until this is left."""
        path = staging_path(self.folder, upload.id)
        create_staging(self.folder, path)
        with staging(self.folder, path, alone=True):
            yield self.verify(upload, path)

    def verify(self, upload: Announced, path: Path) -> list[int]:
        """Return the numbers of damaged parts of a staging file, none if the whole is right."""
        blob = self.find(upload.sha256)
        if path.stat().st_size != upload.size and blob.is_file():
            # A process was killed between renaming the bytes into place and recording that.
            return [] if hash_file(blob) == upload.sha256 else sorted(upload.digests)
        whole, wrong = hashlib.sha256(), []
        with path.open("rb") as file:
            for number in sorted(upload.digests):
                part, left = hashlib.sha256(), min(upload.part_size, upload.size - number * upload.part_size)
                while left and (chunk := file.read(min(CHUNK, left))):
                    part.update(chunk)
                    whole.update(chunk)
                    left -= len(chunk)
                if part.hexdigest() != upload.digests[number]:
                    wrong.append(number)
        return upload.damaged(wrong, whole.hexdigest())

    def completed(self, upload_id: uuid.UUID) -> Path:
        """Return the staging file."""
        return staging_path(self.folder, upload_id)

    def discard(self, upload_id: uuid.UUID) -> None:
        """Delete the staging file."""
        staging_path(self.folder, upload_id).unlink(missing_ok=True)

    def collect(self, find_open: Callable[[], set[uuid.UUID]]) -> int:
        """Do nothing: staging files without a session are collected as all that was abandoned there."""
        return 0


def staging_path(folder: DataFolder, upload_id: uuid.UUID) -> Path:
    """Return the file that holds the parts of an upload."""
    return folder.staging / f"upload-{upload_id.hex}"


def create_staging(folder: DataFolder, path: Path) -> None:
    """Create a staging file, its name durable, if it does not exist."""
    with folder.writing("an upload"):
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            sync_folder(path.parent)


@contextmanager
def staging(folder: DataFolder, path: Path, *, alone: bool = False) -> Iterator[int]:
    """Open a staging file for a while: shared with other parts, or exclusively (`alone`) to complete it.

    Nobody completes an upload while a part is being written, and the other way round: a descriptor that was open for
    writing when the file became a blob could change the blob.

    Raises:
        WrongState: The other kind of access is under way (completing waits briefly for parts), or the upload has ended.
    """
    with folder.writing("an upload"):
        try:
            handle = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            raise WrongState(ENDED) from None
    try:
        deadline = time.monotonic() + (COMPLETE_SECONDS if alone else 0)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_NB | (fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    if not alone:
                        raise being_completed() from None
                    raise WrongState(
                        "This upload is still being sent by another request; try again in a moment."
                    ) from None
                time.sleep(0.02)
        try:
            same = path.stat().st_ino == os.fstat(handle).st_ino
        except FileNotFoundError:
            same = False
        if not same:
            raise WrongState(ENDED)
        yield handle
    finally:
        os.close(handle)
