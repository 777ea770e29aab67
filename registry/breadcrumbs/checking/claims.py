"""Is it true what a patch says of itself? What the checks of a patch found, and the check of its density.

    kept <= count * (size - floor(drop_top * size) - floor(drop_bottom * size))     of a tensor, in groups (mask.py)

A mask keeps exactly so many, if so many changed at all: no more ever, and fewer only where weights stayed as they were.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from registry.breadcrumbs.checking.check import TensorReport
from registry.breadcrumbs.diffing.mask import groups_of
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import TensorSpec, show
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import Patch
from registry.errors import BaseMismatch


@dataclass(frozen=True)
class CheckResult:
    """What one check of a patch found.

    Args:
        name: Of the check: format, base, finite or density.
        status: `warn` is for people to judge; `fail` is something wrong.
        summary: One sentence.
    """

    name: str
    status: Literal["pass", "warn", "fail"]
    summary: str


def check_density(params: MaskParams, tensors: Sequence[TensorReport]) -> CheckResult:
    """Compare how much a patch changes with what its mask may keep.

    Args:
        params: What the patch says its mask is.
        tensors: What it really changes.

    Returns:
        `fail` where a tensor has more values than that mask keeps of any change, `warn` where one has fewer than half.
    """
    most = {tensor.name: groups_of(TensorSpec(tensor.dtype, tensor.shape), params).most for tensor in tensors}
    over = [tensor for tensor in tensors if tensor.nnz > most[tensor.name]]
    under = [tensor for tensor in tensors if 2 * tensor.nnz < most[tensor.name]]
    kept, whole = sum(tensor.nnz for tensor in tensors), sum(most.values())
    mask = f"drop_bottom {params.drop_bottom} and drop_top {params.drop_top} by {params.granularity}"
    if over:
        worst = max(over, key=lambda tensor: tensor.nnz / most[tensor.name])
        return CheckResult(
            "density",
            "fail",
            f"{_of(over, tensors)} more values than {mask} can keep, above all {show(worst.name)} with {worst.nnz} "
            f"where {most[worst.name]} is the most; make the patch again with `crumb diff`.",
        )
    if under:
        worst = min(under, key=lambda tensor: tensor.nnz / most[tensor.name])
        return CheckResult(
            "density",
            "warn",
            f"{_of(under, tensors)} less than half of the values that {mask} keep where all weights change, above all "
            f"{show(worst.name)} with {worst.nnz} of {most[worst.name]}; see whether so little was to change.",
        )
    return CheckResult("density", "pass", f"It has {kept} of the {whole} values that {mask} keep at most.")


def _of(some: Sequence[TensorReport], tensors: Sequence[TensorReport]) -> str:
    return f"{len(some)} of {len(tensors)} tensors {'has' if len(some) == 1 else 'have'}"


def require_fit(called: str, patch: Patch, base: Checkpoint) -> None:
    """Refuse a patch whose tensors a checkpoint does not have, or has otherwise.

    Args:
        called: What the message calls the patch, at the start of a sentence.
        patch: The patch.
        base: The checkpoint.

    Raises:
        BaseMismatch: Names the first such tensor.
    """
    for name, spec in patch.info.tensors.items():
        if base.tensors.get(name) != spec:
            raise BaseMismatch(
                f"{called} changes tensor {show(name)} as {spec.dtype} {list(spec.shape)}, which this checkpoint does "
                "not have so; use the base that the patch was made for.",
                field=name,
            )
