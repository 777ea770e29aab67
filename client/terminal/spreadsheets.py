"""Spreadsheets: comma-separated values on stdout (RFC 4180), in which no cell is a formula."""

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

Cell = str | int | float | bool | datetime | None
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a spreadsheet knows a formula, in the text of a stranger


def write_csv(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print a table, row by row as it comes: numbers as they are, and text that is never run.

    Text that begins like a formula gets an apostrophe before it.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(newline="")  # lines end with CR LF, also where the system would add another CR
    writer = csv.writer(sys.stdout, lineterminator="\r\n")
    writer.writerow(heads)
    for row in rows:
        writer.writerow([_cell(value) for value in row])


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    return repr(value)
