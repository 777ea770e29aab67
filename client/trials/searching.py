"""The search of tuning: alpha and weights by a score of models, from few of them that are composed here.

    1  alpha      from where the patches' sizes put it (`auto`), by steps of 1.5 both ways, on while the edge wins
    2  weights    one pass over the patches, by number: 0, 0.5, 1 or 2, each with the best of what came before

The same scores give the same models in the same order, so a search that was interrupted goes on where it was: scores
are kept by recipe and command. Of equal scores the one that was tried first stays. The data behind the score must not
be what the result is reported on: it has chosen the model.
"""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Literal

from client.trials.bench import Bench, Candidate, ScaledPatch
from registry.breadcrumbs.formats.recipe import normalise_decimal
from registry.errors import InvalidRequest, NotFinite
from registry.files.durable import new_files

STEP = Decimal("1.5")
WEIGHTS = ("0", "0.5", "1", "2")
BUDGET = 24
"""Models that are scored unless somebody says otherwise."""

Phase = Literal["alpha", "weights"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tuned: alpha, and a weight for each patch."""

    alpha: str
    weights: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """A setting that was scored: None where it cannot be, because the composition overflows."""

    phase: Phase
    setting: Setting
    recipe: str
    score: float | None
    kept: bool = False
    """Whether the score is of an earlier run of the same command."""


@dataclass(slots=True)
class Search:
    """A search for the setting with the best score.

    Args:
        start: Where it starts.
        score: Scores settings; gives them in their order.
        budget: Most settings that are scored.
        lowest: Whether a lower score is better.
        tried: What was tried, in order.
    """

    start: Setting
    score: Callable[[Phase, Sequence[Setting]], Sequence[Tried]]
    budget: int = BUDGET
    lowest: bool = False
    tried: list[Tried] = field(default_factory=list)

    def run(self) -> Tried:
        """Search, and return the best that was tried.

        Raises:
            InvalidRequest: Nothing that was tried can be composed.
        """
        self.tune_alpha()
        for place in range(len(self.start.weights)):
            best = self.best().setting
            others = [weight for weight in WEIGHTS if weight != best.weights[place]]
            weighed = [
                replace(best, weights=(*best.weights[:place], weight, *best.weights[place + 1 :])) for weight in others
            ]
            self.ask("weights", [setting for setting in weighed if any(weight != "0" for weight in setting.weights)])
        return self.best()

    def tune_alpha(self) -> None:
        """Try the start and both neighbours, and go on where the last one is the best."""
        self.ask("alpha", [self.at(step) for step in (0, 1, -1)])
        low, high = -1, 1
        while self.tried and len(self.tried) < self.budget:
            best = self.best().setting
            if best == self.at(high):
                high += 1
                self.ask("alpha", [self.at(high)])
            elif best == self.at(low):
                low -= 1
                self.ask("alpha", [self.at(low)])
            else:
                return

    def at(self, step: int) -> Setting:
        """Return the start with alpha so many steps away."""
        return replace(self.start, alpha=three_digits(Decimal(self.start.alpha) * STEP**step))

    def ask(self, phase: Phase, settings: Sequence[Setting]) -> None:
        """Score settings that were not scored before, as far as the budget goes."""
        known = {one.setting for one in self.tried}
        new = [setting for setting in settings if setting not in known][: self.budget - len(self.tried)]
        if new:
            self.tried += self.score(phase, new)

    def best(self) -> Tried:
        """Return the best so far; of equal ones the first.

        Raises:
            InvalidRequest: None has a score.
        """
        scored = [one for one in self.tried if one.score is not None]
        if not scored:
            raise InvalidRequest("Every model that was tried overflows; start from a smaller --alpha.", field="alpha")
        sign = -1 if self.lowest else 1
        return max(scored, key=lambda one: sign * (one.score or 0.0))


def three_digits(number: Decimal) -> str:
    """Return a number as a decimal of three significant digits."""
    return normalise_decimal(f"{Decimal(f'{number:.3g}'):f}", "alpha")


@dataclass(slots=True)
class Scorer:
    """Scores settings by composing them here and measuring each.

    Args:
        bench: The base and patches.
        patches: The patches that weights belong to.
        method: sum, ties or mean.
        measure: Scores the model in a folder; its second argument names the model, for messages.
        scores: Those of earlier runs, and from now on.
        workers: How many models are measured at a time.
        told: Called with each result.
    """

    bench: Bench
    patches: Sequence[ScaledPatch]
    method: str
    measure: Callable[[Path, str], float]
    scores: "Scores"
    workers: int
    told: Callable[[Tried], None]

    def __call__(self, phase: Phase, settings: Sequence[Setting]) -> list[Tried]:
        """Return what became of settings, in their order."""
        with ThreadPoolExecutor(self.workers, "tune") as pool:
            found = []
            for one in pool.map(lambda setting: self.score(phase, setting), settings):
                self.told(one)
                found.append(one)
        return found

    def candidate(self, setting: Setting) -> Candidate:
        """Return the model of a setting; a weight of 0 leaves a patch out."""
        weighed = zip(self.patches, setting.weights, strict=True)
        chosen = tuple(replace(patch, scale=weight) for patch, weight in weighed if weight != "0")
        return Candidate(self.bench.base, chosen, self.method, setting.alpha)

    def score(self, phase: Phase, setting: Setting) -> Tried:
        """Score a setting, unless an earlier run did."""
        candidate = self.candidate(setting)
        recipe = candidate.recipe().digest
        if recipe in self.scores.kept:
            return Tried(phase, setting, recipe, self.scores.kept[recipe], kept=True)
        what = f"the model at alpha {setting.alpha}, weights {' '.join(setting.weights)},"
        try:
            with self.bench.model(candidate, recipe[:12]) as folder:
                score = self.measure(folder, what)
        except NotFinite:
            return Tried(phase, setting, recipe, None)
        self.scores.keep(recipe, score)
        return Tried(phase, setting, recipe, score)


class Scores:
    """Scores by recipe; those of a command are kept in a file.

    Args:
        file: Where they are kept; only in memory when None.
        again: Whether to forget what earlier runs found.
    """

    def __init__(self, file: Path | None = None, again: bool = False) -> None:
        self.file = file
        self.kept: dict[str, float] = {} if again else self._read()
        self.lock = threading.Lock()

    def keep(self, recipe: str, score: float) -> None:
        """Keep a score."""
        with self.lock:
            self._write(recipe, score)

    def _write(self, recipe: str, score: float) -> None:
        self.kept[recipe] = score
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with new_files([self.file]) as (file,):
            file.write(json.dumps(self.kept, indent=1).encode())

    def _read(self) -> dict[str, float]:
        if self.file is None:
            return {}
        try:
            table = json.loads(self.file.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        if not isinstance(table, dict):
            return {}
        return {recipe: float(score) for recipe, score in table.items() if isinstance(score, int | float)}
