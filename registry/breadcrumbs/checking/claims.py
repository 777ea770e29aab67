"""Claims: whether what a patch says of itself is true. Results of checks, and the check of density.

    kept <= count * (size - floor(drop_top * size) - floor(drop_bottom * size))     of a tensor, in groups (mask.py)

A mask keeps exactly that many if as many changed at all; never more, and fewer only where weights did not change.
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
    """The result of one check of a patch.

    Args:
        name: The check: format, base, finite, density, files or release.
        status: `warn` asks people to judge; `fail` means that something is wrong.
        summary: One sentence.
    """

    name: str
    status: Literal["pass", "warn", "fail"]
    summary: str


def check_density(params: MaskParams, tensors: Sequence[TensorReport]) -> CheckResult:
    """Compare how much a patch changes with what its mask may keep.

    Args:
        params: The mask, as the patch states it.
        tensors: What the patch really changes.

    Returns:
        `fail` if a tensor has more values than such a mask can keep, `warn` if one has fewer than half of these.
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
            f"{_part_of(over, tensors)} more values than {mask} can keep, above all {show(worst.name)} with "
            f"{worst.nnz} where {most[worst.name]} is the most; make the patch again with `crumb diff`.",
        )
    if under:
        worst = min(under, key=lambda tensor: tensor.nnz / most[tensor.name])
        return CheckResult(
            "density",
            "warn",
            f"{_part_of(under, tensors)} less than half of the values that {mask} keep where all weights change, above "
            f"all {show(worst.name)} with {worst.nnz} of {most[worst.name]}; see whether so little was to change.",
        )
    return CheckResult("density", "pass", f"It has {kept} of the {whole} values that {mask} keep at most.")


def check_beside(paths: Sequence[str], unread: Sequence[str]) -> CheckResult:
    """Say which files came with a patch.

    Args:
        paths: Their paths.
        unread: Those that should be JSON and are not.
    """
    if unread:
        listed = ", ".join(show(path) for path in unread[:5])
        return CheckResult("files", "warn", f"Not JSON, so nothing may be able to load it: {listed}.")
    listed = ", ".join(show(path) for path in paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
    return CheckResult("files", "pass", f"Beside its weights it brings {listed}; releases may take them.")


def _part_of(some: Sequence[TensorReport], tensors: Sequence[TensorReport]) -> str:
    return f"{len(some)} of {len(tensors)} tensors {'has' if len(some) == 1 else 'have'}"


def require_fit(called: str, patch: Patch, base: Checkpoint) -> None:
    """Refuse a patch for tensors that a checkpoint does not have.

    Args:
        called: What the message calls the patch, at the start of a sentence.
        patch: The patch.
        base: The checkpoint.

    Raises:
        BaseMismatch: A tensor of the patch is missing, or has another dtype or shape; the message names the first.
    """
    for name, spec in patch.info.tensors.items():
        if base.tensors.get(name) != spec:
            raise BaseMismatch(
                f"{called} changes tensor {show(name)} as {spec.dtype} {list(spec.shape)}, and this checkpoint has no "
                "such tensor; use the base that the patch was made for.",
                field=name,
            )
