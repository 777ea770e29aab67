"""Tuning: what is tuned, of a registry or of files, and from where the search starts."""

import contextlib
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path

from client.actions.composing import compose
from client.actions.snapshots import find_snapshot
from client.api.calls import Item
from client.api.client import Client
from client.live.in_place import InPlace
from client.machine.config import cache
from client.machine.folders import files_beside
from client.machine.patch_files import alpha_of_files, open_checked, patch_base
from client.machine.sources import resolve
from client.terminal.console import Console
from client.trials.bench import QUIET, Bench, Candidate, ScaledPatch, bench, item_of, open_bench
from client.trials.evaluating import Names
from client.trials.running import check_command
from client.trials.sampling import layers_of, sample
from client.trials.scorer import Score, Scorer, Scores, kept_file, name_of_scores
from client.trials.searching import BUDGET, Factors, Search, Setting, Tried, three_digits
from registry.breadcrumbs.comparing.alpha import AUTO
from registry.errors import InvalidRequest
from registry.extras import require_extra
from registry.schemas import Evaluation, RecipeItem

STEPS, OPTUNA = "steps", "optuna"


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

    @property
    def scored(self) -> int:
        """How many settings have a score, among which the best was chosen."""
        return sum(one.score is not None for one in self.tried)

    def parts(self) -> list[tuple[RecipeItem, str, Factors]]:
        """Return what the best is composed of: each patch that is not left out, its weight, its factors by tensor."""
        best = self.best.setting
        where = best.where or [tuple(patch.where) for patch in self.patches]
        parts = zip(self.patches, best.weights, where, strict=True)
        return [(patch, weight, factors) for patch, weight, factors in parts if weight != "0"]


@dataclass(frozen=True, slots=True)
class How:
    """How a search is made.

    Args:
        score: What scores a model: a command that prints the score on its last line (see `read_number`), a function
            of the model's folder, or one of a model that is loaded once. A function's scores are not kept for later
            runs, unless it has a name.
        method: sum, ties or mean; None for that of the snapshot, or sum.
        alpha: Where it starts: a decimal, or `auto`.
        sampler: steps or optuna.
        where: Globs of tensors in which each patch gets a factor of its own; for optuna alone.
        by_layer: Whether each layer is such a glob.
        budget: Most models that are scored.
        workers: How many models are scored at a time.
        lowest: Whether a lower score is better.
        again: Whether models are scored again that an earlier run of the same command has scored.
        device: auto, cpu or cuda.
        keep: The folder that models are kept in; they are removed when None.
        begun: Called with each setting that is composed and scored, by any thread.
        told: Called with each result.
    """

    score: Score
    method: str | None = None
    alpha: str = AUTO
    sampler: str = STEPS
    where: Sequence[str] = ()
    by_layer: bool = False
    budget: int = BUDGET
    workers: int = 1
    lowest: bool = False
    again: bool = False
    device: str = "cpu"
    keep: Path | None = None
    begun: Callable[[Setting], None] = lambda _: None
    told: Callable[[Tried], None] = lambda _: None

    def check(self) -> None:
        """Check what can be checked before anything is downloaded or composed.

        Raises:
            InvalidRequest: The command or the sampler cannot be used.
            MissingExtra: The sampler is not installed.
        """
        if isinstance(self.score, InPlace):
            if self.workers > 1 or self.keep is not None:
                raise InvalidRequest(
                    "One model in memory is scored at a time, and none is kept; leave out --workers and --keep.",
                    field="in_place",
                )
        elif not callable(self.score):
            check_command(self.score)
        if self.sampler not in (STEPS, OPTUNA):
            raise InvalidRequest(
                f"{self.sampler[:40]!r} is not a sampler that is known here; choose {STEPS} or {OPTUNA}.",
                field="sampler",
            )
        if self.sampler == OPTUNA:
            require_extra(OPTUNA)
        elif self.where or self.by_layer:
            raise InvalidRequest(f"Factors by tensor are too many for steps; add --sampler {OPTUNA}.", field="sampler")


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
    how.check()
    method = how.method or "sum"
    if items:
        snapshot = find_snapshot(client, model, "base", console)
        found = [client.patch(model, item[0], item[2] if len(item) > 2 else None) for item in items]
        parts = [
            item_of(patch.sha256, item[1], patch.number, patch.revision, patch.title)
            for patch, item in zip(found, items, strict=True)
        ]
        base = snapshot.weights_digest
    else:
        recipe = find_snapshot(client, model, ref, console).recipe
        if recipe is None:
            raise InvalidRequest(f"{model}@{ref} has no patches; name some, or a release.", field="patches")
        parts, base = sorted(recipe.patches, key=lambda one: one.number), recipe.base
        method = how.method or recipe.method
    scaled = tuple(ScaledPatch(part, part.weight) for part in parts)
    start = Candidate(base, scaled, method)
    start.recipe()  # whatever is wrong is told before anything is downloaded
    with bench(client, model, [start], device=how.device, keep=how.keep, console=console) as opened:
        return _search(opened, scaled, method, how)


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
    how.check()
    if not files:
        raise InvalidRequest("There are no patches to tune; name patch files after the base.", field="patches")
    with _open_files(resolve(base, quiet=console.quiet), files, how, console) as (opened, scaled):
        return _search(opened, scaled, how.method or "sum", how)


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
        opened = dict(checked)
        scaled = tuple(
            ScaledPatch(item_of(sha256, weight, place, 1, path.name), weight)
            for place, ((sha256, _), (path, weight)) in enumerate(zip(checked, files, strict=True), 1)
        )
        others = files_beside(base, checkpoint.indexes)
        with open_bench(digest, checkpoint, others, opened, device=how.device, keep=how.keep, console=console) as made:
            yield made, scaled


def record(client: Client, model: str, tuned: Tuned, names: Names, how: How, *, console: Console = QUIET) -> Evaluation:
    """Have the best recipe composed at the registry, and record its score, and among how many it was chosen.

    Raises:
        Unauthenticated, Forbidden: The token may not compose or record.
        JobFailed: The composition failed.
    """
    items = [(patch.number, weight, patch.revision, factors) for patch, weight, factors in tuned.parts()]
    best = tuned.best
    composed = compose(client, model, items, alpha=best.setting.alpha, method=tuned.method, console=console)
    assert composed.recipe.digest == best.recipe and best.score is not None
    return client.add_evaluation(
        model,
        best.recipe,
        **asdict(names),
        value=best.score,
        command=shlex.join(name_of_scores(how.score)) or None,
        tried=tuned.scored,
    )


def _search(opened: Bench, scaled: tuple[ScaledPatch, ...], method: str, how: How) -> Tuned:
    Candidate(opened.base, scaled, method).recipe()  # whatever is wrong is told before patches are compared
    weights = tuple(patch.scale for patch in scaled)
    globs = [_globs(patch, opened.patches[patch.item.sha256].info.tensors, how) for patch in scaled]
    if unmatched := set(how.where).difference(*globs):
        raise InvalidRequest(f"No patch changes a tensor that matches {min(unmatched)!r}.", field="where")
    alpha = how.alpha
    if alpha == AUTO:
        weighted = [(patch.item.sha256, patch.scale) for patch in scaled]
        alpha = alpha_of_files(opened.checkpoint, opened.patches, weighted, method, console=opened.console)
    name = name_of_scores(how.score)
    scorer = Scorer(
        replace(opened, console=QUIET),  # who watches the search shows what is composed
        scaled,
        method,
        how.score,
        Scores(kept_file(cache() / "tuning", name) if name else None, how.again),
        how.workers,
        how.begun,
        how.told,
    )
    search = Search(Setting(_start(alpha), weights), scorer, how.budget, how.lowest)
    best = sample(search, globs, how.workers) if how.sampler == OPTUNA else search.run()
    return Tuned(best, search.tried, [patch.item for patch in scaled], method)


def _globs(patch: ScaledPatch, tensors: Collection[str], how: How) -> list[str]:
    """Return the globs in which a patch gets factors.

    Raises:
        InvalidRequest: The patch has factors already.
    """
    from registry.breadcrumbs.formats.globs import check_glob, matches

    chosen = [glob for glob in how.where if any(matches(check_glob(glob, "where"), name) for name in tensors)]
    chosen += [glob for glob in layers_of(tensors) if glob not in chosen] if how.by_layer else []
    if chosen and patch.item.where:
        raise InvalidRequest(
            f"Patch #{patch.item.number} has factors by tensor in this recipe; name the patches, to start without.",
            field="where",
        )
    return chosen


def _start(alpha: str) -> str:
    """Return an alpha that a search can start from.

    Raises:
        InvalidRequest: It is 0, which no step changes.
    """
    if not Decimal(alpha):
        raise InvalidRequest("A search cannot start at alpha 0; give another --alpha.", field="alpha")
    return three_digits(Decimal(alpha))
