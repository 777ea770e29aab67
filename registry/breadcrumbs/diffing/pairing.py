"""Pairing: which tensor of a tuned checkpoint belongs to which of its base, with tied names, globs and prefixes."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from shlex import quote

from registry.breadcrumbs.diffing.faults import ADDED, DTYPE, MISSING, ROWS, SHAPE, Fault, list_faults
from registry.breadcrumbs.diffing.prefixes import NO_PREFIX, Prefix, find_prefix
from registry.breadcrumbs.diffing.ties import Copies, aliases, equal_bits, is_tied, twin
from registry.breadcrumbs.formats.arrays import from_floats, octets, read_floats, read_raw
from registry.breadcrumbs.formats.checkpoint import Checkpoint, Weights
from registry.breadcrumbs.formats.header import DTYPES, FLOATS, TensorSpec, show
from registry.errors import CheckpointMismatch, InvalidRequest
from registry.files.names import is_head


@dataclass(frozen=True)
class Pairing:
    """How two checkpoints fit together.

    Args:
        partner: The tuned checkpoint's name for each base tensor to compare, in name order.
        same: Pairs of tuned tensors that must be equal: the base ties the first to the second and does not hold it.
        prefix: What was taken from the names of one side.
        left_out: The tensors that only one side has or that have other shapes, and were left out on request.
        rows: How many rows were compared of each base tensor whose first dimension is another in the tuned checkpoint.
    """

    partner: dict[str, str]
    same: list[tuple[str, str]]
    prefix: Prefix = NO_PREFIX
    left_out: list[Fault] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """Which tensors are compared.

    Args:
        include: Globs on names; when there are any, other tensors are left out.
        exclude: Globs on names of tensors to leave out, neither read from tuned nor compared.
        strip_prefix: Taken from the names of the side that has it; found by itself when None.
        shared_only: Whether tensors that only one side has, or that have other shapes, are left out.
        shared_rows: Whether of tensors that differ in their first dimension the rows that both have are compared.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    strip_prefix: str | None = None
    shared_only: bool = False
    shared_rows: bool = False

    def takes(self, *names: str) -> bool:
        """Say whether the globs choose a tensor, which may have a name on each side."""
        if self.include and not any(meets(name, glob) for name in names for glob in self.include):
            return False
        return not any(meets(name, glob) for name in names for glob in self.exclude)


def pair(base: Checkpoint, tuned: Weights, choice: Choice) -> Pairing:
    """Find the tuned partner of every base tensor that is chosen.

    Args:
        base: The base.
        tuned: The fine-tuned model; tensors that it shares with the base have no partner.
        choice: Which tensors are compared.

    Raises:
        CheckpointMismatch: Tensors are missing, added, or of another shape or class of dtype; all named at once. Or
            the globs leave out some names of a tensor and keep others. Or two prefixes fit.
        InvalidRequest: A glob or prefix matches nothing.
    """
    _require_matches("include", choice.include, base.tensors)
    _require_matches("exclude", choice.exclude, {**base.tensors, **tuned.tensors})
    chosen = {name: spec for name, spec in base.tensors.items() if choice.takes(name)}
    if base.tensors and not chosen:
        raise InvalidRequest("The globs leave out every tensor of the base; choose others.", field="exclude")
    prefix = find_prefix(chosen, tuned.tensors, choice.strip_prefix)
    held = {prefix.key("tuned", name): name for name in tuned.tensors}
    ties = _Ties(base, tuned, lambda name: held.get(prefix.key("base", name)))

    partner: dict[str, str] = {}
    faults: list[Fault] = []
    for name, spec in chosen.items():
        other = ties.find(name)
        other = ties.find_partner(name, spec) if other is None else other
        fault = _compare(name, spec, None if other is None else tuned.tensors[other])
        if other is not None and (fault is None or (fault.kind == ROWS and choice.shared_rows)):
            if other not in tuned.shared:
                partner[name] = other
            elif embedding := ties.find_changed(name, spec):
                partner[name] = embedding
        elif fault is not None:
            faults.append(fault)
    rows = {
        name: min(base.tensors[name].shape[0], tuned.tensors[other].shape[0])
        for name, other in partner.items()
        if tuned.tensors[other].shape != base.tensors[name].shape
    }
    known = {prefix.key("base", name) for name in base.tensors}
    used = set(partner.values())
    same: list[tuple[str, str]] = []
    for key, name in held.items():
        if key in known or name in used:
            continue
        spec = tuned.tensors[name]
        tie = ties.find_held(name, key, spec)
        if tie is not None and (choice.takes(name, key) or tie in used):  # left out or not, it must equal its tie
            same.append((name, tie))
        elif tie is None and choice.takes(name, key) and not ties.is_copy(name, used):
            faults.append(Fault(name, ADDED, "is not in the base"))

    kept = [fault for fault in faults if fault.kind == DTYPE or not choice.shared_only]
    if kept or (faults and not partner):
        raise CheckpointMismatch(list_faults(kept or faults, base, tuned, len(chosen), prefix), field=faults[0].name)
    left = [name for name in base.tensors if name not in partner and ties.find(name) not in tuned.shared]
    ties.check_left_out(left, partner)
    return Pairing(partner, same, prefix, faults, rows)


def _compare(name: str, spec: TensorSpec, theirs: TensorSpec | None) -> Fault | None:
    """Return what keeps a tensor of the base from being compared with its partner, if anything does."""
    if theirs is None:
        return Fault(name, MISSING, "is missing from the tuned checkpoint")
    if theirs.dtype != spec.dtype and not {theirs.dtype, spec.dtype} <= FLOATS:
        return Fault(name, DTYPE, f"has dtype {theirs.dtype}, in the base {spec.dtype}")
    if theirs.shape == spec.shape:
        return None
    rows = spec.dtype in FLOATS and spec.shape[1:] == theirs.shape[1:] and spec.numel and theirs.numel
    kind = ROWS if rows and spec.shape and theirs.shape else SHAPE
    return Fault(name, kind, f"has shape {list(theirs.shape)}, in the base {list(spec.shape)}")


class _Ties:
    """The ties of a base and its tuned checkpoint, found when they are asked for.

    Args:
        base: The base.
        tuned: The tuned checkpoint.
        find: Returns the tuned checkpoint's name for one of the base's, if it holds that.
    """

    def __init__(self, base: Checkpoint, tuned: Weights, find: Callable[[str], str | None]) -> None:
        self._base, self._tuned, self.find = base, tuned, find
        self._tied, self._aliases = is_tied(base), aliases(base)
        self._copies = Copies(base)
        self._tuned_copies = None if tuned.shared else Copies(tuned)  # adapters bring no copies

    def find_partner(self, name: str, spec: TensorSpec) -> str | None:
        """Return another name by which the tuned checkpoint holds a tensor of the base."""
        found = twin(name, spec, self._tuned.tensors) if self._tied else None
        if found is not None:
            return found
        named = (self.find(other) for other, kept in self._aliases.items() if kept == name)
        copies = (self.find(other) for other in self._copies.of(name))
        return next((other for other in (*named, *copies) if other is not None), None)

    def find_changed(self, name: str, spec: TensorSpec) -> str | None:
        """Return the embedding that an adapter changes, for a head that the base ties to it and holds as well."""
        if not self._tied or not is_head(name):
            return None
        embedding = twin(name, spec, self._base.tensors)
        if embedding is None or embedding in self._tuned.shared or embedding not in self._copies.of(name):
            return None
        return embedding

    def find_held(self, name: str, key: str, spec: TensorSpec) -> str | None:
        """Return the tuned tensor to which the base ties a name that it does not hold, by its config or header."""
        kept = self._aliases.get(name, self._aliases.get(key))
        if kept is not None and self.find(kept) is not None:
            return self.find(kept)
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
                theirs = self.find(name)
                one = theirs is None or equal_bits(self._tuned, theirs, partner[other])
                if one and not equal_bits(self._base, other, partner[other], self._tuned):
                    names = " ".join(f"--exclude {quote(each)}" for each in (name, *self._copies.of(name)))
                    raise CheckpointMismatch(
                        f"{show(name)} is left out and {show(other)} is not, but they are one tensor: the base has "
                        "equal bits for both, and the model would be patched by half. Leave out all of its names or "
                        f"none: `{names}`.",
                        field=name,
                    )


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


class SharedRows:
    """A tuned checkpoint of which some tensors are read in the shape of the base's.

    Rows that only the tuned tensor has are not read. Rows that only the base has are the base's own, in the tuned
    dtype, so that nothing has changed there.

    Args:
        base: The base.
        tuned: The tuned checkpoint.
        names: The base's name for each tensor of the tuned checkpoint that has more or fewer rows.

    Attributes:
        tensors: dtype and shape of every tensor, as they are read.
        shared: As of the tuned checkpoint.
    """

    def __init__(self, base: Checkpoint, tuned: Weights, names: Mapping[str, str]) -> None:
        self._base, self._tuned, self._names = base, tuned, names
        changed = {name: TensorSpec(tuned.tensors[name].dtype, base.tensors[names[name]].shape) for name in names}
        self.tensors = {**tuned.tensors, **changed}
        self.shared = tuned.shared

    def bytes_of(self, name: str) -> int:
        """Return how many bytes a tensor has."""
        return self.tensors[name].numel * DTYPES[self.tensors[name].dtype]

    def dtype_of(self, name: str) -> str:
        """Return the dtype of a tensor."""
        return self.tensors[name].dtype

    def fill(self, view: memoryview, name: str, start: int) -> None:
        """Fill a view with whole elements of a tensor, from byte `start` on."""
        own = min(len(view), max(0, self._tuned.bytes_of(name) - start))
        if own:
            self._tuned.fill(view[:own], name, start)
        if own < len(view):
            width = DTYPES[self.tensors[name].dtype]
            view[own:] = self._read_base(name, (start + own) // width, (start + len(view)) // width)

    def _read_base(self, name: str, start: int, stop: int) -> memoryview:
        """Return the bytes of elements of the base's tensor, rounded to the dtype of the tuned one."""
        old, new = self._base.dtype_of(self._names[name]), self.tensors[name].dtype
        if old == new:
            return octets(read_raw(self._base, self._names[name], start, stop))
        return octets(from_floats(read_floats(self._base, self._names[name], start, stop), new))
