"""The search of tuning by Optuna's TPE sampler, for more numbers than steps can try one after another.

    alpha      log-uniform, within five steps of 1.5 of the start
    weights    0 to 2, of each patch
    factors    0 to 2, of each patch in each group of tensors

The first model is the start. The sampler has a fixed seed and is told scores in the order in which it asked, so the
same scores and the same number of workers give the same models.
"""

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from client.trials.searching import STEP, Factors, Search, Setting, Tried, three_digits

SEED = 0
STEPS = 5  # of 1.5, by which alpha may be away from the start
HIGHEST = 2.0  # weight and factor
GRAIN = Decimal("0.05")  # what weights and factors are rounded to
RANDOM = 4  # one in so many models is drawn at random, at the beginning
ASKED = 10  # most suggestions for each model of the budget; some are like earlier ones

_LAYER = re.compile(r"(?:[^.]+\.)*?[0-9]+\.")


def layers_of(tensors: Iterable[str]) -> list[str]:
    """Return a glob for each layer: `model.layers.3.*` of all names that start with `model.layers.3.`.

    A layer ends with the first number in a name. Tensors without a number belong to none.
    """
    starts = {match[0] for name in tensors if (match := _LAYER.match(name))}
    return [f"{start}*" for start in sorted(starts, key=_natural)]


def sample(search: Search, globs: Sequence[Sequence[str]], workers: int) -> Tried:
    """Search by the sampler, and return the best that was tried.

    Args:
        search: Where it starts, how settings are scored, and the budget.
        globs: The groups of tensors of each patch that get a factor of their own; see `layers_of`.
        workers: How many settings are asked for at a time.

    Raises:
        InvalidRequest: Nothing that was tried can be composed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=SEED, n_startup_trials=1 + search.budget // RANDOM)
    study = optuna.create_study(sampler=sampler, direction="minimize" if search.lowest else "maximize")
    study.enqueue_trial(_numbers(search.start, globs))
    asked = 0
    while len(search.tried) < search.budget and asked < ASKED * search.budget:
        trials = [study.ask() for _ in range(min(workers, search.budget - len(search.tried)))]
        suggested = [_suggest(trial, search.start, globs) for trial in trials]
        settings = suggested if asked else [search.start, *suggested[1:]]  # as it was given, and not rounded
        search.ask("sample", [setting for setting in settings if set(setting.weights) != {"0"}])
        scores = {one.setting: one.score for one in search.tried}
        for trial, setting in zip(trials, settings, strict=True):
            score = scores.get(setting)
            state = optuna.trial.TrialState.PRUNED if score is None else optuna.trial.TrialState.COMPLETE
            study.tell(trial, score, state)
        asked += len(trials)
    return search.best()


def _numbers(start: Setting, globs: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the start, by the names of what is tuned."""
    numbers = {"alpha": abs(float(start.alpha))}
    for place, weight in enumerate(start.weights):
        numbers[f"weight {place}"] = float(weight)
        numbers |= {f"factor {place} {glob}": 1.0 for glob in globs[place]}
    return numbers


def _suggest(trial: Any, start: Setting, globs: Sequence[Sequence[str]]) -> Setting:
    """Return the setting that a trial suggests."""
    size, sign = abs(Decimal(start.alpha)), "-" if start.alpha.startswith("-") else ""
    alpha = trial.suggest_float("alpha", float(size / STEP**STEPS), float(size * STEP**STEPS), log=True)
    weights, where = [], []
    for place, weight in enumerate(start.weights):
        low, high = min(0.0, float(weight)), max(HIGHEST, float(weight))
        weights.append(_rounded(trial.suggest_float(f"weight {place}", low, high)))
        found = [(glob, _rounded(trial.suggest_float(f"factor {place} {glob}", 0.0, HIGHEST))) for glob in globs[place]]
        where.append(_needed(found))
    return Setting(sign + three_digits(Decimal(repr(alpha))), tuple(weights), tuple(where) if any(globs) else ())


def _needed(factors: list[tuple[str, str]]) -> Factors:
    """Return factors without those at the end that are 1, as without them."""
    while factors and factors[-1][1] == "1":
        factors = factors[:-1]
    return tuple(factors)


def _rounded(number: float) -> str:
    return three_digits(round(Decimal(repr(number)) / GRAIN) * GRAIN)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts `layers.10.` after `layers.9.`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split("([0-9]+)", name)]
