"""Bisect: which patch made a model bad, by binary search between a good and a bad snapshot.

    changes 1..N, by patch number         what must change in the good recipe to make it the bad one
    candidate k                           the good recipe with the first k changes
    exit code of the command on it        0 good; 125 cannot be judged; 1..127 bad; all others end the search
    result: k-1 is good and k is bad      then change k made it bad

as `git bisect run` does. Where candidates cannot be judged, a row of suspects is left.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from client.actions.snapshots import find_snapshot
from client.api.client import Client
from client.terminal.console import Console, plain
from client.terminal.recipes import with_factors
from client.trials.bench import (
    QUIET,
    Bench,
    Candidate,
    ScaledPatch,
    bench,
    candidate_of,
)
from client.trials.running import check_command, ending, run_command
from registry.errors import InvalidRequest, JobFailed, NotFinite

Verdict = Literal["good", "bad", "skip"]
SKIP = 125  # exit code of a command that cannot judge
LAST_VERDICT = 127  # greatest exit code that is a verdict


@dataclass(frozen=True, slots=True)
class PatchChange:
    """A patch that differs between two recipes: in scale or revision, or only one of them has it."""

    number: int
    before: tuple[ScaledPatch, ...]
    after: tuple[ScaledPatch, ...]

    @property
    def title(self) -> str:
        """The patch's title."""
        return (self.after or self.before)[0].item.title

    @property
    def words(self) -> str:
        """What changes, like `added at 0.3`."""
        if not self.before:
            return f"added at {_scales(self.after)}"
        if not self.after:
            return f"removed, was at {_scales(self.before)}"
        if [patch.item.sha256 for patch in self.before] == [patch.item.sha256 for patch in self.after]:
            return f"from {_scales(self.before)} to {_scales(self.after)}"
        before, after = (
            " and ".join(f"revision {patch.item.revision} at {patch.scale}" for patch in patches)
            for patches in (self.before, self.after)
        )
        return f"from {before} to {after}"

    def document(self) -> dict[str, object]:
        """Return the change for a JSON document."""
        before, after = (
            [{"sha256": patch.item.sha256, "revision": patch.item.revision, "scale": patch.scale} for patch in patches]
            for patches in (self.before, self.after)
        )
        return {"number": self.number, "title": self.title, "change": self.words, "before": before, "after": after}


@dataclass(frozen=True, slots=True)
class JudgedCandidate:
    """A candidate that was tried: its number of changes, the verdict, and the command's exit code.

    `code` is None where the candidate overflowed, so that there was nothing to run the command on.
    """

    applied: int
    verdict: Verdict
    code: int | None
    recipe: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Bisection:
    """The result of a search: its steps, and the suspects; one, unless some candidates could not be judged."""

    changes: list[PatchChange]
    suspects: list[PatchChange]
    steps: list[JudgedCandidate]

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
        good: A snapshot on which the command exits with 0.
        bad: A snapshot on which it exits with 1 to 127, but not 125.
        command: See `run_command`.
        verify_ends: Whether to check first that `good` is good and `bad` is bad.
        device: Where models are composed.
        keep: See `bench`.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: The two have the same recipe, or the command judges them otherwise.
        JobFailed: The command ends with a code that is not a verdict.
    """
    check_command(command)
    start, end = (candidate_of(find_snapshot(client, model, ref, console)) for ref in (good, bad))
    changes = difference(start, end)
    if not changes:
        raise InvalidRequest(f"{model}@{good} and {model}@{bad} have the same recipe; there is nothing to search.")
    names = {0: f"{model}@{good}, given as good,", len(changes): f"{model}@{bad}, given as bad,"}
    steps: list[JudgedCandidate] = []
    with bench(client, model, [start, end], device=device, keep=keep, console=console) as opened:

        def test(applied: int) -> Verdict:
            what = names.get(applied, f"{model}@{good} with {applied} of {len(changes)} changes")
            step = _try(opened, command, apply(start, changes[:applied], end), applied, len(changes), what)
            steps.append(step)
            how = "the composition overflows" if step.code is None else ending(step.code)
            console.note(f"{applied} of {len(changes)} changes: {step.verdict} ({how})")
            return step.verdict

        if verify_ends:
            _verify(test, 0, "good", names[0])
            _verify(test, len(changes), "bad", names[len(changes)])
        low, high = search(len(changes), test)
    return Bisection(changes, changes[low:high], steps)


def difference(before: Candidate, after: Candidate) -> list[PatchChange]:
    """Return the changes that make one candidate the other, one for each patch, ascending by number.

    Raises:
        InvalidRequest: The candidates have different bases, or combine their patches in different ways.
    """
    if before.patches and after.patches and (before.method, before.alpha) != (after.method, after.alpha):
        raise InvalidRequest(
            f"One combines its patches by {before.method} at alpha {before.alpha} and the other by {after.method} at "
            f"alpha {after.alpha}, which changes all of them at once; compose one with the other's method first."
        )
    if before.base != after.base:
        raise InvalidRequest(f"One has the base {before.base} and the other {after.base}; nothing lies between them.")
    old, new = _by_patch(before.patches), _by_patch(after.patches)
    return [
        PatchChange(key[0], old.get(key, ()), new.get(key, ()))
        for key in sorted({*old, *new})
        if _content(old.get(key, ())) != _content(new.get(key, ()))
    ]


def apply(start: Candidate, changes: Iterable[PatchChange], like: Candidate) -> Candidate:
    """Return a candidate with some changes made; one without patches combines them as `like` does."""
    patches = list(start.patches)
    for change in changes:
        gone = {patch.item.sha256 for patch in change.before}
        patches = [patch for patch in patches if patch.item.sha256 not in gone]
        patches += change.after
    how = start if start.patches else like
    return replace(how, base=start.base, patches=tuple(patches))


def search(count: int, test: Callable[[int], Verdict]) -> tuple[int, int]:
    """Search the first bad candidate of 0..count, of which 0 is good and `count` is bad.

    After one that cannot be judged, the middle of the longest row of untried ones is next, since those that cannot be
    judged are often neighbours.

    Returns:
        The last good and the first bad candidate; those between, if any, cannot be judged.
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
    """Return the verdict of an exit code, as `git bisect run` reads it.

    Args:
        code: The exit code, or minus the signal that ended the command, which is not a verdict.
        what: The candidate's name, for the message.

    Raises:
        JobFailed: The code is not a verdict.
    """
    if not 0 <= code <= LAST_VERDICT:
        raise JobFailed(
            f"The command ended the search on {what.rstrip(',')}: {ending(code)}; "
            f"0 is good, {SKIP} cannot be judged, any other up to {LAST_VERDICT} is bad."
        )
    return "good" if code == 0 else "skip" if code == SKIP else "bad"


def _try(
    opened: Bench, command: Sequence[str], candidate: Candidate, applied: int, count: int, what: str
) -> JudgedCandidate:
    recipe = candidate.recipe().digest
    try:
        with opened.model(candidate, f"{applied}-of-{count}") as folder:
            trial = run_command(command, folder)
    except NotFinite:
        if applied in (0, count):
            raise
        return JudgedCandidate(applied, "skip", None, recipe, 0.0)  # as a commit that does not build
    if trial.output.strip():
        opened.console.note(plain(trial.output.rstrip(), lines=True))
    return JudgedCandidate(applied, judge(trial.code, what), trial.code, recipe, trial.seconds)


def _verify(test: Callable[[int], Verdict], place: int, expected: Verdict, name: str) -> None:
    verdict = test(place)
    if verdict == "skip":
        raise InvalidRequest(f"The command cannot judge {name.rstrip(',')}; nothing can be searched from there.")
    if verdict != expected:
        raise InvalidRequest(f"{name} is {verdict}: the command says so; are the two ends swapped?")


def _by_patch(patches: Iterable[ScaledPatch]) -> dict[tuple[int, str], tuple[ScaledPatch, ...]]:
    """Group revisions by patch; one that the registry no longer lists is a group of its own."""
    groups: dict[tuple[int, str], tuple[ScaledPatch, ...]] = {}
    for patch in sorted(patches, key=lambda patch: patch.item.sha256):
        key = (patch.item.number, "" if patch.item.number else patch.item.sha256)
        groups[key] = (*groups.get(key, ()), patch)
    return groups


def _content(patches: Iterable[ScaledPatch]) -> list[tuple[str, str, tuple[tuple[str, str], ...]]]:
    return [(patch.item.sha256, patch.scale, tuple(patch.item.where)) for patch in patches]


def _scales(patches: Iterable[ScaledPatch]) -> str:
    return " and ".join(with_factors(patch.scale, patch.item.where) for patch in patches)
