"""Evaluating: a model composed on this machine, the numbers that a command measures on it, and their record.

What the command prints, as the whole of stdout or as its last line, is one of

    0.97                                    a number, or {"value": 0.97}; task and metric are given beside it
    {"accuracy": 0.97, "f1": 0.95}          numbers by metric; the task is given beside them
    {"task": "arithmetic", "dataset": "two-digits", "metric": "accuracy", "value": 0.97, "higher_is_better": true}
    [{...}, {...}]                          a list of such

or else it writes the results file of a harness. Numbers without a task are not recorded.
"""

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.actions.snapshots import find_snapshot
from client.api.client import Client
from client.terminal.console import Console, plain
from client.trials.bench import QUIET, Candidate, ScaledPatch, bench, item_of
from client.trials.harnesses import LONGEST, Choice, Format, is_higher_better, read_results
from client.trials.running import HOLDER, check_command, run_successfully
from client.trials.scores import is_number, last_line, read_json, read_number
from registry.errors import InvalidRequest, RevisionNotFound
from registry.schemas import RecordedEvaluations, Score

KEYS = {*LONGEST, "value", "stderr", "higher_is_better"}
NAMELESS = "score"  # the metric of a number that comes without one
PLACES = 10_000  # files that are looked at for results


@dataclass(frozen=True, slots=True)
class Names:
    """What numbers are called that do not name their own task, dataset and metric; None where that is not said.

    Which value is better goes by the metric's name if it is not said, and is the higher one if that says nothing.
    """

    task: str | None = None
    dataset: str | None = None
    metric: str | None = None
    higher_is_better: bool | None = None


@dataclass(frozen=True, slots=True)
class ResultsFile:
    """Where the command writes its results: a file, or a folder with files results….json; {model} as in commands."""

    path: str
    format: Format | None = None
    choice: Choice = field(default_factory=Choice)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What was measured.

    Args:
        model: NS/NAME.
        subject: What was measured, by a name that always means the same: `#3.1`, `1.2.0`, `base`, a recipe's digest.
        scores: What was measured and has a task.
        numbers: What was measured and has none, by metric; it is not recorded.
        recorded: What the registry made of the scores.
    """

    model: str
    subject: str
    scores: list[Score]
    numbers: dict[str, float]
    recorded: RecordedEvaluations | None = None


def evaluate(
    client: Client,
    model: str,
    ref: str,
    command: Sequence[str],
    *,
    together: str | None = None,
    names: Names | None = None,
    results: ResultsFile | None = None,
    device: str = "cpu",
    keep: Path | None = None,
    console: Console = QUIET,
) -> Evaluated:
    """Compose a model here, run a command on it, and record what it measures, if that has a task.

    Args:
        client: The registry; recording needs a token, measuring only the right to read.
        model: NS/NAME.
        ref: A snapshot, or a patch (`#3`, `#3.1`): the base with the patch alone, at alpha 1.
        command: What to run; it is recorded with the numbers.
        together: A snapshot whose recipe the patch is added to, at weight 1.
        names: What numbers are called that do not name themselves.
        results: The file that the command writes; its output is read when None.
        device: Where the model is composed.
        keep: See `bench`.
        console: Where notes and progress go.

    Raises:
        NotFound: There is no such snapshot or patch.
        InvalidRequest: The command prints something else, or writes no results; or what would be recorded is not
            composed at the registry.
        JobFailed: The command fails; nothing is recorded.
    """
    check_command(command)
    names = names or Names()
    _check_names(names)
    candidate, subject = find_candidate(client, model, ref, together, console)
    if names.task is not None or results is not None:  # what prevents recording is reported before anything is composed
        client.whoami()
        if together is not None:
            _require_known(client, model, subject)
    what = f"{model}{subject}" if subject.startswith("#") else f"{model}@{subject}"
    with (
        bench(client, model, [candidate], device=device, keep=keep, console=console) as opened,
        opened.model(candidate, "model") as folder,
    ):
        if results is None:
            scores, numbers = read_scores(run_successfully(command, folder, what).output, names)
        else:
            place = Path(results.path.replace(HOLDER, str(folder)))
            before = _stamps(place)
            run_successfully(command, folder, what)
            scores, numbers = _scores_in(place, before, results, console), {}
    for score in scores:  # they are not lost if the registry cannot be reached now
        console.note(f"{plain(score.task)}: {plain(score.metric)} {score.value!r}")
    line = shlex.join(command)
    recorded = client.add_evaluations(model, subject, scores, command=line) if scores else None
    return Evaluated(model, subject, scores, numbers, recorded)


def _check_names(names: Names) -> None:
    """Check what can be wrong with the names before a model is composed and measured for hours."""
    for name, longest in LONGEST.items():
        word = getattr(names, name)
        if word is not None and (not 1 <= len(word.strip()) <= longest or not word.isprintable()):
            raise InvalidRequest(f"--{name} must be a text of 1 to {longest} characters on one line.", field=name)


def find_candidate(
    client: Client, model: str, ref: str, together: str | None = None, console: Console = QUIET
) -> tuple[Candidate, str]:
    """Return what a reference or a patch means as a composition, and its name that always means the same.

    Raises:
        NotFound: There is no such snapshot or patch.
        InvalidRequest: The patch is in the snapshot that it is to be added to.
    """
    if not ref.startswith("#"):
        snapshot = find_snapshot(client, model, ref, console)
        recipe = snapshot.recipe
        if recipe is None:
            return Candidate(snapshot.weights_digest, ()), "base"
        patches = tuple(ScaledPatch(item, item.weight) for item in recipe.patches)
        return Candidate(recipe.base, patches, recipe.method, recipe.alpha), snapshot.release or snapshot.ref
    number, _, revision = ref[1:].partition(".")
    patch = client.patch(model, int(number), int(revision) if revision else None)
    item = item_of(patch.sha256, "1", patch.number, patch.revision, patch.title)
    rest, name = find_candidate(client, model, together or "base", None, console)
    if any(other.item.sha256 == item.sha256 or other.item.number == item.number for other in rest.patches):
        raise InvalidRequest(f"{model}@{name} holds patch #{item.number} already; evaluate it as it is.", field="with")
    whole = Candidate(rest.base, (*rest.patches, ScaledPatch(item, item.weight)), rest.method, rest.alpha)
    return whole, whole.recipe().digest if rest.patches else f"#{patch.number}.{patch.revision}"


def _require_known(client: Client, model: str, subject: str) -> None:
    with suppress(StopIteration):
        try:
            next(client.evaluations(model, subject))
        except RevisionNotFound as why:
            raise InvalidRequest(
                f"{model} has not composed the recipe {subject[:12]}, so nothing can be recorded of it; leave --task "
                "out to see its score, or have it composed with `crumb compose`.",
                field="with",
            ) from why


def read_scores(output: str, names: Names | None = None) -> tuple[list[Score], dict[str, float]]:
    """Return the scores that a command printed, and its numbers by metric if they have no task.

    Args:
        output: Its stdout.
        names: What numbers are called that do not name themselves.

    Raises:
        InvalidRequest: The output is neither a number nor such JSON, or a value is not finite.
    """
    names = names or Names()
    document = read_json(output)
    if not isinstance(document, dict | list):
        document = read_json(last_line(output))
    if is_number(document) or (isinstance(document, dict) and "value" in document and not document.keys() & LONGEST):
        document = {"metric": names.metric or NAMELESS, "value": read_number(output.strip() and json.dumps(document))}
    elif isinstance(document, dict) and not document.keys() & {"metric", "value"}:
        document = [{"metric": metric, "value": value} for metric, value in document.items()]
    entries: list[Any] = document if isinstance(document, list) else [document]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidRequest(
            'The command printed no evaluations; print a number, {"accuracy": 0.5}, or {"task": "math", "dataset": '
            '"gsm8k", "metric": "accuracy", "value": 0.5}, or a list of such.',
            field="command",
        )
    if names.task is None and not any("task" in entry for entry in entries):
        scores = [_score(entry, Names("-", "-", NAMELESS)) for entry in entries]
        _refuse_twice(scores)
        return [], {score.metric: score.value for score in scores}
    scores = [_score(entry, names) for entry in entries]
    _refuse_twice(scores)
    return scores, {}


def _refuse_twice(scores: Sequence[Score]) -> None:
    found = [(score.task, score.dataset, score.metric) for score in scores]
    if twice := next((name for name in found if found.count(name) > 1), None):
        raise InvalidRequest(f"The command printed {' / '.join(map(plain, twice))} twice.", field="command")


def _score(entry: dict[str, Any], names: Names) -> Score:
    shown = plain(json.dumps(entry))[:120]
    if unknown := entry.keys() - KEYS:
        raise InvalidRequest(
            f"{shown}: {plain(min(unknown))!r} is not a key of an evaluation; it has {', '.join(sorted(KEYS))}.",
            field="command",
        )
    given = {"task": names.task, "dataset": names.dataset or names.task, "metric": names.metric}
    whole = {**{key: word for key, word in given.items() if word}, **entry}
    for name, longest in LONGEST.items():
        word = whole.get(name)
        if not isinstance(word, str) or not 1 <= len(word.strip()) <= longest or not word.strip().isprintable():
            raise InvalidRequest(
                f"{shown}: {name} must be a text of 1 to {longest} characters; print it, or give --{name}.", field=name
            )
    if "higher_is_better" not in whole:
        whole["higher_is_better"] = is_higher_better(whole["metric"], names.higher_is_better)
    stderr = whole.get("stderr")
    for name in ("value", *(["stderr"] if stderr is not None else [])):
        if not is_number(whole.get(name)):
            raise InvalidRequest(f"{shown}: {name} must be a finite number.", field=name)
    if stderr is not None and stderr < 0:
        raise InvalidRequest(f"{shown}: stderr must not be below zero.", field="stderr")
    if not isinstance(whole["higher_is_better"], bool):
        raise InvalidRequest(f"{shown}: higher_is_better must be true or false.", field="higher_is_better")
    return Score(**{**whole, **{name: whole[name].strip() for name in LONGEST}})


def _stamps(place: Path) -> dict[Path, tuple[int, int]]:
    """Return the results files at a place, with what changes when they are written."""
    files = [place]
    if place.is_dir():
        files = []
        for file in place.rglob("results*.json"):
            files.append(file)
            if len(files) > PLACES:
                raise InvalidRequest(f"{place} has more than {PLACES} files of results; name one.", field="from")
    stamps = {}
    for file in files:
        with suppress(OSError):
            found = file.stat()
            stamps[file] = found.st_mtime_ns, found.st_size
    return stamps


def _scores_in(place: Path, before: dict[Path, tuple[int, int]], results: ResultsFile, console: Console) -> list[Score]:
    """Return the scores of the newest results file that was written since."""
    written = {file: stamp for file, stamp in _stamps(place).items() if before.get(file) != stamp}
    if not written:
        raise InvalidRequest(
            f"The command wrote no results to {place}; name the file, or the folder with its results….json.",
            field="from",
        )
    found = read_results(max(written, key=lambda file: written[file]), results.format, results.choice)
    if found.not_finite:
        console.note(f"Left out, since they are not finite numbers: {', '.join(found.not_finite)}")
    return found.scores
