"""What was found on the real base, as its report needs it: runs of a setting, and rules for alpha with their regret."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.quality.experiments.alphas import between, inside
from benchmarks.quality.experiments.bench import COMBINED
from benchmarks.quality.experiments.merging import Setting
from benchmarks.quality.minilm.experiment import few, step
from benchmarks.quality.minilm.kind import WHOLE
from benchmarks.quality.results import Results
from benchmarks.quality.worlds.kinds import is_real
from registry.breadcrumbs.comparing.alpha import factor_of, kept_share

FACTORS = 1.05 ** np.arange(-60, 81)
"""Among which the factor of a rule is looked for: 0.05 to 50."""


@dataclass(frozen=True)
class Run:
    """One setting in one order of tasks of one world.

    Attributes:
        kind: The kind's name, which says the learning rate.
        seed: The world's.
        number: The order's.
        found: What `experiment.merged` found, by number of tasks.
        layers: The norm of the layers' weights.
    """

    kind: str
    seed: int
    number: int
    found: Mapping[str, Mapping[str, Any]]
    layers: float = 1.0

    @property
    def place(self) -> tuple[str, int, int]:
        """Which tasks, in which order."""
        return self.kind, self.seed, self.number

    @property
    def counts(self) -> list[int]:
        """Numbers of tasks."""
        return [int(count) for count in self.found]

    @property
    def chosen_at(self) -> int:
        """At how many tasks alpha is chosen once."""
        return few(self.counts)

    def best_alpha(self, count: int) -> float:
        """Return the alpha that is best on validation texts."""
        return float(self.found[str(count)]["best"])

    def score(self, count: int) -> float:
        """Return the test score at the best alpha."""
        at = self.found[str(count)]
        return float(at["test"][at["best"]])

    def lost_by_keeping(self, count: int) -> float:
        """Return what is lost, on test texts, by keeping the alpha that was chosen at few tasks."""
        kept = self.found[str(self.chosen_at)]["best"]
        return self.score(count) - float(self.found[str(count)]["test"][kept])

    def regrets(self, count: int, alphas: ArrayLike) -> NDArray[np.float64]:
        """Return what is lost at alphas against the best one, on validation texts."""
        scores = self.found[str(count)]["validation"]
        return max(scores.values()) - between(scores, alphas)

    def validated(self, count: int, alpha: float) -> float:
        """Return the validation score at an alpha, between those tried."""
        return float(between(self.found[str(count)]["validation"], [alpha])[0])

    def tried(self, count: int, alpha: float) -> bool:
        """Say whether an alpha is within those tried."""
        return inside(self.found[str(count)]["validation"], alpha)

    def ratio(self, count: int, made: str = "sum") -> float:
        """Return the mean norm of the patches over that of their sum, or of what the method makes of them."""
        norms = self.found[str(count)]["norms"]
        return float(norms["patches"] / norms[made])

    def change(self, count: int) -> float:
        """Return the mean norm of the patches over that of the layers' weights."""
        return float(self.found[str(count)]["norms"]["patches"]) / self.layers


Rule = Callable[[Run, int], float]
"""Alpha at a number of tasks, but for a factor."""

SUM_RULE, TIES_RULE = "f x √(base / (n x sum))", "f x √(base x patch) / sum"
"""What alpha auto is for `sum`, and for `ties` and `mean`."""

RULES: dict[str, Rule] = {
    "one alpha": lambda run, count: 1.0,
    "c / n": lambda run, count: 1 / count,
    "c / √n": lambda run, count: count**-0.5,
    "f x norm rule": lambda run, count: run.ratio(count),
    "f x norm rule, of what is made": lambda run, count: run.ratio(count, "made"),
    SUM_RULE: lambda run, count: (run.ratio(count) / count / run.change(count)) ** 0.5,
    TIES_RULE: lambda run, count: run.ratio(count) / run.change(count) ** 0.5,
}


@dataclass(frozen=True)
class Fit:
    """A rule with its best factor.

    Attributes:
        factor: The factor with the least mean regret.
        regrets: Regret of each run at each number of tasks.
        others: The same, where a run's factor is the best for the other worlds.
        outside: Part of the alphas that were not within those tried; their regret is that of the nearest tried.
    """

    factor: float
    regrets: Mapping[int, Sequence[float]]
    others: Sequence[float]
    outside: float


def fit(runs: Sequence[Run], rule: Rule, counts: Sequence[int], factors: NDArray[np.float64] = FACTORS) -> Fit:
    """Find the factor of a rule that loses least, over runs and numbers of tasks."""
    table = np.array([[run.regrets(n, factors * rule(run, n)) for n in counts] for run in runs])
    table = np.moveaxis(table, 2, 0)  # [factors, runs, counts]
    best = int(table.mean((1, 2)).argmin())
    worlds = [(run.kind, run.seed) for run in runs]
    others = []
    for place, world in enumerate(worlds):
        rest = [other != world for other in worlds]
        if any(rest):
            others.append(float(table[table[:, rest].mean((1, 2)).argmin(), place].mean()))
    outside = [not run.tried(n, factors[best] * rule(run, n)) for run in runs for n in counts]
    regrets = {n: table[best, :, column].tolist() for column, n in enumerate(counts)}
    return Fit(float(factors[best]), regrets, others, float(np.mean(outside)))


def constant(setting: Setting) -> float:
    """Return the constant of alpha auto for patches with these cuts."""
    return factor_of(kept_share(setting.drop_bottom, setting.drop_top))


def automatic(runs: Sequence[Run], setting: Setting, counts: Sequence[int]) -> Fit:
    """Return what alpha auto loses, with its own constant."""
    return fit(runs, RULES[rule_of(setting)], counts, np.array([constant(setting)]))


def at_auto(run: Run, setting: Setting, count: int) -> float:
    """Return the validation score at alpha auto."""
    return run.validated(count, constant(setting) * RULES[rule_of(setting)](run, count))


def pairs(results: Results, chosen: Iterable[str], one: Setting, other: Setting) -> list[tuple[Run, Run]]:
    """Return the runs of two settings on the same tasks in the same order, where both were tried."""
    chosen = list(chosen)
    known = {run.place: run for run in runs(results, chosen, other)}
    return [(run, known[run.place]) for run in runs(results, chosen, one) if run.place in known]


def rule_of(setting: Setting) -> str:
    """Return the rule that alpha auto goes by."""
    return TIES_RULE if setting.method in COMBINED else SUM_RULE


def kinds(results: Results) -> list[str]:
    """Return the kinds on the real base, the smallest learning rate first."""
    names = [kind for kind in results.plan["kinds"] if is_real(kind["name"])]
    return [kind["name"] for kind in sorted(names, key=lambda kind: kind["rate"])]


def settings(results: Results, kind: str) -> list[Setting]:
    """Return the settings, without alpha, that were tried in a world of a kind, or in several."""
    planned = [Setting(**setting) for setting in results.kind(kind)["settings"]]
    return [setting for setting in planned if any(step(setting) in world for world in results.worlds(kind))]


def runs(results: Results, chosen: Iterable[str], setting: Setting) -> list[Run]:
    """Return all runs of a setting, of some kinds."""
    return [
        Run(kind, world["seed"], number, found, layers_norm(world))
        for kind in chosen
        for world in results.worlds(kind)
        if step(setting) in world
        for number, found in enumerate(world[step(setting)]["orders"])
    ]


def layers_norm(world: Mapping[str, Any]) -> float:
    """Return the norm of the base's weights in its layers, from how large the whole differences are to it."""
    whole = world.get(step(WHOLE))
    if whole is None:
        return 1.0
    norms = whole["orders"][0]
    return float(norms[max(norms, key=int)]["norms"]["patches"] / np.mean(list(world["changes"]["of_layers"].values())))


def size(results: Results, kind: str, setting: Setting) -> float:
    """Return the mean bytes of a patch."""
    tried = [world[step(setting)] for world in results.worlds(kind) if step(setting) in world]
    return float(np.mean([found["bytes"] for found in tried]))


def plain(results: Results, kind: str, name: str, count: int) -> list[float]:
    """Return the scores of `base` or `averaging`, in each order."""
    return [order[str(count)][name] for world in results.worlds(kind) for order in world["averaging"]]


def name_of(setting: Setting) -> str:
    """Return what a setting is called in tables: method, cuts, and what is masked at a time."""
    if setting.params == WHOLE.params:
        return "no mask"
    method = "random" if setting.random else {"breadcrumbs": "sum", "TIES": "ties"}.get(setting.method, setting.method)
    return f"{method} {setting.drop_bottom}/{setting.drop_top}" + " by row" * (setting.granularity == "row")
