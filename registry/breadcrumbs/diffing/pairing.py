"""Pairing: which tensor of a fine-tuned checkpoint belongs to which of its base, with tied names and globs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from shlex import quote

from registry.breadcrumbs.diffing.ties import Copies, aliases, equal_bits, says_tied, twin
from registry.breadcrumbs.formats.checkpoint import Checkpoint, Weights
from registry.breadcrumbs.formats.header import FLOATS, TensorSpec, show
from registry.errors import CheckpointMismatch, InvalidRequest

NAMES_SHOWN = 20
"""Most tensors that a message names."""


@dataclass(frozen=True)
class Pairing:
    """How two checkpoints fit together.

    Args:
        partner: The tuned checkpoint's name for each base tensor to compare, in name order.
        same: Pairs of tuned tensors that must be equal: the base ties the first to the second and does not hold it.
    """

    partner: dict[str, str]
    same: list[tuple[str, str]]


def pair(base: Checkpoint, tuned: Weights, include: Sequence[str], exclude: Sequence[str]) -> Pairing:
    """Find the tuned partner of every base tensor that the globs choose.

    Args:
        base: The base.
        tuned: The fine-tuned model; tensors that it shares with the base have no partner.
        include: Globs on names; when there are any, other tensors are left out.
        exclude: Globs on names of tensors to leave out.

    Raises:
        CheckpointMismatch: Tensors are missing, added, or of another shape or class of dtype; all named at once. Or
            the globs leave out some names of a tensor and keep others.
        InvalidRequest: A glob matches nothing.
    """
    _require_matches("include", include, base.tensors)
    _require_matches("exclude", exclude, {**base.tensors, **tuned.tensors})

    def chosen(name: str) -> bool:
        if include and not any(meets(name, glob) for glob in include):
            return False
        return not any(meets(name, glob) for glob in exclude)

    ties = _Ties(base, tuned)
    partner: dict[str, str] = {}
    same: list[tuple[str, str]] = []
    wrong: list[tuple[str, str]] = []
    for name, spec in base.tensors.items():
        if not chosen(name):
            continue
        other = name if name in tuned.tensors else ties.find_partner(name, spec)
        if other is None:
            wrong.append((name, "is missing from the tuned checkpoint"))
            continue
        theirs = tuned.tensors[other]
        if theirs.shape != spec.shape:
            wrong.append((name, f"has shape {list(theirs.shape)}, in the base {list(spec.shape)}"))
        elif theirs.dtype != spec.dtype and not {theirs.dtype, spec.dtype} <= FLOATS:
            wrong.append((name, f"has dtype {theirs.dtype}, in the base {spec.dtype}"))
        elif other not in tuned.shared:
            partner[name] = other
    used = set(partner.values())
    for name, spec in tuned.tensors.items():
        if name in base.tensors or name in used:
            continue
        other = ties.find_held(name, spec)
        if other is not None and (chosen(name) or other in used):  # left out or not, it must not differ from its tie
            same.append((name, other))
        elif other is None and chosen(name) and not ties.is_copy(name, used):
            wrong.append((name, "is not in the base"))
    if wrong:
        raise CheckpointMismatch(_list_faults(wrong), field=wrong[0][0])
    ties.check_left_out([name for name in base.tensors if not chosen(name)], partner)
    return Pairing(partner, same)


class _Ties:
    """The ties of a base and its tuned checkpoint, found when they are asked for."""

    def __init__(self, base: Checkpoint, tuned: Weights) -> None:
        self._base, self._tuned = base, tuned
        self._tied, self._aliases = says_tied(base.config), aliases(base)
        self._copies = Copies(base)
        self._tuned_copies = Copies(tuned) if isinstance(tuned, Checkpoint) else None  # adapters bring no copies

    def find_partner(self, name: str, spec: TensorSpec) -> str | None:
        """Return another name by which the tuned checkpoint holds a tensor of the base."""
        held = self._tuned.tensors
        found = twin(name, spec, held) if self._tied else None
        if found is not None:
            return found
        named = (other for other, kept in self._aliases.items() if kept == name and other in held)
        copies = (other for other in self._copies.of(name) if other in held)
        return next(named, None) or next(copies, None)

    def find_held(self, name: str, spec: TensorSpec) -> str | None:
        """Return the tuned tensor to which the base ties a name that it does not hold, by its config or header."""
        kept = self._aliases.get(name)
        if kept in self._tuned.tensors:
            return kept
        if self._tied and twin(name, spec, self._base.tensors) is not None:
            return twin(name, spec, self._tuned.tensors)
        return None

    def is_copy(self, name: str, of: Collection[str]) -> bool:
        """Say whether a tuned tensor has the bits of another that is compared, so that nothing of it is lost."""
        return self._tuned_copies is not None and any(other in of for other in self._tuned_copies.of(name))

    def check_left_out(self, left: Iterable[str], partner: Mapping[str, str]) -> None:
        """Refuse to leave out one name of a tensor and to patch another.

        They are one tensor if the base has equal bits for both, and the tuned checkpoint equal bits or one of them. A
        loader that takes the name left out would not see the change.
        """
        for name in left:
            copies = [other for other in self._copies.of(name) if other in partner]
            for other in copies:
                one = name not in self._tuned.tensors or equal_bits(self._tuned, name, partner[other])
                if one and not self._is_unchanged(other, partner[other]):
                    names = " ".join(f"--exclude {quote(each)}" for each in (name, *copies))
                    raise CheckpointMismatch(
                        f"{show(name)} is left out and {show(other)} is not, but they are one tensor: the base has "
                        "equal bits for both, and the model would be patched by half. Leave out all of its names or "
                        f"none: `{names}`.",
                        field=name,
                    )

    def _is_unchanged(self, name: str, partner: str) -> bool:
        return equal_bits(self._base, name, partner, self._tuned)


def meets(name: str, glob: str) -> bool:
    """Say whether a glob matches the whole of a name, or is that name, brackets and all."""
    return name == glob or fnmatchcase(name, glob)


def _require_matches(option: str, globs: Iterable[str], names: Collection[str]) -> None:
    """Refuse globs that match none of the names, and name one that was probably meant."""
    for glob in globs:
        if not any(meets(name, glob) for name in names):
            within = [name for name in names if glob.casefold() in name.casefold()]
            near = within[:1] if len(within) == 1 else [f"*{glob}*"] if any(glob in name for name in within) else []
            near = near or within[:1] or get_close_matches(glob, names, 1)
            hint = f" Did you mean `--{option} {quote(near[0])}`?" if near else ""
            raise InvalidRequest(f"No tensor matches `--{option} {quote(glob)}`.{hint}", field=option)


def _list_faults(wrong: Sequence[tuple[str, str]]) -> str:
    """Return the message for tensors that do not fit, given as (name, fault)."""
    faults = "; ".join(f"{show(name)} {fault}" for name, fault in wrong[:NAMES_SHOWN])
    more = f"; and {len(wrong) - NAMES_SHOWN} more" if len(wrong) > NAMES_SHOWN else ""
    plural = "tensor does" if len(wrong) == 1 else "tensors do"
    return (
        f"{len(wrong)} {plural} not fit: {faults}{more}. A patch needs the same tensors on both sides; "
        "choose the right base, or leave tensors out with exclude."
    )
