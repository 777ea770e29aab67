"""Parts of the pages of releases: patches with their scales, and differences of evaluations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry import schemas
from registry.documents.versions import effective_scale
from registry.server.views.releases import MetricRow

PRETTY = 2**16  # characters of a manifest that are shown


@dataclass(frozen=True)
class ReleasePatch:
    """A patch of a release: its scale, alpha x weight, and who approved it."""

    item: schemas.RecipeItem
    scale: str
    approved: Sequence[str]


@dataclass(frozen=True)
class Difference:
    """A metric of several subjects, and how the last of them differs from another.

    Args:
        metric: The metric, with its newest evaluation of each subject.
        against: The place of the subject that the last one is compared with.
        change: The difference; None if one of the two has no evaluation.
        better: Whether the change is for the better; None if there is none.
    """

    metric: MetricRow
    against: int | None
    change: float | None
    better: bool | None

    @property
    def label(self) -> str:
        """What was measured, in a few words."""
        return f"{self.metric.dataset} · {self.metric.metric}"

    @property
    def drawn(self) -> tuple[str, list[float | None]]:
        """A row of a chart: what was measured, and the numbers in the order of the subjects."""
        return self.label, [evaluation.value if evaluation else None for evaluation in self.metric.found]


def release_patches(release: schemas.Release, approvals: Mapping[str, Sequence[str]]) -> list[ReleasePatch]:
    """Return the patches of a release by number; those that are no longer listed come first."""
    alpha = release.recipe.alpha
    return [
        ReleasePatch(item, effective_scale(alpha, item.weight), approvals.get(f"{item.number}.{item.revision}", ()))
        for item in sorted(release.recipe.patches, key=lambda item: (item.number, item.revision))
    ]


def differences(rows: Sequence[MetricRow], last: int) -> list[Difference]:
    """Return how the subject at a place differs from the nearest one before it that has an evaluation."""
    return [difference(row, last) for row in rows]


def difference(row: MetricRow, last: int) -> Difference:
    """Return how one metric of the subject at a place changed."""
    against = next((place for place in reversed(range(last)) if row.found[place]), None)
    new, old = row.found[last], row.found[against] if against is not None else None
    if new is None or old is None:
        return Difference(row, against, None, None)
    change = new.value - old.value
    better = None if change == 0 else (change > 0) == row.higher_is_better
    return Difference(row, against, change, better)
