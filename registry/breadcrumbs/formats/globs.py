"""Globs of tensor names, kept to what every version of every shell and library reads alike.

    *       any characters, dots and slashes too; also none
    ?       one character
    [abc]   one of these; [a-z] one of a range; [!abc] one that is none of these; [[] a bracket

Everything else stands for itself. Recipes hold globs, so what one matches must never change.
"""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from registry.breadcrumbs.formats.header import show
from registry.errors import InvalidRecipe

LONGEST = 200
"""Most characters of a glob."""

_PLAIN = r"[^\]\[\\^!&~|\x00-\x1f-]"
_CLASS = re.compile(rf"\[(?:\[|!?(?:{_PLAIN}-{_PLAIN}|{_PLAIN})+)\]")
_RANGE = re.compile(rf"({_PLAIN})-({_PLAIN})")


def check_glob(glob: str, field: str) -> str:
    """Return a glob as it is.

    Raises:
        InvalidRecipe: It is empty, too long, or has a bracket that does not belong to a class as above.
    """
    rest = _CLASS.sub("", glob)
    ranges = [pair for found in _CLASS.findall(glob) for pair in _RANGE.findall(found)]
    if not 0 < len(glob) <= LONGEST or "[" in rest or any(first > last for first, last in ranges):
        raise InvalidRecipe(
            f"{show(glob)} is not a glob of at most {LONGEST} characters; write * and ? as a shell has them, and "
            "[a-z] for one character of a few.",
            field=field,
        )
    return glob


def require_matches(globs: Iterable[str], names: Collection[str], subject: str, command: str) -> None:
    """Refuse globs that match none of the tensors that a patch changes, since they are a mistake.

    Args:
        globs: The globs.
        names: Of the tensors.
        subject: What the message calls the patch.
        command: Lists its tensors.

    Raises:
        InvalidRecipe: A glob matches none.
    """
    for glob in globs:
        if not any(matches(glob, name) for name in names):
            raise InvalidRecipe(
                f"{subject} changes no tensor that matches {glob!r}; `{command}` lists those that it does.",
                field="where",
            )


def is_name(glob: str) -> bool:
    """Return whether a glob stands for one name, itself."""
    return not any(special in glob for special in "*?[")


def matches(glob: str, name: str) -> bool:
    """Return whether a glob matches the whole of a name; capitals count."""
    return fnmatchcase(name, glob)
