"""What a command measures on models: scores with and without each patch, and evaluations to be recorded.

A score is the last line of stdout: a JSON number, or an object with it as `value` or as its only number. Evaluations
are one JSON object or a list of them, as the whole of stdout or as its last line:

    {"task": "arithmetic", "dataset": "two-digits", "metric": "accuracy", "value": 0.97, "higher_is_better": true}
    {"accuracy": 0.97, "f1": 0.95}          with task and dataset given beside it
"""

import json
import math
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

from client.actions import pull as pulls
from client.actions.pull import find_snapshot
from client.api.client import Client
from client.terminal.console import Console, plain
from client.trials.bench import QUIET, Candidate, bench, candidate_of, check_command, run_soundly
from registry.errors import InvalidRequest
from registry.schemas import Evaluation

PRINT = "print a number on the last line of stdout, or a JSON object with it as 'value'"
WORDS = {"task": 100, "dataset": 200, "metric": 100}  # longest, as in schemas.EvaluationRequest
KEYS = {*WORDS, "value", "higher_is_better"}


@dataclass(frozen=True, slots=True)
class Without:
    """What a model scores without one patch; `difference` is what it scores more with the patch."""

    number: int
    title: str
    scale: str
    score: float
    difference: float


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """The score of a model, and its scores without each of its patches."""

    score: float
    without: list[Without]


@dataclass(frozen=True, slots=True)
class Measurement:
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
        ref: What has patches.
        command: Prints the score; see `read_score`.
        device: Where models are composed.
        keep: See `bench`.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: There are no patches, or a score cannot be read.
        JobFailed: The command fails; the message names the variant.
    """
    check_command(command)
    whole = candidate_of(find_snapshot(client, model, ref, console))
    if not whole.parts:
        raise InvalidRequest(f"{model}@{ref} has no patches that could be left out.", field="ref")
    with bench(client, model, [whole], device=device, keep=keep, console=console) as opened:

        def score(candidate: Candidate, name: str, what: str) -> float:
            with opened.model(candidate, name) as folder:
                found = read_score(run_soundly(command, folder, what).output, what)
            console.note(f"{what} scores {found:.6g}")
            return found

        with_all = score(whole, "whole", f"{model}@{ref}")
        found = []
        for part in sorted(whole.parts, key=lambda part: (part.item.number, part.item.sha256)):
            item, rest = part.item, tuple(other for other in whole.parts if other is not part)
            name, what = f"without-{item.number}.{item.revision}", f"{model}@{ref} without #{item.number}"
            one = score(Candidate(whole.base, rest), name, what)
            found.append(Without(item.number, item.title, part.scale, one, with_all - one))
    return LeaveOneOut(with_all, found)


def measure(
    client: Client,
    model: str,
    ref: str,
    command: Sequence[str],
    *,
    task: str | None = None,
    dataset: str | None = None,
    console: Console = QUIET,
) -> list[Evaluation]:
    """Evaluate a revision and record all that was measured, with the command, under the name that never moves.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: The base, a version or a channel.
        command: See `evaluate`.
        task: See `evaluate`.
        dataset: See `evaluate`.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: It is a recipe of which there is no release, or the command prints something else.
        JobFailed: The command fails; nothing is recorded.
    """
    check_command(command)
    client.whoami()  # a missing token is told before anything is pulled
    revision = find_snapshot(client, model, ref, console)
    if revision.recipe is not None and revision.release is None:
        raise InvalidRequest(
            f"{model}@{ref} is a recipe and no release; measurements are of the base, a patch, a version or a channel.",
            field="ref",
        )
    subject, line = revision.release or revision.ref, shlex.join(command)
    found = evaluate(client, model, subject, command, task=task, dataset=dataset, console=console)
    return [client.add_evaluation(model, subject, **asdict(one), command=line) for one in found]


def evaluate(
    client: Client,
    model: str,
    ref: str,
    command: Sequence[str],
    *,
    task: str | None = None,
    dataset: str | None = None,
    console: Console = QUIET,
) -> list[Measurement]:
    """Pull a revision, run a command on it, and return what it measured.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: What can be pulled.
        command: Prints evaluations as JSON; see above.
        task: Of what does not say its own.
        dataset: Of what does not say its own.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: It prints something else.
        JobFailed: It fails.
    """
    check_command(command)
    with tempfile.TemporaryDirectory(prefix="crumb-") as scratch:
        folder = Path(scratch) / "model"
        pulls.pull(client, model, ref, folder, console=console)
        output = run_soundly(command, folder, f"{model}@{ref}").output
    return read_measurements(output, task, dataset)


def read_score(output: str, what: str = "the model") -> float:
    """Return the number on the last line that is not empty.

    Raises:
        InvalidRequest: There is none, or it is not finite; the message says on `what`.
    """
    line = _last_line(output)
    found = _read_json(line)
    if isinstance(found, dict):
        numbers = [value for value in found.values() if _is_number(value)]
        found = found.get("value", numbers[0] if len(numbers) == 1 else None)
    if not _is_number(found):
        said = f"the command's last line is {plain(line)[:80]!r}" if line else "the command printed nothing"
        raise InvalidRequest(f"On {what} {said}, which is no score; {PRINT}.", field="command")
    return float(found)


def read_measurements(output: str, task: str | None = None, dataset: str | None = None) -> list[Measurement]:
    """Return the evaluations that a command printed.

    Args:
        output: Its stdout.
        task: Of evaluations that do not say their own.
        dataset: Of evaluations that do not say their own.

    Raises:
        InvalidRequest: It is no such JSON, or a value is not finite.
    """
    found = _read_json(output)
    if not isinstance(found, dict | list):
        found = _read_json(_last_line(output))
    if isinstance(found, dict) and not found.keys() & {"metric", "value"}:
        found = [{"metric": metric, "value": value} for metric, value in found.items()]
    listed: list[Any] = found if isinstance(found, list) else [found]
    if not listed or not all(isinstance(one, dict) for one in listed):
        raise InvalidRequest(
            'The command printed no evaluations; print JSON like {"task": "math", "dataset": "gsm8k", '
            '"metric": "accuracy", "value": 0.5}, a list of such, or {"accuracy": 0.5}.',
            field="command",
        )
    measured = [_measurement(one, {"task": task, "dataset": dataset}) for one in listed]
    names = [(one.task, one.dataset, one.metric) for one in measured]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(f"The command printed {' / '.join(map(plain, twice))} twice.", field="command")
    return measured


def _measurement(given: dict[str, Any], default: dict[str, str | None]) -> Measurement:
    shown = plain(json.dumps(given))[:120]
    if unknown := given.keys() - KEYS:
        raise InvalidRequest(
            f"{shown}: {plain(min(unknown))!r} says nothing here; an evaluation has {', '.join(sorted(KEYS))}.",
            field="command",
        )
    whole = {"higher_is_better": True, **{name: word for name, word in default.items() if word is not None}, **given}
    for name, longest in WORDS.items():
        word = whole.get(name)
        if not isinstance(word, str) or not 1 <= len(word.strip()) <= longest or "\0" in word:
            hint = f", or say --{name}" if name in default else ""
            raise InvalidRequest(
                f"{shown}: {name} must be a text of 1 to {longest} characters; print it{hint}.", field=name
            )
    if not _is_number(whole.get("value")):
        raise InvalidRequest(f"{shown}: value must be a finite number.", field="value")
    if not isinstance(whole["higher_is_better"], bool):
        raise InvalidRequest(f"{shown}: higher_is_better must be true or false.", field="higher_is_better")
    words = {name: whole[name].strip() for name in WORDS}
    return Measurement(**words, value=float(whole["value"]), higher_is_better=whole["higher_is_better"])


def _last_line(output: str) -> str:
    return next((line for line in reversed(output.splitlines()) if line.strip()), "")


def _read_json(text: str) -> object:
    """Return what a command printed as JSON; None when it is none. What is not finite comes as text."""
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return None


def _is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a JSON value is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False
