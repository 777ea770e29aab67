"""The search of tuning: alpha and weights by a score, from few models.

    1  alpha      from where the patches' sizes put it (`auto`), by steps of 1.5 both ways, on while the edge wins
    2  weights    one pass over the patches, by number: 0, 0.5, 1 or 2, each with the best of what came before

sampling.py has another way, for more that is tuned at once. The same scores give the same models in the same order, so
a search that was interrupted goes on where it was: scores are kept by recipe and command. Of equal scores the one that
was tried first stays. The data behind the score must not be what the result is reported on: it has chosen the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

from registry.breadcrumbs.formats.recipe import normalise_decimal
from registry.errors import InvalidRequest

STEP = Decimal("1.5")
WEIGHTS = ("0", "0.5", "1", "2")
BUDGET = 24
"""Models that are scored unless somebody says otherwise."""

Phase = Literal["alpha", "weights", "sample"]
Factors = tuple[tuple[str, str], ...]
"""Factors of a weight by tensor: (glob, decimal); the first glob that matches counts."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tuned: alpha, a weight for each patch, and perhaps factors by tensor for each."""

    alpha: str
    weights: tuple[str, ...]
    where: tuple[Factors, ...] = ()

    def __str__(self) -> str:
        factors = [f"{place}:{glob}={by}" for place, pairs in enumerate(self.where, 1) for glob, by in pairs]
        return f"alpha {self.alpha}, weights {' '.join([*self.weights, *factors])}"


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
