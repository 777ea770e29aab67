"""Licences: can pieces under these licences be combined into one model and distributed?

A merged model is one work derived from its base and every patch: each weight is a sum of them, so no part of it can
be kept under a licence of its own. That makes questions of linking and of collections moot, and leaves this table
(a letter means that the two cannot be combined, for the reason below):

                    permissive  noncommercial  copyleft  share-alike  nc-share-alike  rail  community  no-derivatives
    permissive          .             .            a          .             .           .       .           f
    noncommercial                     .            b          b             .           .       .           f
    copyleft                                       c          d             b           e       e           f
    share-alike                                               .             b           e       e           f
    nc-share-alike                                                          .           e       e           f
    rail                                                                                .       .           f
    community                                                                                   g           f
    no-derivatives                                                                                          f

    a  only apache-2.0 with gpl-2.0: the patent terms of the one are a further restriction to the other
    b  share-alike licences allow no further restriction, and "noncommercial" is one; nor may a noncommercial
       share-alike work become one that is free for commerce
    c  gpl-2.0 alone, without "or later", goes with neither 3.0 family; lgpl-2.1 allows any later GPL
    d  cc-by-sa-4.0 names gpl-3.0 as compatible, one way: the result is gpl-3.0 (lgpl-3.0 and lgpl-2.1 allow that
       too). agpl-3.0, gpl-2.0 and earlier cc-by-sa are not named
    e  rules of use (OpenRAIL, Llama, Gemma) must be passed on, and are restrictions that these licences forbid to add
    f  no-derivatives forbids distributing a changed work, and every composition is one
    g  llama2 and llama3 forbid improving other language models with them; from llama3.1 on they allow it

A licence that is missing, `other`, `unknown` or not listed here gives a warning: somebody must read it. This guards
against the well-known traps, by the names that licences have on the Hugging Face Hub. It is not legal advice, and an
empty judgement does not mean that a release is lawful.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_FAMILIES = {
    "permissive": (
        "afl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc-by-2.0 cc-by-2.5 "
        "cc-by-3.0 cc-by-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 isc mit ncsa odc-by pddl postgresql "
        "unlicense wtfpl zlib"
    ),
    "noncommercial": "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0",
    "copyleft": "agpl-3.0 gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0",
    "share-alike": "cc-by-sa-3.0 cc-by-sa-4.0",
    "nc-share-alike": "cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0",
    "rail": (
        "bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m creativeml-openrail-m openrail openrail++"
    ),
    "community": "gemma llama2 llama3 llama3.1 llama3.2 llama3.3 llama4",
    "no-derivatives": "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nd-4.0",
}
_FAMILY = {licence: family for family, licences in _FAMILIES.items() for licence in licences.split()}

_NONCOMMERCIAL = "{other} allows no further restriction, and {this} forbids commercial use"
_RULES = "the rules of use of {this} must be passed on, and {other} allows no further restriction"

# (family of `this`, family of `other`) -> why the two cannot be combined
_APART = {
    ("noncommercial", "copyleft"): _NONCOMMERCIAL,
    ("noncommercial", "share-alike"): _NONCOMMERCIAL,
    ("nc-share-alike", "copyleft"): _NONCOMMERCIAL,
    ("nc-share-alike", "share-alike"): _NONCOMMERCIAL,
    ("rail", "copyleft"): _RULES,
    ("rail", "share-alike"): _RULES,
    ("rail", "nc-share-alike"): _RULES,
    ("community", "copyleft"): _RULES,
    ("community", "share-alike"): _RULES,
    ("community", "nc-share-alike"): _RULES,
}
_ONE_WAY = {"gpl", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0"}  # what cc-by-sa-4.0 may become part of
_LATER_THAN_2 = {"agpl-3.0", "gpl-3.0", "lgpl-3.0"}
_NO_OTHER_MODELS = {"llama2", "llama3"}


@dataclass(frozen=True)
class Incompatibility:
    """Two pieces that cannot be in one model; a licence is None if none was stated."""

    first: str
    first_licence: str | None
    second: str
    second_licence: str | None
    why: str

    @property
    def sentence(self) -> str:
        """The sentence that says so, and why."""
        return (
            f"{self.first} ({self.first_licence}) and {self.second} ({self.second_licence}) cannot be in one release: "
            f"{self.why}"
        )


@dataclass(frozen=True)
class Judgement:
    """The incompatible pairs of a combination, and the licences that somebody should read."""

    incompatible: list[Incompatibility]
    warnings: list[str]


def known() -> list[str]:
    """Return the licences that the table knows, by name, as the Hub calls them."""
    return sorted(_FAMILY)


def judge(pieces: Sequence[tuple[str, str | None]]) -> Judgement:
    """Compare the licences of everything that a model is made of.

    Args:
        pieces: (name, licence id or None) of the base first, then of each patch.

    Returns:
        The incompatible pairs, in the order of their second piece: each piece is paired with the first piece before it
        under each licence that is incompatible with its own. Without all these second pieces, no pair is left. And one
        warning for each piece whose licence is missing or not known here.
    """
    incompatible: list[Incompatibility] = []
    warnings: list[str] = []
    earlier: dict[str | None, str] = {}
    for name, stated in pieces:
        licence = stated.strip().lower() if stated and stated.strip() else None
        if licence is None:
            warnings.append(f"{name} states no licence; ask its author for one.")
        elif licence not in _FAMILY:
            warnings.append(f"{name} is under {licence!r}, whose terms are not known here; read them.")
        for other, first in earlier.items():
            if why := _why_apart(other, licence) or _why_apart(licence, other):
                incompatible.append(Incompatibility(first, other, name, licence, why))
        earlier.setdefault(licence, name)
    return Judgement(incompatible, warnings)


def _why_apart(this: str | None, other: str | None) -> str | None:
    """Say why two licences cannot be combined, if `this` is the one that stands in the way."""
    family, opposite = _FAMILY.get(this or ""), _FAMILY.get(other or "")
    if family == "no-derivatives":
        return f"{this} forbids distributing a changed work, and a composition is one."
    if this == "apache-2.0" and other == "gpl-2.0":
        return "the patent terms of apache-2.0 are a further restriction, which gpl-2.0 forbids."
    if this == "gpl-2.0" and other in _LATER_THAN_2:
        return f"gpl-2.0 without 'or later' goes with no other version, and {other} needs version 3."
    if family == "share-alike" and opposite == "copyleft" and not (this == "cc-by-sa-4.0" and other in _ONE_WAY):
        return f"{this} does not name {other} as compatible; only cc-by-sa-4.0 may become part of a gpl-3.0 work."
    if this in _NO_OTHER_MODELS and opposite == "community" and other != this:
        return f"{this} forbids improving other language models with it, and {other} is of another."
    if reason := _APART.get((family or "", opposite or "")):
        return reason.format(this=this, other=other) + "."
    return None
