"""Faults: why tensors of two checkpoints do not fit, and which option of `crumb diff` helps."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from shlex import quote

from registry.breadcrumbs.diffing.bases import is_adapter
from registry.breadcrumbs.diffing.prefixes import Prefix
from registry.breadcrumbs.diffing.quantised import find_narrow, find_quantiser
from registry.breadcrumbs.diffing.ties import is_vocabulary
from registry.breadcrumbs.formats.checkpoint import Checkpoint, Weights
from registry.breadcrumbs.formats.header import show

NAMES_SHOWN = 20
"""Most tensors that a message names."""

MISSING, ADDED, ROWS, SHAPE, DTYPE = "missing", "added", "rows", "shape", "dtype"
"""Kinds of faults; `rows` is another first dimension."""


@dataclass(frozen=True)
class Fault:
    """A tensor that does not fit.

    Args:
        name: The base's name for it, or the tuned checkpoint's if it is `added`.
        kind: One of the kinds above.
        text: The fault, as a sentence says it of the tensor.
    """

    name: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{show(self.name)} {self.text}"


def list_faults(faults: Sequence[Fault], base: Checkpoint, tuned: Weights, compared: int, prefix: Prefix) -> str:
    """Return the message for tensors that do not fit: what is wrong, and what to add to the command.

    Args:
        faults: The faults.
        base: The base.
        tuned: The tuned checkpoint.
        compared: How many tensors of the base were looked for.
        prefix: The prefix without which they were.
    """
    if is_adapter(base.tensors):
        return "The base is an adapter, and not a whole model. The base comes first: `crumb diff BASE ADAPTER -o FILE`."
    one_sided = _name_quantised(base, tuned)
    if one_sided:
        return one_sided
    related = 2 * sum(fault.kind != ADDED and not _is_grown(fault) for fault in faults) <= compared
    named = "; ".join(map(str, faults[:NAMES_SHOWN]))
    more = f"; and {len(faults) - NAMES_SHOWN} more" if len(faults) > NAMES_SHOWN else ""
    plural = "tensor does" if len(faults) == 1 else "tensors do"
    told = f"{prefix} " if prefix.text else ""
    return f"{told}{len(faults)} {plural} not fit: {named}{more}. {_remedy(faults) if related else _OTHER}"


def _name_quantised(base: Weights, tuned: Weights) -> str | None:
    """Return the sentence for two checkpoints of which one is quantised and the other is not."""
    found = [
        find_quantiser(getattr(side, "config", None), side.tensors) or find_narrow(side.tensors)
        for side in (base, tuned)
    ]
    quantiser = found[0] or found[1]
    if quantiser is None or all(found):
        return None
    what, other = ("base", "tuned checkpoint") if found[0] else ("tuned checkpoint", "base")
    return (
        f"The {what} is quantised by {quantiser.title} ({quantiser.where}) and the {other} is not, so they hold "
        f"different tensors. Use the weights from before the {what} was quantised; if an adapter was trained on them, "
        "use that: `crumb diff BASE ADAPTER -o patch.safetensors`."
    )


_OTHER = (
    "Most tensors of the base have no partner, so the tuned model is of another architecture; choose the base that it "
    "was made from."
)


def _remedy(faults: Sequence[Fault]) -> str:
    """Return the sentence with the options that help."""
    rows = any(map(_is_grown, faults))
    options, left = ["--shared-rows"] if rows else [], False
    for fault in faults:
        if fault.kind == DTYPE or (rows and fault.kind == ROWS and not _is_grown(fault)):
            options.append(f"--exclude {quote(fault.name)}")
        elif fault.kind != ROWS or not rows:
            left = True
    options += ["--shared-only"] if left else []
    how = "Compare the rows that both have" if options == ["--shared-rows"] else "Compare what both have"
    return f"A patch needs the same tensors on both sides. {how} with `{' '.join(options)}`."


def _is_grown(fault: Fault) -> bool:
    """Say whether a fault is that of a vocabulary with more or fewer tokens."""
    return fault.kind == ROWS and is_vocabulary(fault.name)


def exclude_options(names: Collection[str], base: Collection[str]) -> str:
    """Return the options that leave tensors out: a glob for those that end alike, if it means no other of the base."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.rpartition(".")[2], []).append(name)
    options = []
    for end, group in alike.items():
        glob = f"*.{end}"
        if len(group) > 1 and {name for name in base if fnmatchcase(name, glob)} <= {*group}:
            options.append(glob)
        else:
            options += group
    return " ".join(f"--exclude {quote(option)}" for option in options)
