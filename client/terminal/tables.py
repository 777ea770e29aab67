"""Growing tables: rows that come one after another while something long is done, on stderr.

On a terminal a last line tells how many rows there are, of how many, and what is being done; elsewhere each row is a
sentence. Rows are printed once and stay, so that what other programs print in between does no harm.
"""

import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

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
        self._console, self._heads, self._widths, self._total = console, heads, widths, total
        self._bars: Bars | None = None
        self._lock = threading.Lock()
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begin(self, text: str) -> None:
        """Say what is being done; any thread may."""
        if (bars := self._started()) is not None:
            bars.update(self._task, description=text)

    def add(self, cells: Sequence[str], sentence: str, best: bool = False) -> None:
        """Add a row, or note the sentence; a row that is the best until now stands out."""
        if (bars := self._started()) is None:
            self._console.note(sentence)
            return
        bars.update(self._task, advance=1)
        self._print(bars, cells, "green" if best else "")

    def _started(self) -> "Bars | None":
        """Return the bars, which appear when they are first needed; None where there is no terminal to see them."""
        with self._lock:
            if self._bars is None and not self._console.quiet and sys.stderr.isatty():
                self._bars = _bars()
                self._task = self._bars.add_task("", total=self._total)
                self._bars.start()
                self._print(self._bars, self._heads, "bold")
            return self._bars

    def _print(self, bars: "Bars", cells: Sequence[str], style: str) -> None:
        from rich.text import Text

        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)).rstrip()
        bars.console.print(Text(line, style), soft_wrap=True)


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
