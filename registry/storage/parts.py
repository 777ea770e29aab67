"""Parts of uploads, as every store takes them: written into a slot, kept, and completed to a blob."""

import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from registry.errors import WrongState


@dataclass(frozen=True)
class Announced:
    """An upload: the blob that it becomes, and the digests of its parts by their numbers, from 0; sizes in bytes."""

    id: uuid.UUID
    sha256: str
    size: int
    part_size: int
    digests: Mapping[int, str]

    def damaged(self, wrong: list[int], whole: str) -> list[int]:
        """Return the numbers of damaged parts, given those that are wrong and the digest of the whole.

        If every part is right but the whole is not, the announced digest is wrong: all parts count as damaged.
        """
        return wrong if wrong or whole == self.sha256 else sorted(self.digests)


@dataclass(frozen=True)
class Slot:
    """Where a part is written: `size` bytes at `offset` of `path`. `stored` is its digest if it was stored before.

    A file `apart` is the part's alone: it goes elsewhere, and away.
    """

    path: Path
    offset: int
    size: int
    stored: str | None
    apart: bool = False


class Parts(Protocol):
    """What a store does with parts."""

    def slot(self, upload_id: uuid.UUID, offset: int, size: int, stored: str | None) -> Slot:
        """Return where a part is written."""

    def keep(self, upload_id: uuid.UUID, number: int, slot: Slot, sha256: str) -> None:
        """Make a part durable that was written and whose bytes hash to `sha256`, where its file alone is not.

        Raises:
            StorageFailed: The bucket did not take it.
        """

    def completing(self, upload: Announced) -> AbstractContextManager[list[int]]:
        """Verify the bytes of an upload, and give the numbers of damaged parts; nobody else completes it meanwhile.

        Raises:
            WrongState: Parts are being sent, or somebody else completes it.
            StorageFailed: The bucket failed.
        """

    def completed(self, upload_id: uuid.UUID) -> Path | None:
        """Return the staged file that has the verified bytes; None if they are where the blobs are."""

    def discard(self, upload_id: uuid.UUID) -> None:
        """Delete what is staged of an upload that was cancelled."""

    def collect(self, find_open: Callable[[], set[uuid.UUID]]) -> int:
        """Delete parts of uploads that are not open any more, where nobody else does; return how many bytes.

        Args:
            find_open: Returns the uploads that take parts; called after the parts were listed.

        Raises:
            StorageFailed: The bucket failed.
        """


def being_completed() -> WrongState:
    """Return the error for an upload that another request completes."""
    return WrongState("This upload is being completed by another request; try again in a moment.")
