"""Evaluations as tables of text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from client.terminal.addresses import is_digest
from client.terminal.console import plain, table

if TYPE_CHECKING:
    from registry.schemas import Evaluation, EvaluationComparison


def _subject(row: "Evaluation") -> str:
    subject = _short(row.subject)
    return f"{subject}, chosen among {row.tried}" if row.tried else subject


def _short(ref: str) -> str:
    return ref[:12] if is_digest(ref) else ref


def show_recorded(added: "Sequence[Evaluation]", known: "Sequence[Evaluation]") -> str:
    """Return evaluations that were recorded now, and how many had been before."""
    lines = [show_evaluations(added)] if added else []
    if known:
        lines.append(f"{len(known)} not added: you have recorded the same numbers before.")
    return "\n".join(lines)


def show_evaluations(evaluations: "Sequence[Evaluation]") -> str:
    """Return a line for each evaluation."""
    rows = [
        (
            _subject(row),
            plain(row.task),
            plain(row.dataset),
            plain(row.metric),
            f"{row.value:.6g}",
            f"± {row.stderr:.2g}" if row.stderr is not None else "",
            "higher" if row.higher_is_better else "lower",
            plain(row.user),
            f"{row.created_at.astimezone():%Y-%m-%d}",
        )
        for row in evaluations
    ]
    heads = ("of", "task", "dataset", "metric", "value", "", "better", "by", "on")
    return table(heads, rows, right=(4,))


def show_comparison(model: str, found: "EvaluationComparison") -> str:
    """Return a line for each metric, the best of it marked *."""
    if not found.metrics:
        return f"There are no evaluations to compare; record some with `crumb eval add {model}@base`."
    names = [_short(subject.ref) for subject in found.subjects]
    rows = []
    for row in found.metrics:
        cells = [
            "" if one is None else f"{one.value:.6g}{'*' if place in row.best else ' '}"
            for place, one in enumerate(row.evaluations)
        ]
        better = "higher" if row.higher_is_better else "lower"
        rows.append((plain(row.task), plain(row.dataset), plain(row.metric), better, *cells))
    text = table(("task", "dataset", "metric", "better", *names), rows, right=range(4, 4 + len(names)))
    return f"{text}\nThere are more metrics than these." if found.more else text
