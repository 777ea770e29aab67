"""Every error a person can meet, on either side of the wire.

    BreadcrumbError
    ├── InvalidInput (ValueError)      what was given breaks a rule
    │   ├── InvalidRequest             a field of a request or an option of a command
    │   ├── InvalidCheckpoint          a checkpoint that is not sound safetensors, or holds NaN or Inf
    │   ├── CheckpointMismatch         base and tuned checkpoint do not fit together
    │   ├── InvalidPatch               a patch file that breaks a rule of the format
    │   ├── InvalidRecipe              a recipe that cannot be composed
    │   ├── BaseMismatch               a patch made for another base model
    │   └── DigestMismatch             bytes that are not the bytes their digest names
    ├── TooLarge (ValueError)          more bytes than a stated limit
    ├── RangeNotSatisfiable (ValueError)
    ├── NotFound (LookupError)         nothing by that name that you may see
    │   ├── RevisionNotFound           a model, and nothing of it by that reference
    │   │   └── NotComposed            a recipe that has to be composed first
    │   └── EntryNotFound              a revision, and no file of that name in it
    ├── WrongState                     the thing is in a state that forbids this
    ├── Unauthenticated (PermissionError)
    ├── Forbidden (PermissionError)
    ├── TooMany                        come back later
    ├── TimedOut (TimeoutError)        the bytes came too slowly
    ├── NotFinite (ArithmeticError)    a composition that overflows
    ├── JobFailed (RuntimeError)       the job ended without a result
    ├── JobCancelled (RuntimeError)
    ├── StorageFull (OSError)          no room for the bytes
    ├── StorageFailed (OSError)        the disk did not take the bytes, or lost some
    └── Unavailable (ConnectionError)  no registry answers there

No HTTP in here: server/errors.py maps each class to a status, client/api/http.py raises the class again.
A message is a whole sentence that names the thing and, where there is one, the next step.
"""

import re
from typing import ClassVar


class BreadcrumbError(Exception):
    """Carry one sentence for a person, and optionally the field it is about.

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
    """What was given breaks a rule."""


class InvalidRequest(InvalidInput):
    """A field of a request, or an option of a command, is out of bounds."""


class InvalidCheckpoint(InvalidInput):
    """A checkpoint is not sound safetensors, or holds NaN or Inf."""


class CheckpointMismatch(InvalidInput):
    """Base and tuned checkpoint do not fit together."""


class InvalidPatch(InvalidInput):
    """A patch file breaks a rule of the format."""


class InvalidRecipe(InvalidInput):
    """A recipe cannot be composed."""


class BaseMismatch(InvalidInput):
    """A patch was made for another base model."""


class DigestMismatch(InvalidInput):
    """Bytes are not the bytes that their digest names."""


class TooLarge(BreadcrumbError, ValueError):
    """More bytes than a stated limit."""


class RangeNotSatisfiable(BreadcrumbError, ValueError):
    """The requested range or part lies outside the thing, whose size is `size`."""

    def __init__(self, message: str, *, field: str | None = None, size: int = 0) -> None:
        super().__init__(message, field=field)
        self.size = size


class NotFound(BreadcrumbError, LookupError):
    """Nothing by that name that the caller may see."""


class RevisionNotFound(NotFound):
    """The model is there, and nothing of it by that reference."""


class NotComposed(RevisionNotFound):
    """The recipe is known, and has to be composed first."""


class EntryNotFound(NotFound):
    """The revision is there, and no file of that name in it."""


class WrongState(BreadcrumbError):
    """The thing is in a state that forbids this."""

    slug = "conflict"


class Unauthenticated(BreadcrumbError, PermissionError):
    """No valid token came with the request."""


class Forbidden(BreadcrumbError, PermissionError):
    """The token does not allow this."""


class TooMany(BreadcrumbError):
    """Too many at once; come back later, after `retry_after` seconds where the server can say."""

    def __init__(self, message: str, *, field: str | None = None, retry_after: int = 60) -> None:
        super().__init__(message, field=field)
        self.retry_after = retry_after


class TimedOut(BreadcrumbError, TimeoutError):
    """The bytes came too slowly."""


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


class Unavailable(BreadcrumbError, ConnectionError):
    """No registry answers at that address."""


def by_slug() -> dict[str, type[BreadcrumbError]]:
    """Return every error class by its slug."""
    found: dict[str, type[BreadcrumbError]] = {}
    waiting: list[type[BreadcrumbError]] = [BreadcrumbError]
    while waiting:
        cls = waiting.pop()
        found[cls.slug] = cls
        waiting += cls.__subclasses__()
    return found
