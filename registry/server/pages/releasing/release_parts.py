"""What the page of a release is made of: its patches with their scales, differences of measurements, its manifest."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Evaluation, Model, Release
from registry.documents import provenance
from registry.documents.manifest import read_manifest
from registry.documents.versions import effective_scale
from registry.errors import InvalidRequest
from registry.services.curation import evaluations
from registry.services.curation.evaluations import MetricRow
from registry.services.people.actors import Actor

PRETTY = 2**16  # characters of a manifest that are shown


@dataclass(frozen=True)
class Part:
    """A patch of a release: its scale, alpha x weight, and who approved it."""

    item: schemas.RecipeItem
    scale: str
    approved: Sequence[str]


@dataclass(frozen=True)
class Difference:
    """A metric of the last of some subjects beside the others; `change` is None where one of the two is not there.

    `against` is the place of the one that it is compared to, `better` is None where they are equal.
    """

    measure: MetricRow
    against: int | None
    change: float | None
    better: bool | None

    @property
    def label(self) -> str:
        """What was measured, in a few words."""
        return f"{self.measure.dataset} · {self.measure.metric}"

    @property
    def drawn(self) -> tuple[str, list[float | None]]:
        """A row of a chart: what was measured, and the numbers in the order of the subjects."""
        return self.label, [found.value if found else None for found in self.measure.found]


@dataclass(frozen=True)
class Told:
    """What a published release says of itself: its manifest, as it is and to be read by people, and its provenance."""

    manifest: dict[str, Any]
    pretty: str
    cut: bool
    statement: dict[str, Any]


def parts(release: schemas.Release, approved: dict[str, list[str]]) -> list[Part]:
    """Return the patches of a release, by number; those that are no longer listed come first."""
    return [
        Part(
            item, effective_scale(release.recipe.alpha, item.weight), approved.get(f"{item.number}.{item.revision}", ())
        )
        for item in sorted(release.recipe.patches, key=lambda item: (item.number, item.revision))
    ]


def subject(session: Session, actor: Actor | None, model: Model, ref: str) -> evaluations.Subject | None:
    """Return what a reference stands for, as far as it can have been measured: a recipe cannot."""
    try:
        return evaluations.find_subject(session, actor, model, ref)
    except InvalidRequest:
        return None


def differences(measured: Sequence[MetricRow], last: int) -> list[Difference]:
    """Return how the subject at a place compares to the nearest one before it that was measured, too."""
    return [difference(one, one.found[last], last) for one in measured]


def difference(measure: MetricRow, here: Evaluation | None, last: int) -> Difference:
    """Return how one metric changed."""
    against = next((place for place in reversed(range(last)) if measure.found[place]), None)
    there = measure.found[against] if against is not None else None
    if here is None or there is None:
        return Difference(measure, against, None, None)
    change = here.value - there.value
    better = None if change == 0 else (change > 0) == measure.higher_is_better
    return Difference(measure, against, change, better)


def told(release: Release) -> Told | None:
    """Return what a release says of itself, once it is published."""
    if release.manifest is None:
        return None
    found = json.loads(release.manifest)
    pretty = json.dumps(found, indent=2, ensure_ascii=False)
    statement = provenance.statement(read_manifest(release.manifest.encode("utf-8")))
    return Told(found, pretty[:PRETTY], len(pretty) > PRETTY, statement)
