"""Scores: what a command measures on models - with and without each patch, or to be recorded as evaluations.

For `leave_one_out` the score is the last line of stdout: a JSON number, or an object with it as `value` or as its only
number. For `evaluate` scores are one JSON object or a list of them, as the whole of stdout or as its last line:

    {"task": "arithmetic", "dataset": "two-digits", "metric": "accuracy", "value": 0.97, "higher_is_better": true}
    {"accuracy": 0.97, "f1": 0.95}          with task and dataset given beside it
"""

import json
import math
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from client.actions.pull import find_snapshot, pull
from client.api.client import Client
from client.terminal.console import Console, plain
from client.trials.bench import QUIET, Candidate, bench, candidate_of
from client.trials.running import check_command, run_successfully
from registry.errors import InvalidRequest
from registry.schemas import Evaluation

HINT = "print a number on the last line of stdout, or a JSON object with it as 'value'"
LONGEST = {"task": 100, "dataset": 200, "metric": 100}  # characters, as in schemas.EvaluationRequest
KEYS = {*LONGEST, "value", "higher_is_better"}


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


@dataclass(frozen=True, slots=True)
class Score:
    """One measured number, in the terms of the Hub's evaluation results."""

    task: str
    dataset: str
    metric: str
    value: float
    higher_is_better: bool = True


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


def evaluate(
    client: Client,
    model: str,
    ref: str,
    command: Sequence[str],
    *,
    task: str | None = None,
    dataset: str | None = None,
    console: Console = QUIET,
) -> list[Evaluation]:
    """Pull a snapshot, run a command on it, and record its scores as evaluations of the snapshot's fixed name.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: `base`, a version, a channel or a composed recipe.
        command: It prints scores as JSON; see above. It is recorded with them.
        task: Of scores that do not name their own.
        dataset: Of scores that do not name their own.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: The command prints something else.
        JobFailed: The command fails; nothing is recorded.
    """
    check_command(command)
    client.whoami()  # a missing token is reported before anything is pulled
    snapshot = find_snapshot(client, model, ref, console)
    subject = snapshot.release or snapshot.ref
    with tempfile.TemporaryDirectory(prefix="crumb-") as scratch:
        folder = Path(scratch) / "model"
        pull(client, model, subject, folder, console=console)
        output = run_successfully(command, folder, f"{model}@{subject}").output
    scores = read_scores(output, task, dataset)
    line = shlex.join(command)
    return [client.add_evaluation(model, subject, **asdict(score), command=line) for score in scores]


def read_number(output: str, what: str = "the model") -> float:
    """Return the number on the last line that is not empty.

    Args:
        output: Of the command.
        what: The model's name, for the message.

    Raises:
        InvalidRequest: There is no number, or it is not finite.
    """
    line = _last_line(output)
    value = _read_json(line)
    if isinstance(value, dict):
        numbers = [number for number in value.values() if _is_number(number)]
        value = value.get("value", numbers[0] if len(numbers) == 1 else None)
    if not _is_number(value):
        last = f"the command's last line is {plain(line)[:80]!r}" if line else "the command printed nothing"
        raise InvalidRequest(f"On {what} {last}, which is not a score; {HINT}.", field="command")
    return float(value)


def read_scores(output: str, task: str | None = None, dataset: str | None = None) -> list[Score]:
    """Return the scores that a command printed.

    Args:
        output: Its stdout.
        task: Of scores that do not name their own.
        dataset: Of scores that do not name their own.

    Raises:
        InvalidRequest: The output is not such JSON, or a value is not finite.
    """
    document = _read_json(output)
    if not isinstance(document, dict | list):
        document = _read_json(_last_line(output))
    if isinstance(document, dict) and not document.keys() & {"metric", "value"}:
        document = [{"metric": metric, "value": value} for metric, value in document.items()]
    entries: list[Any] = document if isinstance(document, list) else [document]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidRequest(
            'The command printed no evaluations; print JSON like {"task": "math", "dataset": "gsm8k", '
            '"metric": "accuracy", "value": 0.5}, a list of such, or {"accuracy": 0.5}.',
            field="command",
        )
    scores = [_score(entry, {"task": task, "dataset": dataset}) for entry in entries]
    names = [(score.task, score.dataset, score.metric) for score in scores]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(f"The command printed {' / '.join(map(plain, twice))} twice.", field="command")
    return scores


def _score(entry: dict[str, Any], default: dict[str, str | None]) -> Score:
    shown = plain(json.dumps(entry))[:120]
    if unknown := entry.keys() - KEYS:
        raise InvalidRequest(
            f"{shown}: {plain(min(unknown))!r} is not a key of an evaluation; it has {', '.join(sorted(KEYS))}.",
            field="command",
        )
    whole = {"higher_is_better": True, **{name: word for name, word in default.items() if word is not None}, **entry}
    for name, longest in LONGEST.items():
        word = whole.get(name)
        if not isinstance(word, str) or not 1 <= len(word.strip()) <= longest or "\0" in word:
            hint = f", or give --{name}" if name in default else ""
            raise InvalidRequest(
                f"{shown}: {name} must be a text of 1 to {longest} characters; print it{hint}.", field=name
            )
    if not _is_number(whole.get("value")):
        raise InvalidRequest(f"{shown}: value must be a finite number.", field="value")
    if not isinstance(whole["higher_is_better"], bool):
        raise InvalidRequest(f"{shown}: higher_is_better must be true or false.", field="higher_is_better")
    words = {name: whole[name].strip() for name in LONGEST}
    return Score(**words, value=float(whole["value"]), higher_is_better=whole["higher_is_better"])


def _last_line(output: str) -> str:
    return next((line for line in reversed(output.splitlines()) if line.strip()), "")


def _read_json(text: str) -> object:
    """Return the value of a JSON text, None for any other text. NaN and Infinity come as text."""
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return None


def _is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a JSON value is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False
