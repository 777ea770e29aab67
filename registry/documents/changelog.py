"""Changelogs: what changed from one release to the next, in the style of https://keepachangelog.com."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from typing import Literal

from registry.documents.markdown import code, inline

Kind = Literal["added", "strengthened", "weakened", "revised", "removed"]
KINDS: tuple[Kind, ...] = ("added", "strengthened", "weakened", "revised", "removed")
"""In the order of a changelog."""


@dataclass(frozen=True)
class Entry:
    """A patch in a release: its number in the model, title, author, and scale, alpha x weight."""

    number: int
    title: str
    author: str
    scale: str
    revision: int = 1


@dataclass(frozen=True)
class Change:
    """How one patch changed; `before` and `after` are its scales, `0` where it is not in the release."""

    kind: Kind
    number: int
    title: str
    author: str
    before: str
    after: str
    revisions: tuple[int, int] | None = None


def changes_between(before: Sequence[Entry], after: Sequence[Entry]) -> list[Change]:
    """Return the difference of two releases, by kind and number.

    `strengthened` is what needs a step of the minor version: a scale that grew, or changed its sign. A patch at scale 0
    counts as not in the release. Another revision at the same scale is `revised`; at another scale, the change names
    both revisions.
    """
    old = {entry.number: entry for entry in before if Fraction(entry.scale)}
    new = {entry.number: entry for entry in after if Fraction(entry.scale)}
    changes = []
    for number in sorted(old.keys() | new.keys()):
        was, now = old.get(number), new.get(number)
        entry = now or was
        assert entry is not None
        kind = _kind(was, now)
        if kind is None:
            continue
        revised = (was.revision, now.revision) if was and now and was.revision != now.revision else None
        scales = was.scale if was else "0", now.scale if now else "0"
        changes.append(Change(kind, number, entry.title, entry.author, *scales, revised))
    return sorted(changes, key=lambda change: KINDS.index(change.kind))


def _kind(was: Entry | None, now: Entry | None) -> Kind | None:
    if was is None:
        return "added"
    if now is None:
        return "removed"
    a, b = Fraction(was.scale), Fraction(now.scale)
    if abs(b) > abs(a) or a * b < 0:
        return "strengthened"
    if a != b:
        return "weakened"
    return "revised" if was.revision != now.revision else None


def render_changelog(
    version: str,
    released: date,
    changes: Sequence[Change],
    bases: tuple[str, str] | None = None,
    files: Sequence[tuple[str, int]] = (),
) -> str:
    """Write one release's section of a changelog.

    Args:
        version: The release's version.
        released: The day of the release.
        changes: In any order.
        bases: The weights digests of the old and the new base, if the base changed.
        files: Files that the release takes from patches: path and number of the patch.

    Returns:
        Markdown; the same inputs give the same text.
    """
    lines = [f"## [{inline(version)}] - {released.isoformat()}", ""]
    if bases:
        lines += ["### Base", "", f"- {code(bases[0])} → {code(bases[1])}", ""]
    for kind in KINDS:
        of_kind = sorted((change for change in changes if change.kind == kind), key=lambda change: change.number)
        if of_kind:
            lines += [f"### {kind.capitalize()}", "", *(_line(change) for change in of_kind), ""]
    if len(lines) == 2:
        lines += ["No patch was added, changed or removed.", ""]
    if files:
        lines += ["### Files", "", *(f"- {code(path)} of \\#{number}" for path, number in files), ""]
    return "\n".join(lines)


def _line(change: Change) -> str:
    revised = f", revision {change.revisions[0]} → {change.revisions[1]}" if change.revisions else ""
    scale = f"scale {change.before}" if change.before == change.after else f"scale {change.before} → {change.after}"
    return f"- \\#{change.number} {inline(change.title)}, by {inline(change.author)}: {scale}{revised}"
