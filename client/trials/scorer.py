"""The scorer of tuning: what settings are worth, by composing them here and scoring each model.

A command's scores are kept in the cache by command and recipe, so a search that is run again goes on where it was.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from client.live.in_place import InPlace
from client.trials.bench import Bench, Candidate, ScaledPatch
from client.trials.running import run_successfully
from client.trials.scores import read_number
from client.trials.searching import Factors, Phase, Setting, Tried
from registry.errors import NotFinite
from registry.files.durable import new_files

Score = Sequence[str] | Callable[[Path], float] | InPlace
"""What scores a model: a command (see `run_command`), a function of the model's folder, or one of a loaded model."""


@dataclass(slots=True)
class Scorer:
    """Scores settings by composing them here and scoring each model.

    Args:
        bench: The base and patches.
        patches: The patches that weights belong to.
        method: sum, ties or mean.
        how: What scores a model.
        scores: Those of earlier runs, and from now on.
        workers: How many models are scored at a time.
        begun: Called with each setting that is composed and scored, by any thread.
        told: Called with each result.
    """

    bench: Bench
    patches: Sequence[ScaledPatch]
    method: str
    how: Score
    scores: "Scores"
    workers: int
    begun: Callable[[Setting], None]
    told: Callable[[Tried], None]

    def __call__(self, phase: Phase, settings: Sequence[Setting]) -> list[Tried]:
        """Return what became of settings, in their order; an error or interruption ends the commands that run."""
        found: list[Tried] = []
        with ThreadPoolExecutor(self.workers, "tune") as pool:
            waiting = [pool.submit(self.score, phase, setting) for setting in settings]
            try:
                for done in as_completed(waiting):
                    done.result()  # an error is raised at once, and results are told in their order
                    while len(found) < len(waiting) and waiting[len(found)].done():
                        found.append(waiting[len(found)].result())
                        self.told(found[-1])
            except BaseException:
                self.bench.ended.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return found

    def candidate(self, setting: Setting) -> Candidate:
        """Return the model of a setting; a weight of 0 leaves a patch out."""
        parts = zip(self.patches, setting.weights, setting.where or [()] * len(self.patches), strict=True)
        chosen = tuple(_scaled(patch, weight, where) for patch, weight, where in parts if weight != "0")
        return Candidate(self.bench.base, chosen, self.method, setting.alpha)

    def score(self, phase: Phase, setting: Setting) -> Tried:
        """Score a setting, unless an earlier run did."""
        candidate = self.candidate(setting)
        recipe = candidate.recipe().digest
        if recipe in self.scores.kept:
            return Tried(phase, setting, recipe, self.scores.kept[recipe], kept=True)
        what = f"the model ({setting})"
        self.begun(setting)
        try:
            if isinstance(self.how, InPlace):
                score = self.how.score(self.bench.loaded(candidate, recipe[:12], self.how.load))
            else:
                with self.bench.model(candidate, recipe[:12]) as folder:
                    score = self.measure(self.how, folder, what)
        except NotFinite:
            return Tried(phase, setting, recipe, None)
        self.scores.keep(recipe, score)
        return Tried(phase, setting, recipe, score)

    def measure(self, how: Sequence[str] | Callable[[Path], float], folder: Path, what: str) -> float:
        """Return the score of the model in a folder."""
        if callable(how):
            return how(folder)
        return read_number(run_successfully(how, folder, what, self.bench.ended).output, what)


def _scaled(patch: ScaledPatch, weight: str, where: Factors) -> ScaledPatch:
    item = patch.item.model_copy(update={"where": list(where)}) if where else patch.item
    return ScaledPatch(item, weight)


def name_of_scores(how: Score) -> Sequence[str]:
    """Return what scores are kept under; nothing if they are not kept."""
    return how.name if isinstance(how, InPlace) else () if callable(how) else how


def kept_file(folder: Path, command: Sequence[str]) -> Path:
    """Return the file in a folder that keeps the scores of a command."""
    return folder / f"{hashlib.sha256(json.dumps(list(command)).encode()).hexdigest()}.json"


class Scores:
    """Scores by recipe.

    Args:
        file: Where they are kept for later runs; only in memory when None.
        again: Whether to forget what earlier runs found.
    """

    def __init__(self, file: Path | None, again: bool = False) -> None:
        self.file = file
        self.kept: dict[str, float] = {} if again or file is None else _read(file)
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


def _read(file: Path) -> dict[str, float]:
    try:
        table = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(table, dict):
        return {}
    return {recipe: float(score) for recipe, score in table.items() if isinstance(score, int | float)}
