"""A small release, whole and sound."""

from dataclasses import replace
from datetime import UTC, datetime

from registry.breadcrumbs.formats.recipe import make_recipe
from registry.documents.manifest import Approval, Audit, Builder, Evaluation, File, Manifest, Patch, Previous

BASE, WEIGHTS = "sha256:" + "0" * 64, "sha256:" + "1" * 64
A, B = "a" * 64, "b" * 64
RECIPE = make_recipe(BASE, "0.3", [(B, "-0.5"), (A, "1")])
MANIFEST = Manifest(
    model="org/model",
    version="1.2.0-rc.1",
    base=BASE,
    recipe=RECIPE,
    weights_digest=WEIGHTS,
    files=(File("config.json", "2" * 64, 10), File("model.safetensors", "3" * 64, 2**40)),
    patches=(
        Patch(1, 2, A, "1", "alice", (Approval("bob", A), Approval("carol", A))),
        Patch(7, 1, B, "-0.5", "Zoë", ()),
    ),
    evaluations=(Evaluation("sums", "two digits", "accuracy", 0.1, True, "bob"),),
    changelog_sha256="4" * 64,
    card_sha256="5" * 64,
    builders=(Builder("worker-1", WEIGHTS, "cuda:H100"), Builder("alice", WEIGHTS, "cpu")),
    previous=Previous("1.1.0", "6" * 64),
    audit=Audit(12, "7" * 64),
    created_at=datetime(2026, 11, 25, 10, 0, 0, 5, tzinfo=UTC),
)


def changed(**fields) -> Manifest:
    """Return the release with other fields."""
    return replace(MANIFEST, **fields)
