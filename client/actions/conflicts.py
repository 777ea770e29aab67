"""Conflicts: where patches change the same weights, and the tensors in which that is worst."""

from collections.abc import Sequence
from dataclasses import dataclass

from client.actions.jobs import watch
from client.api.calls import Choice
from client.api.client import Client
from client.terminal.console import Console
from registry.errors import Unavailable
from registry.schemas import Conflicts, Overlap, PatchName

QUIET = Console(quiet=True)


@dataclass(frozen=True, slots=True)
class TensorConflict:
    """A tensor in which two patches pull apart."""

    first: PatchName
    second: PatchName
    tensor: str
    overlap: Overlap


@dataclass(frozen=True, slots=True)
class ConflictOverview:
    """The conflicts between patches, and the tensors with the most mass where signs differ, worst first."""

    conflicts: Conflicts
    worst: list[TensorConflict]


def find_conflicts(
    client: Client, model: str, patches: Sequence[Choice], tensors: int = 10, *, console: Console = QUIET
) -> ConflictOverview:
    """Have patches compared at the registry, wait for it, and fetch the worst tensors.

    Args:
        client: The registry.
        model: NS/NAME.
        patches: Number and revision of each; the registry chooses when there are none.
        tensors: How many of the worst tensors to find.
        console: Where notes and progress go.

    Raises:
        NotFound: There is no such model or patch.
        JobFailed: The comparison failed.
        JobCancelled: Somebody cancelled the comparison.
        Unavailable: The registry has not kept all that it computed.
    """
    conflicts = client.ask_conflicts(model, patches)
    if conflicts.job is not None:
        watch(
            client,
            conflicts.job,
            f"comparing {len(conflicts.patches)} patches",
            console,
            interrupted="The registry goes on comparing; run the same command to wait for it again.",
        )
        # the very patches of the job: the registry might choose others by now
        chosen, source = [choice(patch) for patch in conflicts.patches], conflicts.source
        conflicts = client.conflicts(model, chosen).model_copy(update={"source": source})
        if conflicts.missing:
            raise Unavailable(f"{model} has no numbers for {conflicts.missing} pairs; run the same command again.")
    return ConflictOverview(conflicts, find_worst(client, model, conflicts, tensors))


def find_worst(client: Client, model: str, conflicts: Conflicts, count: int) -> list[TensorConflict]:
    """Return the tensors with the most mass where signs differ, over all pairs.

    A tensor has no more of it than its pair has in all, so pairs with less in all than the worst tensors found so far
    are not asked for.
    """
    worst: list[TensorConflict] = []
    if count < 1:
        return worst
    for pair in sorted(conflicts.pairs, key=lambda pair: -pair.whole.opposed_mass):
        if pair.whole.opposed_mass <= (worst[-1].overlap.opposed_mass if len(worst) >= count else 0.0):
            break
        detail = client.conflict(model, choice(pair.first), choice(pair.second))
        worst += [
            TensorConflict(pair.first, pair.second, name, overlap)
            for name, overlap in (detail.tensors or {}).items()
            if overlap.opposed_mass > 0
        ]
        worst = sorted(worst, key=lambda row: -row.overlap.opposed_mass)[:count]
    return worst


def choice(patch: PatchName) -> Choice:
    """Return the number and revision of a patch, which name the same bytes for ever."""
    return patch.number, patch.revision
