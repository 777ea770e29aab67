"""Growing tables: rows that come one after another while something long is done, on stderr.

On a terminal a last line tells how many rows there are, of how many, and what is being done; elsewhere each row is a
sentence. Rows are printed once and stay, so that what other programs print in between does no harm.
"""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from client.terminal.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


class GrowingTable:
    """A table whose rows come one after another; use it with `with`.

    Args:
        console: Where it goes; nowhere when it is quiet.
        heads: What is in the columns.
        widths: Their widths, in characters.
        total: Rows that there may be.
    """

    def __init__(self, console: Console, heads: Sequence[str], widths: Sequence[int], total: int) -> None:
        self._console, self._widths = console, widths
        self._bars: Bars | None = None
        if not console.quiet and sys.stderr.isatty():
            self._bars = _bars()
            self._task = self._bars.add_task("", total=total)
            self._print(heads, "bold")

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begin(self, text: str) -> None:
        """Say what is being done."""
        if self._bars is not None:
            self._bars.update(self._task, description=text)

    def add(self, cells: Sequence[str], sentence: str, best: bool = False) -> None:
        """Add a row, or note the sentence; a row that is the best until now stands out."""
        if self._bars is None:
            self._console.note(sentence)
            return
        self._bars.update(self._task, advance=1)
        self._print(cells, "green" if best else "")

    def _print(self, cells: Sequence[str], style: str) -> None:
        assert self._bars is not None
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)).rstrip()
        self._bars.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _bars() -> "Bars":
    from rich import progress
    from rich.console import Console as RichConsole
    from rich.table import Column

    return progress.Progress(
        progress.SpinnerColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        console=RichConsole(stderr=True),
        transient=True,
    )
