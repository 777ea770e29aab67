"""Placing: blobs from one store into another, on disk or in a bucket, verified on the way; done again, it goes on."""

import errno
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from registry.db.tables import Blob
from registry.errors import DigestMismatch, NotFound
from registry.files.durable import sync_folder
from registry.storage.pieces import CHUNK
from registry.storage.store import Store

NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)


@dataclass
class Placed:
    """The blobs that were placed in a folder: how many were there before, linked and copied, and what was wrong."""

    kept: int = 0
    linked: int = 0
    copied: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)

    def __add__(self, other: "Placed") -> "Placed":
        return Placed(
            self.kept + other.kept,
            self.linked + other.linked,
            self.copied + other.copied,
            self.bytes + other.bytes,
            self.problems + other.problems,
            self.lacking + other.lacking,
        )

    @property
    def blobs(self) -> int:
        """How many blobs are there now."""
        return self.kept + self.linked + self.copied

    def lack(self, sha256: str, target: Store) -> None:
        """Note a blob that could not be placed."""
        self.lacking.append(sha256)
        self.problems.append(f"The blob {sha256} is damaged or missing, so it is not in {target.where}.")


def place(source: Store, target: Store, blobs: Mapping[str, Blob], *, hashed: bool = False) -> Placed:
    """Bring blobs from one store to another, durably; what is there stays, unless it should be a link and is none.

    Args:
        source: Has the blobs.
        target: Gets them.
        blobs: Their rows, by digest.
        hashed: Whether what is on the disk of the target stays only if it hashes right, and not by its size alone.

    Raises:
        StorageFull, StorageFailed: A disk or a bucket failed; what is there by then stays.
    """
    if "bucket" in (source.kind, target.kind):
        return carry(source, target, blobs, hashed=hashed)
    placed, parents, linking = Placed(), set[Path](), is_same_disk(source.root, target.root)
    for partial in (target.root / "blobs").glob("partial-*"):
        partial.unlink()
    for sha256, blob in blobs.items():
        path, goal = source.path(sha256), target.path(sha256)
        sound = blob.damaged_at is None and source.holds(sha256, blob.size)
        placed.bytes += blob.size
        if target.holds(sha256, blob.size) and not (sound and linking and not goal.samefile(path)):
            placed.kept += 1
            continue
        goal.parent.mkdir(parents=True, exist_ok=True)
        parents |= {goal.parent, *goal.parent.parents[:3]}
        partial = goal.parents[3] / f"partial-{sha256}"
        if sound and linking and (linking := link(path, partial)):
            placed.linked += 1
        elif sound and copy(path, partial, sha256):
            placed.copied += 1
        else:
            placed.lack(sha256, target)
            continue
        partial.rename(goal)
    for parent in sorted(parents):
        sync_folder(parent)
    return placed


def carry(source: Store, target: Store, blobs: Mapping[str, Blob], *, hashed: bool) -> Placed:
    """Bring blobs to or from a bucket; what is there stays, unless the row says that it is damaged."""
    there = target.has if hashed else lambda sha256, size: target.size(sha256) == size
    placed = Placed()
    target.staging.mkdir(exist_ok=True)
    for sha256, blob in blobs.items():
        placed.bytes += blob.size
        try:
            if blob.damaged_at is None and there(sha256, blob.size):
                placed.kept += 1
            else:
                target.take(sha256, blob.size, source.chunks(sha256))
                placed.copied += 1
        except (DigestMismatch, NotFound):
            placed.lack(sha256, target)
    return placed


def is_same_disk(first: Path, second: Path) -> bool:
    """Say whether two folders are on one file system, so that files of one can be linked into the other."""
    return first.stat().st_dev == second.stat().st_dev


def link(path: Path, goal: Path) -> bool:
    """Link a file; return whether the file system allows it."""
    try:
        os.link(path, goal)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return False
    return True


def copy(path: Path, goal: Path, sha256: str) -> bool:
    """Copy a blob, durably; return whether its bytes are the right ones, without which no copy stays."""
    hasher = hashlib.sha256()
    with path.open("rb") as source, goal.open("wb") as target:
        while chunk := source.read(CHUNK):
            hasher.update(chunk)
            target.write(chunk)
        target.flush()
        os.fchmod(target.fileno(), 0o444)
        os.fsync(target.fileno())
    if hasher.hexdigest() == sha256:
        return True
    goal.unlink()
    return False
