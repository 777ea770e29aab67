"""The manifest of a release: one canonical JSON text that describes it completely, and that is signed.

    {"audit":{"hash":...,"serial":...},"base":"sha256:...","builders":[...],"card_sha256":...,"changelog_sha256":...,
     "created_at":"2026-11-25T10:00:00.000000Z","evaluations":[...],"files":[...],"model":"ns/name","patches":[...],
     "previous":{"manifest":...,"version":...},"recipe":{...},"schema":1,"version":"1.2.0","weights_digest":"sha256:..."}

Keys sorted, no spaces, UTF-8, every field present. Files ascend by path, patches by sha256, as in the recipe; other
lists keep their order. A text that does not write back to the same bytes is refused. The digest of a manifest is the
sha256 of these bytes. Each manifest names the digest of the previous one and the head of the audit log,
so a history in which a release was left out or replaced does not fit together.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from registry.breadcrumbs.formats.recipe import Item, Recipe, make_recipe
from registry.documents.strict import build, parse
from registry.documents.versions import parse_version
from registry.errors import BreadcrumbError, InvalidRequest, TooLarge
from registry.files.folders import is_path
from registry.files.names import HEX256, MODEL, WEIGHTS_DIGEST

SCHEMA = 1
MOST_BYTES = 16 * 2**20
"""Of a manifest."""

_HEX256 = re.compile(HEX256)
_WEIGHTS = re.compile(WEIGHTS_DIGEST)
_MODEL = re.compile(MODEL)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MOMENT = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class File:
    """One file of the composed model."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Approval:
    """A reviewer's approval of the bytes with this digest."""

    who: str
    sha256: str


@dataclass(frozen=True)
class Patch:
    """One patch of the recipe, its author and its approvals."""

    number: int
    revision: int
    sha256: str
    weight: str
    author: str
    approvals: tuple[Approval, ...]


@dataclass(frozen=True)
class Evaluation:
    """One measured number, and who reported it."""

    task: str
    dataset: str
    metric: str
    value: float
    higher_is_better: bool
    who: str


@dataclass(frozen=True)
class Builder:
    """One builder of the recipe: the device, and the weights digest of the result."""

    who: str
    weights_digest: str
    device: str


@dataclass(frozen=True)
class Previous:
    """The release before: its version and the digest of its manifest."""

    version: str
    manifest: str


@dataclass(frozen=True)
class Audit:
    """The newest event of the audit log when the release was published."""

    serial: int
    hash: str


@dataclass(frozen=True)
class Manifest:
    """Everything about a release. All builders agree on its weights; its patches are those of its recipe."""

    model: str
    version: str
    base: str
    recipe: Recipe
    weights_digest: str
    files: tuple[File, ...]
    patches: tuple[Patch, ...]
    evaluations: tuple[Evaluation, ...]
    changelog_sha256: str
    card_sha256: str
    builders: tuple[Builder, ...]
    previous: Previous | None
    audit: Audit
    created_at: datetime


def make_manifest(manifest: Manifest) -> bytes:
    """Write a manifest.

    Args:
        manifest: In any order; files and patches are sorted here. `created_at` has a time zone.

    Raises:
        InvalidRequest: A field is out of bounds, or two fields contradict each other.
        TooLarge: The manifest is longer than 16 MiB.
    """
    _check(manifest)
    table = asdict(manifest)
    table["schema"] = SCHEMA
    table["recipe"] = json.loads(manifest.recipe.canonical())
    table["created_at"] = manifest.created_at.astimezone(UTC).strftime(_MOMENT)
    table["evaluations"] = [{**one, "value": float(one["value"])} for one in table["evaluations"]]
    table["files"] = sorted(table["files"], key=lambda file: str(file["path"]))
    table["patches"] = sorted(table["patches"], key=lambda patch: str(patch["sha256"]))
    try:
        text = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        raw = text.encode("utf-8")
    except ValueError:
        raise _wrong("it holds text that UTF-8 cannot") from None
    if len(raw) > MOST_BYTES:
        raise TooLarge(f"A release manifest has at most {MOST_BYTES} bytes.", field="manifest")
    return raw


def manifest_digest(raw: bytes) -> str:
    """Return the digest of a manifest, 64 hex digits."""
    return hashlib.sha256(raw).hexdigest()


def read_manifest(raw: bytes) -> Manifest:
    """Read a manifest that may come from a stranger.

    Raises:
        InvalidRequest: The bytes are not what `make_manifest` writes for any release; the message says why.
        TooLarge: The manifest is longer than 16 MiB.
    """
    if len(raw) > MOST_BYTES:
        raise TooLarge(f"A release manifest has at most {MOST_BYTES} bytes.", field="manifest")
    try:
        table = parse(raw)
        if not isinstance(table, dict) or type(schema := table.pop("schema", None)) is not int:
            raise ValueError("it is not a JSON object with a schema")
        if schema != SCHEMA:
            raise ValueError(f"its schema is {str(schema)[:20]}, and this program reads {SCHEMA}; install the newest")
        manifest: Manifest = build(Manifest, table, {Recipe: _recipe, datetime: _moment})
    except ValueError as problem:
        raise _wrong(str(problem)[:500]) from None
    if make_manifest(manifest) != raw:
        raise _wrong("it is not in canonical form")
    return manifest


def _wrong(why: str) -> InvalidRequest:
    return InvalidRequest(f"This is not a sound release manifest: {why}.", field="manifest")


def _recipe(value: Any) -> Recipe:
    try:
        items = [
            Item(item["sha256"], item["weight"], tuple((glob, factor) for glob, factor in item.get("where", ())))
            for item in value["patches"]
        ]
        recipe = make_recipe(value["base"], value["alpha"], items, value["method"])
    except (AttributeError, BreadcrumbError, KeyError, TypeError, ValueError):
        raise ValueError("its recipe cannot be composed") from None
    if json.loads(recipe.canonical()) != value:
        raise ValueError("its recipe is not in canonical form")
    return recipe


def _moment(value: Any) -> datetime:
    try:
        return datetime.strptime(value, _MOMENT).replace(tzinfo=UTC)
    except (TypeError, ValueError):
        raise ValueError("created_at is not a moment like 2026-11-25T10:00:00.000000Z") from None


def _check(manifest: Manifest) -> None:
    """Refuse values that no release can have, field by field, and then contradictions between fields."""
    every: list[tuple[str, Iterable[Any], Callable[[Any], Any]]] = [
        ("model", [manifest.model], _MODEL.fullmatch),
        ("version", [manifest.version, *([manifest.previous.version] if manifest.previous else [])], parse_version),
        ("base or weights digest", [manifest.base, manifest.weights_digest], _WEIGHTS.fullmatch),
        ("path", [file.path for file in manifest.files], is_path),
        ("size", [file.size for file in manifest.files], lambda size: 0 <= size < 2**63),
        ("sha256 or hash", _digests(manifest), _HEX256.fullmatch),
        ("number", [n for patch in manifest.patches for n in (patch.number, patch.revision)], lambda n: 0 < n < 2**31),
        ("audit serial", [manifest.audit.serial], lambda serial: 0 <= serial < 2**63),
        ("evaluation's value", [evaluation.value for evaluation in manifest.evaluations], math.isfinite),
        ("name", _words(manifest), lambda word: 0 < len(word) <= 500 and not _CONTROLS.search(word)),
        ("created_at", [manifest.created_at], lambda moment: moment.tzinfo and moment.year >= 1000),
    ]
    for what, values, allows in every:
        for value in values:
            if not allows(value):
                raise _wrong(f"a {what} is {str(value)[:80]!r}")
    paths = [file.path for file in manifest.files]
    if not paths or len(set(paths)) != len(paths):
        raise _wrong("it has no files, or a path twice")
    if manifest.recipe.base != manifest.base:
        raise _wrong("its recipe is for another base")
    if sorted((patch.sha256, patch.weight) for patch in manifest.patches) != [
        (item.sha256, item.weight) for item in manifest.recipe.items
    ]:
        raise _wrong("its patches are not those of its recipe")
    if any(approval.sha256 != patch.sha256 for patch in manifest.patches for approval in patch.approvals):
        raise _wrong("an approval is of other bytes than its patch")
    if not manifest.builders or any(one.weights_digest != manifest.weights_digest for one in manifest.builders):
        raise _wrong("nobody built it, or a builder came to other weights")


def _digests(manifest: Manifest) -> list[str]:
    digests = [manifest.changelog_sha256, manifest.card_sha256, manifest.audit.hash]
    digests += [file.sha256 for file in manifest.files]
    digests += [digest for patch in manifest.patches for digest in (patch.sha256, *(a.sha256 for a in patch.approvals))]
    return digests + ([manifest.previous.manifest] if manifest.previous else [])


def _words(manifest: Manifest) -> list[str]:
    words = [word for builder in manifest.builders for word in (builder.who, builder.device)]
    words += [word for patch in manifest.patches for word in (patch.author, *(a.who for a in patch.approvals))]
    return words + [word for e in manifest.evaluations for word in (e.task, e.dataset, e.metric, e.who)]
