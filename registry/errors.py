"""Errors: every one that a person can meet, on either side of the wire.

    BreadcrumbError
    ├── InvalidInput (ValueError)      the input breaks a rule
    │   ├── InvalidRequest             a field of a request or an option of a command
    │   ├── InvalidCheckpoint          a checkpoint that is not sound safetensors, or holds NaN or Inf
    │   ├── CheckpointMismatch         a base and a tuned checkpoint that do not fit together
    │   ├── InvalidPatch               a patch or delta file that breaks a rule of the format
    │   ├── InvalidRecipe              a recipe that cannot be composed
    │   ├── BaseMismatch               a patch or delta made for another model
    │   └── DigestMismatch             bytes that do not hash to their digest
    ├── TooLarge (ValueError)          more bytes than a stated limit
    ├── RangeNotSatisfiable (ValueError)
    ├── PreconditionFailed             what the caller has seen is not what is there
    ├── NotFound (LookupError)         nothing by that name that the caller may see
    │   ├── RevisionNotFound           the model exists, but has nothing by that ref
    │   │   └── NotComposed            a recipe that has to be composed first
    │   └── EntryNotFound              the revision exists, but has no file of that name
    ├── WrongState                     the subject is in a state that does not allow this
    │   ├── NotCompared                patches that have to be compared with each other first
    │   └── HistoryChanged             the registry that is mirrored has another past than before
    ├── Unauthenticated (PermissionError)
    ├── Forbidden (PermissionError)
    ├── TooMany                        too many at once; try again later
    ├── TimedOut (TimeoutError)        the bytes arrived too slowly
    ├── NotFinite (ArithmeticError)    a composition that overflows
    ├── JobFailed (RuntimeError)       the job ended without a result
    ├── JobCancelled (RuntimeError)
    ├── StorageFull (OSError)          no room for the bytes
    ├── StorageFailed (OSError)        the disk did not take the bytes, or lost some
    │   └── BlobDamaged                the file of a blob is missing, or holds other bytes
    ├── TooManyFiles (OSError)         more files open at once than the system allows this process
    ├── MissingExtra (ImportError)     a library of an extra is not installed
    └── Unavailable (ConnectionError)  the other side does not answer

No HTTP in here: server/errors.py maps each class to a status, client/api/http.py raises the class again.
A message is a whole sentence that names its subject and, where there is one, the next step.
"""

import re
from collections.abc import Sequence
from typing import ClassVar


class BreadcrumbError(Exception):
    """An error with one sentence for a person, and optionally the field that it is about.

    Args:
        message: A whole sentence.
        field: The request field, option, tensor or file entry at fault.
    """

    slug: ClassVar[str] = "error"

    def __init_subclass__(cls) -> None:
        if "slug" not in cls.__dict__:
            cls.slug = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return self.message


class InvalidInput(BreadcrumbError, ValueError):
    """The input breaks a rule."""


class InvalidRequest(InvalidInput):
    """A field of a request, or an option of a command, is out of bounds."""


class InvalidCheckpoint(InvalidInput):
    """A checkpoint is not sound safetensors, or holds NaN or Inf."""


class CheckpointMismatch(InvalidInput):
    """A base and a tuned checkpoint do not fit together."""


class InvalidPatch(InvalidInput):
    """A patch or delta file breaks a rule of the format."""


class InvalidRecipe(InvalidInput):
    """A recipe cannot be composed."""


class BaseMismatch(InvalidInput):
    """A patch or delta was made for another model."""


class DigestMismatch(InvalidInput):
    """Bytes do not hash to their digest."""


class TooLarge(BreadcrumbError, ValueError):
    """More bytes than a stated limit."""


class RangeNotSatisfiable(BreadcrumbError, ValueError):
    """The requested range or part lies outside a file or upload of `size` bytes."""

    def __init__(self, message: str, *, field: str | None = None, size: int = 0) -> None:
        super().__init__(message, field=field)
        self.size = size


class PreconditionFailed(BreadcrumbError):
    """What the caller has seen, and named in a condition, is not what is there."""


class NotFound(BreadcrumbError, LookupError):
    """The caller may see nothing by that name."""


class RevisionNotFound(NotFound):
    """The model exists, but has nothing by that ref."""


class NotComposed(RevisionNotFound):
    """The recipe is known, but has to be composed first."""


class EntryNotFound(NotFound):
    """The revision exists, but has no file of that name."""


class WrongState(BreadcrumbError):
    """The subject is in a state that does not allow this."""

    slug = "conflict"


class NotCompared(WrongState):
    """The patches have to be compared with each other first: alpha `auto` goes by how they overlap.

    Args:
        message: A whole sentence.
        field: The request field at fault.
        model: NS/NAME of their model.
        patches: Number and revision of each.
        job: The id of the job that compares them, once somebody has asked for it.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        model: str = "",
        patches: Sequence[tuple[int, int]] = (),
        job: str | None = None,
    ) -> None:
        super().__init__(message, field=field)
        self.model, self.patches, self.job = model, patches, job


class HistoryChanged(WrongState):
    """The registry that this one mirrors has another past than when it was taken over; a person has to look at it."""


class Unauthenticated(BreadcrumbError, PermissionError):
    """No valid token came with the request."""


class Forbidden(BreadcrumbError, PermissionError):
    """The token does not allow this."""


class TooMany(BreadcrumbError):
    """Too many at once; try again later, after `retry_after` seconds if the server knows."""

    def __init__(self, message: str, *, field: str | None = None, retry_after: int = 60) -> None:
        super().__init__(message, field=field)
        self.retry_after = retry_after


class TimedOut(BreadcrumbError, TimeoutError):
    """The bytes arrived too slowly."""


class NotFinite(BreadcrumbError, ArithmeticError):
    """A composition overflows where the base was finite."""


class JobFailed(BreadcrumbError, RuntimeError):
    """The job ended without a result."""


class JobCancelled(BreadcrumbError, RuntimeError):
    """The job was cancelled."""


class StorageFull(BreadcrumbError, OSError):
    """There is no room for the bytes."""


class StorageFailed(BreadcrumbError, OSError):
    """The disk did not take the bytes, or lost some."""


class BlobDamaged(StorageFailed):
    """The file of a blob is missing or holds other bytes; it is not served until it is repaired."""


class TooManyFiles(BreadcrumbError, OSError):
    """More files would have to be open at once than the system allows this process."""


class MissingExtra(BreadcrumbError, ImportError):
    """A library that one of the package's extras brings is not installed."""


class Unavailable(BreadcrumbError, ConnectionError):
    """The other side does not answer."""


def by_slug() -> dict[str, type[BreadcrumbError]]:
    """Return every error class by its slug."""
    classes: dict[str, type[BreadcrumbError]] = {}
    waiting: list[type[BreadcrumbError]] = [BreadcrumbError]
    while waiting:
        cls = waiting.pop()
        classes[cls.slug] = cls
        waiting += cls.__subclasses__()
    return classes
