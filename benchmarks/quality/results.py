"""What the experiments found, read from results.json, as the report's tables and figures need it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.experiments.counts import UNTUNED
from benchmarks.quality.experiments.merging import Setting
from benchmarks.quality.worlds.kinds import is_real

METHODS = ("breadcrumbs", "task arithmetic", "TIES")
"""Those with numbers to choose."""


@dataclass(frozen=True)
class Results:
    """One run."""

    document: Mapping[str, Any]

    @property
    def plan(self) -> Mapping[str, Any]:
        """What was tried."""
        found: Mapping[str, Any] = self.document["plan"]
        return found

    @property
    def kinds(self) -> list[str]:
        """The kinds of data whose base was trained here."""
        return [kind["name"] for kind in self.plan["kinds"] if not is_real(kind["name"])]

    def kind(self, name: str) -> Mapping[str, Any]:
        """Return what the plan says of a kind."""
        return next(kind for kind in self.plan["kinds"] if kind["name"] == name)

    def worlds(self, kind: str) -> list[Mapping[str, Any]]:
        """Return the worlds of a kind."""
        return [world for world in self.document["worlds"] if world["kind"] == kind]

    def orders(self, kind: str) -> list["Order"]:
        """Return all orders of a kind, of all of its worlds."""
        return [Order(found) for world in self.worlds(kind) for found in world["counts"]]


@dataclass(frozen=True)
class Order:
    """What was found in one order of tasks."""

    found: Mapping[str, Any]

    def test(self, count: int, setting: Setting) -> float:
        """Return the score on the test part."""
        score: float = self.found["test"][str(count)][setting.key]
        return score

    def base(self, count: int) -> float:
        """Return the base's score."""
        score: float = self.found["test"][str(count)]["base"]
        return score

    def once(self, method: str) -> Setting:
        """Return the setting that was chosen once, or that nothing is chosen for."""
        return UNTUNED[method] if method in UNTUNED else Setting(**self.found["once"][method])

    def chosen_once(self, count: int, method: str) -> float:
        """Return the score of the setting that was chosen once."""
        return self.test(count, self.once(method))

    def again(self, count: int, method: str) -> float:
        """Return the score of what is chosen again, on the validation part, at this number of tasks."""
        score: float = self.found["test"][str(count)][self.found["again"][method][str(count)]]
        return score

    def oracle(self, count: int, method: str) -> float:
        """Return the best score over alpha, on the test part itself, at the cuts that were chosen once."""
        setting = self.once(method)
        return max(self.test(count, setting.at(alpha)) for alpha in self.alphas(count, setting))

    def alphas(self, count: int, setting: Setting) -> list[str]:
        """Return the alphas that were tried at the cuts of a setting, ascending."""
        cuts = setting.at("").key
        parts = [key.rpartition(" x ") for key in self.found["validation"][str(count)]]
        return sorted((alpha for key, _, alpha in parts if key == cuts), key=float)

    def validated(self, count: int, setting: Setting) -> float:
        """Return the score on the validation part."""
        score: float = self.found["validation"][str(count)][setting.key]
        return score

    def best_alpha(self, count: int, setting: Setting) -> float:
        """Return the alpha that is best on the validation part."""
        tried = self.alphas(count, setting)
        return float(max(tried, key=lambda alpha: self.validated(count, setting.at(alpha))))

    def best_validated(self, count: int, setting: Setting) -> float:
        """Return the best score over alpha on the validation part, at the cuts of a setting."""
        return max(self.validated(count, setting.at(alpha)) for alpha in self.alphas(count, setting))

    def shrunk(self, count: int, method: str, power: float, few: Sequence[int]) -> float:
        """Return the score of alpha = c / count ** power, c chosen once; alpha is the nearest of those tried."""
        cuts = self.once(method)
        alphas = self.alphas(count, cuts)

        def near(c: float, count: int) -> Setting:
            return cuts.at(nearest(alphas, c / count**power))

        def validated(c: float) -> float:
            return sum(self.validated(count, near(c, count)) for count in few)

        known = [count for count in few if str(count) in self.found["validation"]]
        few = known or few
        best = max((float(alpha) * few[0] ** power for alpha in alphas), key=validated)
        return self.test(count, near(best, count))


def nearest(alphas: Sequence[str], wanted: float) -> str:
    """Return the alpha of the grid that is nearest."""
    return min(alphas, key=lambda alpha: abs(float(alpha) - wanted))


def load(path: Path) -> Results:
    """Read results.json."""
    return Results(json.loads(path.read_text("utf-8")))
