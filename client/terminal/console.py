"""The console: a command's one result on stdout (text, or one JSON document), everything else on stderr.

Other people's words (titles, cards, tensor names) reach a terminal only without control characters.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.files.sizes import size as size

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.progress import Progress as Bars

PATIENCE = 1.0  # seconds before a progress bar appears


@dataclass(frozen=True, slots=True)
class Console:
    """The output of one run of a command: `json` for programs, `quiet` for scripts."""

    json: bool = False
    quiet: bool = False

    def result(
        self, document: "BaseModel | Mapping[str, Any] | Sequence[Any]", text: str, brief: str | None = None
    ) -> None:
        """Print the result.

        Args:
            document: Printed with --json.
            text: Printed for people.
            brief: Printed with -q, for scripts; the text if None.
        """
        if self.json:
            print(json.dumps(_plain_data(document), indent=1))
        elif self.quiet and brief is not None:
            if brief:
                print(brief)
        elif text:
            print(text)

    def note(self, text: str) -> None:
        """Print a note for a person, on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def idle(self) -> None:
        """Print a note that no worker has taken the job."""
        self.note("Still queued: no worker is free; is `crumb-server worker` running?")

    def failing(self, error: str) -> None:
        """Print a note that an attempt of a job failed, and that it is tried again."""
        self.note(f"An attempt failed and is tried again: {plain(error)}")

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Yield a callback for bytes done and bytes in all; a bar appears after a second."""
        with self._bar(label, in_bytes=True) as update:
            yield update

    @contextmanager
    def waiting(self, label: str) -> Iterator[Callable[[float], None]]:
        """Yield a callback for a number from 0 to 1; a bar appears after a second."""
        with self._bar(label, in_bytes=False) as update:
            yield lambda share: update(round(share * 1000), 1000)

    @contextmanager
    def _bar(self, label: str, *, in_bytes: bool) -> Iterator[Callable[[int, int], None]]:
        if self.quiet or not sys.stderr.isatty():
            yield lambda done, total: None
            return
        start = time.monotonic()
        lock = threading.Lock()
        shown: list[tuple[Bars, Any]] = []

        def update(done: int, total: int) -> None:
            with lock:
                if not shown and (time.monotonic() - start < PATIENCE or done >= total):
                    return
                if not shown:
                    bars = _bars(in_bytes)
                    bars.start()
                    shown.append((bars, bars.add_task(label, total=total)))
                bars, task = shown[0]
                bars.update(task, completed=done, total=total)

        try:
            yield update
        finally:
            for bars, _ in shown:
                bars.stop()


def _bars(in_bytes: bool) -> "Bars":
    from rich import progress
    from rich.console import Console as RichConsole

    columns: list[progress.ProgressColumn] = [
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
    ]
    if in_bytes:
        columns += [progress.DownloadColumn(), progress.TransferSpeedColumn()]
    else:
        columns += [progress.TaskProgressColumn(), progress.TimeElapsedColumn()]
    columns.append(progress.TimeRemainingColumn())
    return progress.Progress(*columns, console=RichConsole(stderr=True), transient=True)


def plain(text: str, *, lines: bool = False) -> str:
    """Return other people's words without control characters, and on one line unless `lines`."""
    kept = "".join(c if c.isprintable() or (lines and c in "\n\t") else " " for c in text)
    return kept if lines else " ".join(kept.split())


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return rows in aligned columns; `right` names the columns aligned to the right."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    )


def fields(pairs: Sequence[tuple[str, str]]) -> str:
    """Return names and values, one pair a line, values aligned."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in pairs)


def _plain_data(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_data(item) for item in value]
    return value
