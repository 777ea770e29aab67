"""Files beside the weights as text: which differ, and in which keys."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from client.terminal.console import plain, size

if TYPE_CHECKING:
    from registry import schemas
    from registry.files.beside import KeyChange

SHOWN = 12  # keys of a file that are shown; --json has more


def file_lines(
    path: str, words: str, bytes_: int, keys: "Sequence[KeyChange | schemas.KeyChange]", more: int
) -> Iterator[str]:
    """Yield a line for a file, and one for each key that differs.

    Args:
        path: In the folder of the model.
        words: What is said of it, like `new`.
        bytes_: Its size.
        keys: Those that differ.
        more: How many other keys differ.
    """
    yield f"  {plain(path)}  {words}, {size(bytes_)}"
    for change in keys[:SHOWN]:
        yield f"    {plain(change.key)}: {_value(change.before)} -> {_value(change.after)}"
    if more := more + len(keys[SHOWN:]):
        yield f"    and {more} other keys"


def patch_panel(files: "Iterable[schemas.PatchFile] | None") -> str:
    """Return the panel of the files that came with a patch; empty if none did."""
    lines = (
        line for it in files or () for line in file_lines(it.path, it.sha256[:12], it.size, it.keys or (), it.more)
    )
    return panel("Beside the weights, for releases that take them:", lines)


def panel(head: str, lines: Iterable[str]) -> str:
    """Return a panel to stand below a command's fields; empty if there is nothing to show."""
    shown = "\n".join(lines)
    return f"\n\n{head}\n{shown}" if shown else ""


def _value(text: str | None) -> str:
    return "(missing)" if text is None else plain(text)
