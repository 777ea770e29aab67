"""Which patch made a model bad: binary search over what differs between a good and a bad revision.

    changes 1..N, by patch number         what must change in the good recipe to make it the bad one
    candidate k                           the good recipe with the first k changes
    exit code of the command on it        0 good; 125 cannot be judged; 1..127 bad; all else ends the search
    found: k-1 is good and k is bad       then change k is what made it bad

as `git bisect run` does. Where candidates cannot be judged, what is left is a row of suspects.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from client.actions.pull import find_snapshot
from client.api.client import Client
from client.terminal.console import Console, plain
from client.trials.bench import (
    QUIET,
    Bench,
    Candidate,
    RecipePart,
    bench,
    candidate_of,
    check_command,
    ending,
    run_command,
)
from registry.errors import InvalidRequest, JobFailed, NotFinite

Verdict = Literal["good", "bad", "skip"]
SKIP = 125  # exit code of a command that cannot judge
LAST = 127  # greatest exit code that is a verdict


@dataclass(frozen=True, slots=True)
class Change:
    """One patch that the two recipes have at other scales or revisions, or of which one has none."""

    number: int
    before: tuple[RecipePart, ...]
    after: tuple[RecipePart, ...]

    @property
    def title(self) -> str:
        """The patch's title."""
        return (self.after or self.before)[0].item.title

    @property
    def words(self) -> str:
        """What happens to the patch, as in `added at 0.3`."""
        if not self.before:
            return f"added at {_scales(self.after)}"
        if not self.after:
            return f"removed, was at {_scales(self.before)}"
        if [part.item.sha256 for part in self.before] == [part.item.sha256 for part in self.after]:
            return f"from {_scales(self.before)} to {_scales(self.after)}"
        before, after = (
            " and ".join(f"revision {part.item.revision} at {part.scale}" for part in parts)
            for parts in (self.before, self.after)
        )
        return f"from {before} to {after}"

    def document(self) -> dict[str, object]:
        """Return it for programs."""
        before, after = (
            [{"sha256": part.item.sha256, "revision": part.item.revision, "scale": part.scale} for part in parts]
            for parts in (self.before, self.after)
        )
        return {"number": self.number, "title": self.title, "change": self.words, "before": before, "after": after}


@dataclass(frozen=True, slots=True)
class Step:
    """One candidate that was tried: how many changes it has, what was found, and the command's exit code.

    `code` is None where the candidate overflowed and the command had nothing to run on.
    """

    applied: int
    verdict: Verdict
    code: int | None
    recipe: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Bisection:
    """What was found: the suspects among the changes, one unless candidates could not be judged; and how."""

    changes: list[Change]
    suspects: list[Change]
    steps: list[Step]

    @property
    def found(self) -> bool:
        """Whether one change is left."""
        return len(self.suspects) == 1


def bisect(
    client: Client,
    model: str,
    good: str,
    bad: str,
    command: Sequence[str],
    *,
    verify_ends: bool = True,
    device: str = "cpu",
    keep: Path | None = None,
    console: Console = QUIET,
) -> Bisection:
    """Find the change that made a model bad, by running a command on log2(changes) models composed here.

    Args:
        client: The registry.
        model: NS/NAME.
        good: A revision on which the command exits with 0.
        bad: A revision on which it exits with 1 to 127, but not 125.
        command: See `run_command`.
        verify_ends: Whether to see first that `good` is good and `bad` is bad.
        device: Where models are composed.
        keep: See `bench`.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: The two do not differ, or are not what they are said to be.
        JobFailed: The command ends with a code that is no verdict.
    """
    check_command(command)
    start, end = (candidate_of(find_snapshot(client, model, ref, console)) for ref in (good, bad))
    changes = difference(start, end)
    if not changes:
        raise InvalidRequest(f"{model}@{good} and {model}@{bad} have the same recipe; there is nothing to search.")
    names = {0: f"{model}@{good}, said to be good,", len(changes): f"{model}@{bad}, said to be bad,"}
    steps: list[Step] = []
    with bench(client, model, [start, end], device=device, keep=keep, console=console) as opened:

        def test(applied: int) -> Verdict:
            what = names.get(applied, f"{model}@{good} with {applied} of {len(changes)} changes")
            step = _try(opened, command, apply(start, changes[:applied]), applied, len(changes), what)
            steps.append(step)
            how = "the composition overflows" if step.code is None else ending(step.code)
            console.note(f"{applied} of {len(changes)} changes: {step.verdict} ({how})")
            return step.verdict

        if verify_ends:
            _verify(test, 0, "good", names[0])
            _verify(test, len(changes), "bad", names[len(changes)])
        low, high = search(len(changes), test)
    return Bisection(changes, changes[low:high], steps)


def difference(before: Candidate, after: Candidate) -> list[Change]:
    """Return what makes one candidate the other, a change for each patch, ascending by number.

    Raises:
        InvalidRequest: They have different bases.
    """
    if before.base != after.base:
        raise InvalidRequest(f"One has the base {before.base} and the other {after.base}; nothing lies between them.")
    old, new = _by_patch(before.parts), _by_patch(after.parts)
    return [
        Change(key[0], old.get(key, ()), new.get(key, ()))
        for key in sorted({*old, *new})
        if _shape(old.get(key, ())) != _shape(new.get(key, ()))
    ]


def apply(start: Candidate, changes: Iterable[Change]) -> Candidate:
    """Return a candidate with some changes made."""
    parts = list(start.parts)
    for change in changes:
        gone = {part.item.sha256 for part in change.before}
        parts = [part for part in parts if part.item.sha256 not in gone]
        parts += change.after
    return Candidate(start.base, tuple(parts))


def search(count: int, test: Callable[[int], Verdict]) -> tuple[int, int]:
    """Search the first bad of the candidates 0..count, of which 0 is good and `count` is bad.

    After one that cannot be judged, the middle of the longest row of untried ones is next: what cannot be judged often
    lies side by side.

    Returns:
        The last that is good and the first that is bad; those between, if any, cannot be judged.
    """
    low, high = 0, count
    skipped: set[int] = set()
    while True:
        edges = [low, *sorted(place for place in skipped if low < place < high), high]
        first, last = max(pairwise(edges), key=lambda gap: gap[1] - gap[0])
        if last - first < 2:
            return low, high
        middle = (first + last) // 2
        verdict = test(middle)
        if verdict == "good":
            low = middle
        elif verdict == "bad":
            high = middle
        else:
            skipped.add(middle)


def judge(code: int, what: str) -> Verdict:
    """Return what an exit code says, as `git bisect run` reads it; minus a signal is one of those that end all.

    Raises:
        JobFailed: It is no verdict.
    """
    if not 0 <= code <= LAST:
        raise JobFailed(
            f"The command ended the search on {what.rstrip(',')}: {ending(code)}; "
            f"0 is good, {SKIP} cannot be judged, any other up to {LAST} is bad."
        )
    return "good" if code == 0 else "skip" if code == SKIP else "bad"


def _try(opened: Bench, command: Sequence[str], candidate: Candidate, applied: int, count: int, what: str) -> Step:
    recipe = candidate.recipe().digest
    try:
        with opened.model(candidate, f"{applied}-of-{count}") as folder:
            trial = run_command(command, folder)
    except NotFinite:
        if applied in (0, count):
            raise
        return Step(applied, "skip", None, recipe, 0.0)  # as a commit that does not build
    if trial.output.strip():
        opened.console.note(plain(trial.output.rstrip(), lines=True))
    return Step(applied, judge(trial.code, what), trial.code, recipe, trial.seconds)


def _verify(test: Callable[[int], Verdict], place: int, said: Verdict, name: str) -> None:
    found = test(place)
    if found == "skip":
        raise InvalidRequest(f"The command cannot judge {name.rstrip(',')}; nothing can be searched from there.")
    if found != said:
        raise InvalidRequest(f"{name} is {found}: the command says so; are the two ends swapped?")


def _by_patch(parts: Iterable[RecipePart]) -> dict[tuple[int, str], tuple[RecipePart, ...]]:
    """Sort parts by patch; one that the registry no longer lists stands for itself."""
    found: dict[tuple[int, str], tuple[RecipePart, ...]] = {}
    for part in sorted(parts, key=lambda part: part.item.sha256):
        key = (part.item.number, "" if part.item.number else part.item.sha256)
        found[key] = (*found.get(key, ()), part)
    return found


def _shape(parts: Iterable[RecipePart]) -> list[tuple[str, str]]:
    return [(part.item.sha256, part.scale) for part in parts]


def _scales(parts: Iterable[RecipePart]) -> str:
    return " and ".join(part.scale for part in parts)
