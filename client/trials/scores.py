"""Scores: the number that a command prints about a model, and what it is without each patch.

A score is the last line of stdout: a JSON number, or an object with it as `value` or as its only number.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

from client.actions.snapshots import find_snapshot
from client.api.client import Client
from client.terminal.console import Console, plain
from client.trials.bench import QUIET, Candidate, bench, candidate_of
from client.trials.running import check_command, run_successfully
from registry.errors import InvalidRequest

HINT = "print a number on the last line of stdout, or a JSON object with it as 'value'"


@dataclass(frozen=True, slots=True)
class ScoreWithout:
    """A model's score without one patch; `difference` is how much higher it is with the patch."""

    number: int
    title: str
    scale: str
    score: float
    difference: float


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """The score of a model, and its scores without each of its patches."""

    score: float
    without: list[ScoreWithout]


def leave_one_out(
    client: Client,
    model: str,
    ref: str,
    command: Sequence[str],
    *,
    device: str = "cpu",
    keep: Path | None = None,
    console: Console = QUIET,
) -> LeaveOneOut:
    """Score a model, and the same without each of its patches.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: Of a snapshot with patches.
        command: It prints the score; see `read_number`.
        device: Where models are composed.
        keep: See `bench`.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: The snapshot has no patches, or a score cannot be read.
        JobFailed: The command fails; the message names the model it failed on.
    """
    check_command(command)
    whole = candidate_of(find_snapshot(client, model, ref, console))
    if not whole.patches:
        raise InvalidRequest(f"{model}@{ref} has no patches that could be left out.", field="ref")
    with bench(client, model, [whole], device=device, keep=keep, console=console) as opened:

        def score_of(candidate: Candidate, folder_name: str, what: str) -> float:
            with opened.model(candidate, folder_name) as folder:
                score = read_number(run_successfully(command, folder, what).output, what)
            console.note(f"{what} scores {score:.6g}")
            return score

        with_all = score_of(whole, "whole", f"{model}@{ref}")
        without = []
        for patch in sorted(whole.patches, key=lambda patch: (patch.item.number, patch.item.sha256)):
            item, rest = patch.item, tuple(other for other in whole.patches if other is not patch)
            folder_name, what = f"without-{item.number}.{item.revision}", f"{model}@{ref} without #{item.number}"
            score = score_of(replace(whole, patches=rest), folder_name, what)
            without.append(ScoreWithout(item.number, item.title, patch.scale, score, with_all - score))
    return LeaveOneOut(with_all, without)


def read_number(output: str, what: str = "the model") -> float:
    """Return the number on the last line that is not empty.

    Args:
        output: Of the command.
        what: The model's name, for the message.

    Raises:
        InvalidRequest: There is no number, or it is not finite.
    """
    line = last_line(output)
    value = read_json(line)
    if isinstance(value, dict):
        numbers = [number for number in value.values() if is_number(number)]
        value = value.get("value", numbers[0] if len(numbers) == 1 else None)
    if not is_number(value):
        last = f"the command's last line is {plain(line)[:80]!r}" if line else "the command printed nothing"
        raise InvalidRequest(f"On {what} {last}, which is not a score; {HINT}.", field="command")
    return float(value)


def last_line(output: str) -> str:
    """Return the last line that is not empty."""
    return next((line for line in reversed(output.splitlines()) if line.strip()), "")


def read_json(text: str) -> object:
    """Return the value of a JSON text, None for any other text. NaN and Infinity come as text."""
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return None


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a JSON value is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False
