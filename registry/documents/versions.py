"""Versions: semver 2.0.0, and the least step that a change of recipe needs.

    major   another base
    minor   a patch added or strengthened: |alpha x weight| grew, or changed its sign; another method; or other
            weights by tensor
    patch   patches only weakened or removed
    none    the same weights

A patch is identified by its file: another revision counts as one removed and one added. A patch at scale 0 counts as
not in the release. Versions 0.x follow the same rules.
"""

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import Literal

from registry.breadcrumbs.formats.recipe import Recipe
from registry.errors import InvalidRequest

Bump = Literal["major", "minor", "patch", "none"]

MOST_CHARACTERS = 64
"""Of a version."""
MOST_KEY_CHARACTERS = 300
"""Of a sort key."""

_NUMBER = r"0|[1-9][0-9]*"
_PRE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_PRE}(?:\.{_PRE})*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)
_ASCII = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # ascending
_STEPS: tuple[Bump, ...] = ("none", "patch", "minor", "major")


@dataclass(frozen=True)
class Version:
    """A semantic version: three numbers, the identifiers of a pre-release, and build metadata."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()
    build: str = ""

    def __str__(self) -> str:
        pre = "-" + ".".join(self.pre) if self.pre else ""
        return f"{self.major}.{self.minor}.{self.patch}{pre}" + (f"+{self.build}" if self.build else "")

    @property
    def core(self) -> tuple[int, int, int]:
        """The three numbers."""
        return self.major, self.minor, self.patch

    @property
    def sort_key(self) -> str:
        """A text whose order is the precedence of versions; digits only, so that it sorts the same in every collation.

        9 digits each of major, minor and patch
        1                                   a final version, after its pre-releases
        0                                   a pre-release, then for each identifier
          1 <how many digits> <digits>        a number
          2 <two digits per character> 00     anything else, after all numbers
        0                                     no further identifier
        """
        key = "".join(f"{number:09d}" for number in self.core)
        if not self.pre:
            return key + "1"
        words = [
            f"1{len(word)}{word}" if word.isdigit() else f"2{''.join(f'{_ASCII.index(c) + 1:02d}' for c in word)}00"
            for word in self.pre
        ]
        return f"{key}0{''.join(words)}0"


def parse_version(text: str) -> Version:
    """Read a version.

    Raises:
        InvalidRequest: The text is not a version of semver 2.0.0, is too long, or has a number above 999999999.
    """
    match = _VERSION.fullmatch(text) if len(text) <= MOST_CHARACTERS else None
    if match is None:
        raise InvalidRequest(
            f"{text[:80]!r} is not a version; write three numbers like 1.2.0, or 1.2.0-rc.1, in at most"
            f" {MOST_CHARACTERS} characters (https://semver.org).",
            field="version",
        )
    pre = tuple(match[4].split(".")) if match[4] else ()
    if any(len(word) > 9 for word in (match[1], match[2], match[3], *pre) if word.isdigit()):
        raise InvalidRequest(f"The numbers of version {text!r} have at most 9 digits each.", field="version")
    return Version(int(match[1]), int(match[2]), int(match[3]), pre, match[5] or "")


def effective_scale(alpha: str, weight: str) -> str:
    """Return alpha x weight, exactly, as a normalised decimal."""
    exact = Context(prec=100).multiply(Decimal(alpha), Decimal(weight))  # at most 40 digits each
    text = f"{exact:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) if exact else "0"


def required_bump(before: Recipe, after: Recipe) -> Bump:
    """Return the least step of the version that a change from one recipe to another needs."""
    if before.base != after.base:
        return "major"
    if before.method != after.method or _factors(before) != _factors(after):
        return "minor"
    old, new = _scales(before), _scales(after)
    changed = [(old.get(patch, Fraction()), new.get(patch, Fraction())) for patch in old.keys() | new.keys()]
    if any(abs(b) > abs(a) or a * b < 0 for a, b in changed):
        return "minor"
    return "patch" if any(a != b for a, b in changed) else "none"


def _factors(recipe: Recipe) -> dict[str, tuple[tuple[str, str], ...]]:
    return {item.sha256: item.where for item in recipe.items if item.where}


def _scales(recipe: Recipe) -> dict[str, Fraction]:
    return {item.sha256: Fraction(recipe.alpha) * Fraction(item.weight) for item in recipe.items}


_REASONS = {
    "major": "it has another base",
    "minor": "it adds or strengthens a patch, or combines them in another way",
    "patch": "it only removes or weakens patches",
    "none": "it has the same weights, and a release needs a version of its own",
}


def check_version(version: str, previous: str | None, before: Recipe | None, after: Recipe) -> Version:
    """Check that the step of a version is large enough for the change of its recipe.

    A pre-release has made the step of its numbers: after 1.3.0-rc.1, patches may be added in 1.3.0-rc.2 and in 1.3.0.

    Args:
        version: The version of the new release.
        previous: The version of the previous release; None for the first release, which may have any version.
        before: The recipe of the previous release.
        after: The recipe of the new release.

    Returns:
        The parsed version.

    Raises:
        InvalidRequest: The version is malformed, has build metadata, is not above the previous one, or its step is too
            small; the message names the reason and the lowest version that fits.
    """
    new = parse_version(version)
    if new.build:
        raise InvalidRequest(
            f"Leave +{new.build} out of version {version}: versions that differ only in it are of equal rank.",
            field="version",
        )
    if previous is None or before is None:
        return new
    old = parse_version(previous)
    needed = required_bump(before, after)
    lowest = _lowest(old, needed)
    if new.sort_key > old.sort_key and new.core >= lowest.core:
        return new
    fits = f"{lowest}, or a pre-release of it"
    if old.pre and lowest.core == old.core:
        fits += f" above {old}"
    reason = _REASONS[needed] if new.sort_key > old.sort_key else "it is not above it"
    raise InvalidRequest(
        f"Version {version} does not fit after {previous}: {reason}. The lowest that fits is {fits}.",
        field="version",
    )


def _lowest(old: Version, bump: Bump) -> Version:
    """Return the lowest final version that is a step of at least this kind above another."""
    if old.pre:  # it has announced a step that is still to be made
        announced: Bump = "patch" if old.patch else "minor" if old.minor else "major"
        if _STEPS.index(bump) <= _STEPS.index(announced):
            return Version(*old.core)
    if bump == "major":
        return Version(old.major + 1, 0, 0)
    if bump == "minor":
        return Version(old.major, old.minor + 1, 0)
    return Version(old.major, old.minor, old.patch + 1)
