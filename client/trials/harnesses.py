"""Harnesses: the results files of lm-evaluation-harness and lighteval, read as scores.

    lm-eval     {"results": {"gsm8k": {"exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": 0.01}},
                 "configs": {"gsm8k": {"dataset_path": "openai/gsm8k"}}, "n-shot": {"gsm8k": 5},
                 "higher_is_better": {"gsm8k": {"exact_match": true}}}
    lighteval   {"results": {"leaderboard|gsm8k|5|0": {"qem": 0.5, "qem_stderr": 0.01}}, "config_general": {...},
                 "config_tasks": {"leaderboard|gsm8k": {"hf_repo": "gsm8k", "metric": [{"metric_name": "qem", ...}]}}}

A task is called as its harness calls it, with the number of examples that it was shown, since numbers with others are
other numbers. All numbers but standard errors and counts are metrics; averages over whatever was run are not read.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from client.terminal.console import plain
from registry.errors import InvalidRequest, NotFound
from registry.schemas.evaluations import DATASET, METRIC, MOST, TASK, Score

Format = Literal["lm-eval", "lighteval"]
FORMATS: tuple[Format, ...] = ("lm-eval", "lighteval")
FILE_BYTES = 64 * 2**20  # of a results file; those with samples in them are not meant
ENTRIES = 20_000  # numbers in it
LONGEST = {"task": TASK, "dataset": DATASET, "metric": METRIC}

_NO_METRIC = frozenset({"alias", "name", "sample_len", "sample_count", "samples"})
_DEFAULT = frozenset({None, "", "default", "main"})  # configurations of a dataset that need not be named
_HIGHER = (
    *("acc", "acc_*", "accuracy", "*_acc", "*_accuracy", "exact_match*", "em", "qem", "pem", "f1", "f1_*", "*_f1"),
    *("bleu*", "chrf*", "rouge*", "meteor", "mcc", "pass@*", "maj@*", "mc1", "mc2", "precision", "recall", "ndcg*"),
)
_LOWER = ("*perplexity", "ppl", "*loss", "wer", "cer", "ter", "mae", "mse", "rmse", "bits_per_byte", "brier_score")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which numbers of a file are taken, by globs; all where there are none.

    Args:
        tasks: By the task's name, with or without the number of examples.
        metrics: By the metric's name.
        lower: Metrics of which a lower value is better, whatever the file says.
        higher: Metrics of which a higher value is better, whatever the file says.
        dataset: What all of it was measured on, in place of what the file says.
    """

    tasks: Sequence[str] = ()
    metrics: Sequence[str] = ()
    lower: Sequence[str] = ()
    higher: Sequence[str] = ()
    dataset: str | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """What a results file holds: scores, and the names of numbers that are not finite and so are left out."""

    format: Format
    scores: list[Score]
    not_finite: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Number:
    """One number of a file, as it is there; `higher` is None where the file does not say which is better."""

    task: str
    shots: int | None
    dataset: str | None
    metric: str
    value: float
    stderr: object
    higher: bool | None

    @property
    def named_task(self) -> str:
        return self.task if self.shots is None else f"{self.task} ({self.shots}-shot)"


def read_results(path: Path, kind: Format | None = None, choice: Choice | None = None) -> Results:
    """Read the results file of a harness.

    Args:
        path: The file.
        kind: Which harness wrote it; found out when None.
        choice: Which of its numbers are taken; all when None.

    Raises:
        NotFound: There is no such file.
        InvalidRequest: It is not such a file, nothing in it is chosen, or it does not say of a metric which is better.
    """
    document = _load(path)
    found = _detect(document)
    if found is None:
        raise InvalidRequest(
            f"{path} is not a results file of lm-evaluation-harness or lighteval; the file results_….json is meant.",
            field="from",
        )
    if kind is not None and found != kind:
        raise InvalidRequest(f"{path} is a results file of {found}, not of {kind}; give --from {found}.", field="from")
    choice = choice or Choice()
    numbers = list((_lm_eval if found == "lm-eval" else _lighteval)(document))
    if len(numbers) > ENTRIES:
        raise InvalidRequest(f"{path} has more than {ENTRIES} numbers.", field="from")
    chosen = [number for number in numbers if _is_chosen(number, choice)]
    finite = [number for number in chosen if math.isfinite(number.value)]
    if not finite:
        there = ", ".join(sorted({plain(number.named_task) for number in numbers})[:5])
        hint = f"its tasks are {there}" if numbers else "it has none at all"
        raise InvalidRequest(f"{path} has no finite number of the tasks and metrics you chose; {hint}.", field="from")
    if len(finite) > MOST:
        raise InvalidRequest(
            f"{len(finite)} numbers of {path} are chosen, and {MOST} are the most at once; choose with --task and "
            "--metric.",
            field="from",
        )
    scores = [_score(number, choice) for number in finite]
    names = Counter((score.task, score.dataset, score.metric) for score in scores)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise InvalidRequest(f"{path} has {' / '.join(map(plain, twice))} twice.", field="from")
    left_out = [f"{plain(one.named_task)}: {plain(one.metric)}" for one in chosen if not math.isfinite(one.value)]
    return Results(found, scores, left_out)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES + 1)
    except FileNotFoundError as why:
        raise NotFound(f"There is no file {path}.", field="from") from why
    except OSError as why:
        raise InvalidRequest(f"{path} cannot be read: {why.strerror}.", field="from") from why
    if len(raw) > FILE_BYTES:
        raise InvalidRequest(
            f"{path} has more than {FILE_BYTES // 2**20} MiB; the file results_….json is meant, without samples.",
            field="from",
        )
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as why:
        raise InvalidRequest(f"{path} is not JSON; the file results_….json is meant.", field="from") from why
    return document if isinstance(document, dict) else {}


def _detect(document: Mapping[str, Any]) -> Format | None:
    """Return which harness wrote a document; None for any other document."""
    results = document.get("results")
    if not isinstance(results, dict) or not all(isinstance(entry, dict) for entry in results.values()):
        return None
    if "config_general" in document or "config_tasks" in document:
        return "lighteval"
    return "lm-eval" if document.keys() & {"configs", "config", "versions", "n-shot", "higher_is_better"} else None


def _lm_eval(document: Mapping[str, Any]) -> Iterator[_Number]:
    """Yield the numbers of lm-evaluation-harness: `metric,filter`; of groups, those that are not among the tasks."""
    configs, shots, better = (_object(document, name) for name in ("configs", "n-shot", "higher_is_better"))
    for task, entry in {**_object(document, "groups"), **document["results"]}.items():
        config = _object(configs, task)
        shown = shots.get(task, config.get("num_fewshot"))
        for key, value in _numbers(entry):
            metric, _, filtered = key.partition(",")
            if metric.endswith("_stderr"):
                continue
            yield _Number(
                task,
                shown if isinstance(shown, int) and shown >= 0 else None,
                _dataset(config.get("dataset_path"), config.get("dataset_name")),
                metric if filtered in ("", "none") else key,
                value,
                entry.get(f"{metric}_stderr,{filtered}" if filtered else f"{metric}_stderr"),
                _yes_or_no(_object(better, task).get(metric)),
            )


def _lighteval(document: Mapping[str, Any]) -> Iterator[_Number]:
    """Yield the numbers of lighteval, whose tasks are `suite|task|shots|…`, or `task|shots` of newer versions."""
    configs = _object(document, "config_tasks")
    for key, entry in document["results"].items():
        if key.split("|")[0] in ("all", "all_grouped"):
            continue
        words = key.split("|")
        last = next((place for place, word in enumerate(words) if place and word.isdecimal()), len(words))
        task, shots = "|".join(words[:last]), int(words[last]) if last < len(words) else None
        config = _object(configs, key if key in configs else task)
        better = _directions(config)
        for metric, value in _numbers(entry):
            if not metric.endswith("_stderr"):
                where = _dataset(config.get("hf_repo"), config.get("hf_subset"))
                yield _Number(task, shots, where, metric, value, entry.get(f"{metric}_stderr"), better.get(metric))


def _directions(config: Mapping[str, Any]) -> dict[str, bool]:
    """Return of which metrics of a task of lighteval a higher value is better, as far as it says so."""
    found: dict[str, bool] = {}
    metrics = config.get("metrics", config.get("metric"))
    for metric in metrics if isinstance(metrics, list) else ():
        if isinstance(metric, dict):
            names, higher = metric.get("metric_name"), metric.get("higher_is_better")
            for name in names if isinstance(names, list) else [names]:
                one = higher.get(name) if isinstance(higher, dict) else higher
                if isinstance(name, str) and isinstance(one, bool):
                    found[name] = one
    return found


def _numbers(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in entry.items():
        if key.partition(",")[0] not in _NO_METRIC and isinstance(value, int | float) and not isinstance(value, bool):
            yield key, _float(value)


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond the largest float
        return math.inf


def _object(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _dataset(path: object, name: object) -> str | None:
    if not isinstance(path, str) or not path:
        return None
    return f"{path}/{name}" if isinstance(name, str) and name not in _DEFAULT else path


def _yes_or_no(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _is_chosen(number: _Number, choice: Choice) -> bool:
    tasks = not choice.tasks or _matches(number.task, choice.tasks) or _matches(number.named_task, choice.tasks)
    return tasks and (not choice.metrics or _matches(number.metric, choice.metrics))


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _score(number: _Number, choice: Choice) -> Score:
    """Return a number as a score.

    Raises:
        InvalidRequest: A name is too long or not on one line, or nothing says which is better.
    """
    names = {
        "task": number.named_task,
        "dataset": choice.dataset or number.dataset or number.task,
        "metric": number.metric,
    }
    for what, name in names.items():
        if not 1 <= len(name.strip()) <= LONGEST[what] or not name.isprintable():
            raise InvalidRequest(
                f"The {what} {plain(name)[:120]!r} is not a text of 1 to {LONGEST[what]} characters on one line; leave "
                "it out with --task or --metric" + (", or give --dataset." if what == "dataset" else "."),
                field=what,
            )
    stderr = number.stderr
    known = isinstance(stderr, int | float) and not isinstance(stderr, bool) and 0 <= _float(stderr) < math.inf
    return Score(
        **{what: name.strip() for what, name in names.items()},
        value=number.value,
        stderr=float(stderr) if known else None,  # type: ignore[arg-type]
        higher_is_better=_higher_is_better(number, choice),
    )


def higher_is_better(metric: str) -> bool | None:
    """Return what is known of metrics with such a name: False for a loss; None if nothing is known."""
    name = metric.lower()
    return False if _matches(name, _LOWER) else True if _matches(name, _HIGHER) else None


def is_higher_better(metric: str, said: bool | None = None) -> bool:
    """Say whether a higher value is better: as somebody said, else as the metric's name tells, else it is."""
    return higher_is_better(metric) is not False if said is None else said


def _higher_is_better(number: _Number, choice: Choice) -> bool:
    """Return what the caller says, else the file, else what is known of metrics with such a name."""
    metric = number.metric.partition(",")[0]
    for name in (metric, number.metric):
        if _matches(name, choice.lower):
            return False
        if _matches(name, choice.higher):
            return True
    if number.higher is not None:
        return number.higher
    known = higher_is_better(metric)
    if known is not None:
        return known
    raise InvalidRequest(
        f"Nothing says whether a higher or a lower {plain(number.metric)!r} ({plain(number.named_task)}) is better; "
        f"give --higher {plain(metric)!r} or --lower {plain(metric)!r}.",
        field="lower",
    )
