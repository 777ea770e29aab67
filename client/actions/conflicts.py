"""Where patches meet: what the registry has computed of them, and in which tensors it is worst."""

from collections.abc import Sequence
from dataclasses import dataclass

from client.api.client import Client
from client.api.conflicts import Choice
from client.terminal.console import Console
from registry.errors import Unavailable
from registry.schemas import Conflicts, Overlap, PatchName

QUIET = Console(quiet=True)


@dataclass(frozen=True, slots=True)
class Worst:
    """A tensor in which two patches pull apart."""

    first: PatchName
    second: PatchName
    tensor: str
    overlap: Overlap


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where patches meet, and the tensors with the most at stake where signs differ, the worst first."""

    conflicts: Conflicts
    worst: list[Worst]


def compare(
    client: Client, model: str, patches: Sequence[Choice], tensors: int = 10, *, console: Console = QUIET
) -> Meeting:
    """Have patches compared at the registry, wait for it, and fetch what is worst.

    Args:
        client: The registry.
        model: NS/NAME.
        patches: Number and revision of each; the registry chooses when none are named.
        tensors: How many of the worst tensors to find.
        console: Where notes and progress go.

    Raises:
        JobFailed, JobCancelled: It was not computed.
        Unavailable: The registry has not kept what it computed.
    """
    found = client.ask_conflicts(model, patches)
    if found.job is not None:
        try:
            with console.waiting(f"comparing {len(found.patches)} patches") as progress:
                client.wait(found.job, progress=progress, idle=console.idle)
        except KeyboardInterrupt:
            console.note("\nThe registry goes on comparing; run the same command to wait for it again.")
            raise
        # the very patches of the job: which ones the registry would choose may be others by now
        source, found = found.source, client.conflicts(model, [choice(patch) for patch in found.patches])
        found = found.model_copy(update={"source": source})
        if found.missing:
            raise Unavailable(f"{model} has no numbers for {found.missing} pairs; run the same command again.")
    return Meeting(found, find_worst(client, model, found, tensors))


def find_worst(client: Client, model: str, found: Conflicts, count: int) -> list[Worst]:
    """Return the tensors with the most mass where signs differ, over all pairs.

    No tensor has more of it than its pair has in all, so that pairs whose all is less than the worst found are not
    even asked for.
    """
    best: list[Worst] = []
    if count < 1:
        return best
    for pair in sorted(found.pairs, key=lambda pair: -pair.whole.opposed_mass):
        if pair.whole.opposed_mass <= (best[-1].overlap.opposed_mass if len(best) >= count else 0.0):
            break
        detail = client.conflict(model, choice(pair.first), choice(pair.second))
        best += [
            Worst(pair.first, pair.second, name, overlap)
            for name, overlap in (detail.tensors or {}).items()
            if overlap.opposed_mass > 0
        ]
        best = sorted(best, key=lambda worst: -worst.overlap.opposed_mass)[:count]
    return best


def choice(patch: PatchName) -> Choice:
    """Return what names a patch at its revision for ever."""
    return patch.number, patch.revision
