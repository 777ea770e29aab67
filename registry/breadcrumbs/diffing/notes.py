"""Notes: what whoever diffs is told of a comparison that made a patch, each a sentence."""

from collections.abc import Collection, Iterator

from registry.breadcrumbs.diffing.faults import NAMES_SHOWN
from registry.breadcrumbs.diffing.pairing import Pairing
from registry.breadcrumbs.formats.checkpoint import Checkpoint, Weights
from registry.breadcrumbs.formats.header import show
from registry.breadcrumbs.formats.weight_files import tell_left_out

FAR = 0.5
"""norm(tuned - base) / norm(base) of the matrices from which on the base is doubted. Fine-tuning seldom changes 0.1;
unrelated models give 1.41 (sqrt 2), of whatever size. Vectors do not count: norm layers start at 1 in all models."""


def tell(
    base: Checkpoint, tuned: Weights, pairing: Pairing, rounded: Collection[str], change: float | None
) -> list[str]:
    """Return what whoever diffs should know.

    Args:
        base: The base.
        tuned: The tuned checkpoint.
        pairing: How they were paired.
        rounded: The tensors of which the base was rounded before they were compared.
        change: norm(tuned - base) / norm(base) in the matrices; None if they are 0 in the base.
    """
    return [
        *_tell_pairing(pairing),
        *_tell_far(change),
        *_tell_copies(base, tuned),
        *_tell_rounded(tuned, pairing, rounded),
    ]


def _tell_pairing(pairing: Pairing) -> Iterator[str]:
    """Tell in what way the two do not have the same tensors."""
    if pairing.prefix.text:
        yield str(pairing.prefix)
    rows = list(pairing.rows.items())
    for name, count in rows[:NAMES_SHOWN]:
        yield f"The first {count} rows of {show(name)} were compared; the patch leaves other rows of the base alone."
    if len(rows) > NAMES_SHOWN:
        yield f"The same holds for {len(rows) - NAMES_SHOWN} more tensors."
    if pairing.left_out:
        named = "; ".join(map(str, pairing.left_out[:NAMES_SHOWN]))
        more = len(pairing.left_out) - NAMES_SHOWN
        yield f"Left out, and not in the patch: {named}{f'; and {more} more' if more > 0 else ''}."


def _tell_far(change: float | None) -> Iterator[str]:
    if change is not None and change >= FAR:
        yield (
            f"The tuned model is far from this base: norm(tuned - base) is {change:.2f} of norm(base) in its matrices, "
            "and fine-tuning seldom changes a tenth. It may be another model of the same shape; see that the tuned "
            "model was made from this base."
        )


def _tell_copies(base: Checkpoint, tuned: Weights) -> Iterator[str]:
    """Tell of other copies of the weights, in either folder."""
    for paths, what in ((base.left_out, "base"), (getattr(tuned, "left_out", ()), "tuned")):
        if paths:
            yield tell_left_out(paths, f"the {what} model")


def _tell_rounded(tuned: Weights, pairing: Pairing, rounded: Collection[str]) -> Iterator[str]:
    if rounded:
        dtypes = name_dtypes(tuned, pairing, rounded)
        yield (
            f"The tuned model is {dtypes} in {len(rounded)} of {len(pairing.partner)} tensors, which is less precise "
            "than the base. They were compared with the base rounded in the same way, so that rounding is no change."
        )


def name_dtypes(tuned: Weights, pairing: Pairing, names: Collection[str]) -> str:
    """Return the dtypes that tensors of the base have in the tuned checkpoint, as a list in words."""
    return " and ".join(sorted({tuned.dtype_of(pairing.partner[name]) for name in names}))
