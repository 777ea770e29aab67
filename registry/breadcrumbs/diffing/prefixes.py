"""Prefixes: the one change of prefix under which the names of two checkpoints of one model fit.

    module.          added by data parallel training         _orig_mod.          by torch.compile
    transformer.     missing where a model was saved         base_model.model.   by PEFT
                     without its head, as `model.` and `bert.` are

A prefix ends with a dot or a slash. It is taken from all names of one side that begin with it; the others stay.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from shlex import quote

from registry.breadcrumbs.formats.header import TensorSpec, show
from registry.errors import CheckpointMismatch, InvalidRequest

MAX_PARTS = 8
"""Most parts of a name that a prefix may have."""

TRIED = 8
"""Most prefixes that are tried on all names, those first that fit the most names."""

_END = re.compile(r"[./]")


@dataclass(frozen=True)
class Prefix:
    """A prefix that the names of one side have and those of the other lack.

    Args:
        text: The prefix; empty if names fit as they are.
        side: The side that has it: `base` or `tuned`.
    """

    text: str = ""
    side: str = "tuned"

    def key(self, side: str, name: str) -> str:
        """Return the name of a tensor of one side, without the prefix if it is that side's."""
        return name.removeprefix(self.text) if side == self.side else name

    def __str__(self) -> str:
        whose = "tuned checkpoint" if self.side == "tuned" else "base"
        return f"Names of the {whose} are read without {self.text!r}."


NO_PREFIX = Prefix()


def find_prefix(base: Mapping[str, TensorSpec], tuned: Mapping[str, TensorSpec], strip: str | None = None) -> Prefix:
    """Find the change of prefix under which more names fit than as they are, and most do.

    Args:
        base: The tensors of the base that are to be compared.
        tuned: The tensors of the tuned checkpoint.
        strip: The prefix to take, if it has been chosen.

    Raises:
        CheckpointMismatch: Two prefixes fit equally well.
        InvalidRequest: No name begins with the prefix that was chosen, or two become one without it.
    """
    if strip is not None:
        return _take(base, tuned, strip if _END.match(strip[-1:]) else f"{strip}.")
    plain = _count(base, tuned, NO_PREFIX) or 0
    if plain == len(base):
        return NO_PREFIX
    fits = {prefix: _count(base, tuned, prefix) or 0 for prefix in _candidates(base, tuned)}
    most = max(fits.values(), default=0)
    if 2 * (most - plain) <= len(base):
        return NO_PREFIX
    best = [prefix for prefix, count in fits.items() if count == most]
    if len(best) > 1:
        ways = " or ".join(f"`--strip-prefix {quote(text)}`" for text in sorted({prefix.text for prefix in best}))
        raise CheckpointMismatch(
            "The names of the two checkpoints fit without "
            f"{' and without '.join(show(prefix.text) for prefix in best)}; say which is meant: {ways}."
        )
    return best[0]


def _take(base: Mapping[str, TensorSpec], tuned: Mapping[str, TensorSpec], text: str) -> Prefix:
    """Return a chosen prefix, of the side on which it makes more names fit."""
    sides = [Prefix(text, side) for side, names in (("tuned", tuned), ("base", base)) if _begins(text, names)]
    if not sides:
        raise InvalidRequest(f"No tensor's name begins with {show(text)}; choose another --strip-prefix.")
    fits = {prefix: count for prefix in sides if (count := _count(base, tuned, prefix)) is not None}
    if not fits:
        raise InvalidRequest(
            f"Without {show(text)}, two tensors have one name; choose another --strip-prefix, or leave tensors out "
            "with --exclude."
        )
    return max(fits, key=lambda prefix: fits[prefix])


def _begins(text: str, names: Iterable[str]) -> bool:
    return any(name.startswith(text) for name in names)


def _count(base: Mapping[str, TensorSpec], tuned: Mapping[str, TensorSpec], prefix: Prefix) -> int | None:
    """Count the tensors of the base that fit; None if two names become one."""
    held = {prefix.key("tuned", name): spec.shape for name, spec in tuned.items()}
    wanted = {prefix.key("base", name): spec.shape for name, spec in base.items()}
    if len(held) < len(tuned) or len(wanted) < len(base):
        return None
    return sum(held.get(name) == shape for name, shape in wanted.items())


def _candidates(base: Mapping[str, TensorSpec], tuned: Mapping[str, TensorSpec]) -> list[Prefix]:
    """Return the prefixes that fit names which do not fit as they are, those of the most names first."""
    found: Counter[Prefix] = Counter()
    for side, longer, shorter in (("tuned", tuned, base), ("base", base, tuned)):
        for name in longer:
            ends = [match.end() for match in _END.finditer(name)][:MAX_PARTS]
            found.update(Prefix(name[:end], side) for end in ends if name[end:] in shorter)
    return [prefix for prefix, _ in found.most_common(TRIED)]
