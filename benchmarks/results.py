"""A result: what one command measured, with everything that the report says of it; results/<name>.json.

machine, parameters      where and what
tables                   title, columns and rows, as they are printed
bars                     what is asked for, the number found, and whether that is enough
series                   every measurement, for the plots
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.measure import Series

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first column is text, the others are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Return it aligned, for a terminal."""
        lines = [list(self.columns), *map(list, self.rows)]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.columns))]
        shown = [
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        head = [shown[0], "  ".join("-" * width for width in widths)] if any(self.columns) else []
        return "\n".join([self.title, "", *head, *shown[1:]])

    def markdown(self) -> str:
        """Return it for README.md."""
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return "\n".join([f"{self.title}:", "", *("| " + " | ".join(line) + " |" for line in lines)])


@dataclass(frozen=True)
class Bar:
    """What is asked of a number.

    Args:
        text: What the number is, and what is asked.
        value: The number found.
        limit: The most that it may be, or the least.
        least: Whether the limit is the least.
        judged: Whether it was measured as the bar asks for it; otherwise the number is only shown.
    """

    text: str
    value: float
    limit: float
    least: bool = False
    judged: bool = True

    @property
    def reached(self) -> bool:
        """Whether the number is good enough."""
        return self.value >= self.limit if self.least else self.value <= self.limit

    @property
    def verdict(self) -> str:
        """One or two words."""
        if not self.judged:
            return "other setup"
        return "reached" if self.reached else "not reached"


@dataclass(frozen=True)
class Result:
    """What one command measured."""

    name: str
    parameters: Mapping[str, Any]
    tables: Sequence[Table]
    bars: Sequence[Bar] = ()
    series: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    machine: Mapping[str, str] = field(default_factory=describe_machine)
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())


def bars_table(bars: Sequence[Bar]) -> Table:
    """Return bars as a table."""
    rows = [[bar.text, f"{'≥' if bar.least else '≤'} {bar.limit:g}", f"{bar.value:.3g}", bar.verdict] for bar in bars]
    return Table("Bars", ["what", "bar", "found", ""], rows)


def save(result: Result, folder: Path = RESULTS) -> Path:
    """Write a result; return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    path.write_text(json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def load(name: str, folder: Path = RESULTS) -> Result | None:
    """Read a result; None when it was not measured."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text("utf-8"))
    found["tables"] = [Table(**table) for table in found["tables"]]
    found["bars"] = [Bar(**bar) for bar in found["bars"]]
    return Result(**found)


def show(result: Result) -> str:
    """Return a result as text for a terminal."""
    tables = [*result.tables, *([bars_table(result.bars)] if result.bars else [])]
    return "\n\n".join([*(table.text() for table in tables), *result.notes])


def documents(series: Mapping[str, Series]) -> dict[str, Any]:
    """Return what was measured of several things, for a result."""
    return {name: one.document() for name, one in series.items()}


def seconds(number: float) -> str:
    """Write seconds."""
    return f"{number:.3f} s"


def megabytes(number: float) -> str:
    """Write bytes in megabytes, 10^6 bytes."""
    return f"{number / 1e6:,.0f} MB"


def times(number: float) -> str:
    """Write a ratio."""
    return f"{number:.2f} x" if number < 100 else f"{number:.0f} x"
