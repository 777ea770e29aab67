"""Tuning: what is tuned, of a registry or of files, and from where the search starts."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from client.actions.composing import open_checked
from client.actions.conflicts import alpha_of_files
from client.actions.pull import find_snapshot
from client.actions.push import patch_base
from client.api.calls import Item
from client.api.client import Client
from client.machine.config import cache
from client.machine.sources import resolve
from client.terminal.console import Console
from client.trials.bench import QUIET, Bench, Candidate, ScaledPatch, bench, check_command, run_successfully
from client.trials.scores import read_number
from client.trials.searching import BUDGET, Scorer, Scores, Search, Setting, Tried, three_digits
from registry.breadcrumbs.comparing.alpha import AUTO
from registry.errors import InvalidRequest
from registry.schemas import RecipeItem


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of a search.

    Args:
        best: The setting with the best score.
        tried: All of them, in order; their number says how far to trust the best score, which was chosen among them.
        patches: What the weights belong to.
        method: sum, ties or mean.
    """

    best: Tried
    tried: list[Tried]
    patches: list[RecipeItem]
    method: str


@dataclass(frozen=True, slots=True)
class How:
    """How a search is made.

    Args:
        score: What scores a model: a command that prints the score on its last line (see `read_number`), or a function
            of the model's folder. Only a command's scores are kept for later runs.
        method: sum, ties or mean.
        alpha: Where it starts: a decimal, or `auto`.
        budget: Most models that are scored.
        workers: How many models are scored at a time.
        lowest: Whether a lower score is better.
        again: Whether models are scored again that an earlier run of the same command has scored.
        device: auto, cpu or cuda.
        keep: The folder that models are kept in; they are removed when None.
        told: Called with each result.
    """

    score: Sequence[str] | Callable[[Path], float]
    method: str = "sum"
    alpha: str = AUTO
    budget: int = BUDGET
    workers: int = 1
    lowest: bool = False
    again: bool = False
    device: str = "cpu"
    keep: Path | None = None
    told: Callable[[Tried], None] = lambda _: None


def tune(client: Client, model: str, ref: str, items: Sequence[Item], how: How, *, console: Console = QUIET) -> Tuned:
    """Find alpha and weights for patches of a model.

    Args:
        client: The registry; the right to read is enough.
        model: NS/NAME.
        ref: A snapshot whose patches and weights it starts from, where there are no items.
        items: The patches, with their weights to start from.
        how: See `How`.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: There are no patches, or the command prints no score.
        JobFailed: The command fails; the message names the model it failed on.
    """
    _check(how)
    if items:
        snapshot = find_snapshot(client, model, "base", console)
        found = [client.patch(model, item[0], item[2] if len(item) > 2 else None) for item in items]
        parts = [
            _item(patch.sha256, item[1], patch.number, patch.revision, patch.title)
            for patch, item in zip(found, items, strict=True)
        ]
        base = snapshot.weights_digest
    else:
        recipe = find_snapshot(client, model, ref, console).recipe
        if recipe is None:
            raise InvalidRequest(f"{model}@{ref} has no patches; name some, or a release.", field="patches")
        parts, base = sorted(recipe.patches, key=lambda one: one.number), recipe.base
    scaled = tuple(ScaledPatch(part, part.weight) for part in parts)
    start = Candidate(base, scaled, how.method)
    with bench(client, model, [start], device=how.device, keep=how.keep, console=console) as opened:
        return _search(opened, scaled, how)


def tune_files(base: str | Path, files: Sequence[tuple[Path, str]], how: How, *, console: Console = QUIET) -> Tuned:
    """Find alpha and weights for patch files.

    Args:
        base: A .safetensors file, a model folder, or a Hub id.
        files: Patch files with their weights to start from.
        how: See `How`.
        console: Where notes and progress go.

    Raises:
        NotFound: There is no such base or patch.
        InvalidPatch, BaseMismatch: A patch is not sound, or for another base.
        InvalidRequest, JobFailed: As of `tune`.
    """
    _check(how)
    with _open_files(resolve(base, quiet=console.quiet), files, how, console) as (opened, scaled):
        return _search(opened, scaled, how)


@contextlib.contextmanager
def _open_files(
    base: Path, files: Sequence[tuple[Path, str]], how: How, console: Console
) -> Iterator[tuple[Bench, tuple[ScaledPatch, ...]]]:
    from registry.breadcrumbs.formats.checkpoint import open_checkpoint

    digest = patch_base(files[0][0])
    with (
        open_checkpoint(base) as checkpoint,
        open_checked([path for path, _ in files], digest, checkpoint, console=console) as checked,
    ):
        opened = {report.sha256: patch for report, patch in checked}
        scaled = tuple(
            ScaledPatch(_item(report.sha256, weight, place, 1, path.name), weight)
            for place, ((report, _), (path, weight)) in enumerate(zip(checked, files, strict=True), 1)
        )
        others = {path.name: path for path in base.iterdir() if path.is_file()} if base.is_dir() else {}
        yield Bench(digest, checkpoint, others, opened, how.device, how.keep, console), scaled


def _search(opened: Bench, scaled: tuple[ScaledPatch, ...], how: How) -> Tuned:
    weights = tuple(patch.scale for patch in scaled)
    alpha = how.alpha
    if alpha == AUTO:
        weighted = [(patch.item.sha256, patch.scale) for patch in scaled]
        alpha = alpha_of_files(opened.patches, weighted, how.method, console=opened.console)
    measure, scores = _measure(how)
    scorer = Scorer(opened, scaled, how.method, measure, scores, how.workers, how.told)
    search = Search(Setting(_start(alpha), weights), scorer, how.budget, how.lowest)
    best = search.run()
    return Tuned(best, search.tried, [patch.item for patch in scaled], how.method)


def _check(how: How) -> None:
    if not callable(how.score):
        check_command(how.score)


def _measure(how: How) -> tuple[Callable[[Path, str], float], Scores]:
    """Return what scores the model in a folder, given its name for messages; and the scores that are known."""
    score = how.score
    if callable(score):
        return lambda folder, what: score(folder), Scores()
    name = hashlib.sha256(json.dumps(list(score)).encode()).hexdigest()
    scores = Scores(cache() / "tuning" / f"{name}.json", how.again)
    return lambda folder, what: read_number(run_successfully(score, folder, what).output, what), scores


def _start(alpha: str) -> str:
    """Return an alpha that a search can start from.

    Raises:
        InvalidRequest: It is 0, which no step changes.
    """
    if not Decimal(alpha):
        raise InvalidRequest("A search cannot start at alpha 0; give another --alpha.", field="alpha")
    return three_digits(Decimal(alpha))


def _item(sha256: str, weight: str, number: int, revision: int, title: str) -> RecipeItem:
    return RecipeItem(
        sha256=sha256,
        weight=weight,
        number=number,
        revision=revision,
        title=title,
        author=None,
        license=None,
        state=None,
    )
