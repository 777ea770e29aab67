"""Documents: what a primary answered for a part of a model, checked as far as that can be done without this database.

Nothing in it is believed: names are names, values have the types of their columns, the digest of a recipe follows from
the rest. What it says of files holds once their bytes are here (services/mirroring/imports.py).
"""

import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Boolean, Float, Integer, String, Uuid

from registry.breadcrumbs.formats import recipe as recipes
from registry.db.tables import CardProposal, Channel, Model, Release, Table, UTCDateTime
from registry.documents.manifest import MOST_BYTES as LONGEST_MANIFEST
from registry.documents.signing.bundles import LONGEST_BUNDLE
from registry.documents.versions import parse_version
from registry.errors import InvalidRequest
from registry.files.beside import CARD_BYTES
from registry.files.folders import check_path
from registry.services.curation import cards
from registry.services.mirroring.carried import TABLES, Carried, Part
from registry.services.people.names import check_name
from registry.services.releasing import channels

BY_NAME = {one.name: one for one in TABLES.values()}
LISTS = (
    "required_evaluations",
    "about",
    "warnings",
    "nodes",
)  # columns of JSON that hold texts; the others hold objects
MOST_ITEMS, MOST_CHARACTERS = 1000, 2000  # of a value in a column of JSON
MESSAGE_BYTES = 65536  # as registry/schemas/wire.py has it
TEXT_BYTES = {  # of columns that may be long, as of users here; the others have as many as a message
    "card": CARD_BYTES,
    "before": CARD_BYTES,
    "manifest": LONGEST_MANIFEST,
    "signature": LONGEST_BUNDLE,
}
PINNED = re.compile(r"hf://[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*@[0-9a-f]{40}", re.ASCII)
ADDRESS = re.compile(r"https?://\S+")


@dataclass(frozen=True)
class Person:
    """A user whom rows name, and the key of their namespace."""

    id: uuid.UUID
    name: str
    display_name: str
    is_program: bool
    namespace: uuid.UUID


@dataclass(frozen=True)
class Space:
    """The namespace that a model is in."""

    id: uuid.UUID
    name: str
    kind: str


@dataclass(frozen=True)
class Document:
    """A part of a model: its rows by table, each with its columns by name, and the files that they name.

    `blobs` has size and place of each file by its digest; the place is `here`, `hub` or `composed`. `unsigned` are the
    keys of releases that are not taken over until they are signed.
    """

    part: Part
    space: Space
    people: Sequence[Person]
    recipe: recipes.Recipe | None
    rows: Mapping[type[Table], list[dict[str, Any]]]
    blobs: Mapping[str, tuple[int, str]]
    unsigned: frozenset[uuid.UUID] = frozenset()

    def of(self, table: type[Table]) -> list[dict[str, Any]]:
        """Return the rows of a table."""
        return self.rows.get(table, [])

    @property
    def model(self) -> dict[str, Any]:
        """The row of the model."""
        return self.rows[BY_NAME["models"].table][0]


def malformed(what: str) -> InvalidRequest:
    """Return the error for an answer of the primary that is none."""
    return InvalidRequest(f"The primary's answer is malformed: {what}.")


def read_key(text: str) -> uuid.UUID:
    """Return a key.

    Raises:
        InvalidRequest: It is none.
    """
    try:
        return uuid.UUID(text)
    except ValueError:
        raise malformed(f"'{text[:40]}' is not a key") from None


def read_person(key: str, name: str, display_name: str, is_program: bool, namespace: str) -> Person:
    """Return a user.

    Raises:
        InvalidRequest: The name or a key is none.
    """
    check_name(name, "name", reserved=False)  # operators may give reserved names to admins, there as here
    if len(display_name) > 100 or "\0" in display_name:
        raise malformed("a name is too long")
    return Person(read_key(key), name, display_name, is_program, read_key(namespace))


def read_space(key: str, name: str, kind: str) -> Space:
    """Return a namespace.

    Raises:
        InvalidRequest: The name or the key is none.
    """
    check_name(name, "name", reserved=kind != "user")
    return Space(read_key(key), name, kind)


def read_recipe(
    digest: str, base: str, alpha: str, method: str, items: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]
) -> recipes.Recipe:
    """Return a recipe, given digest, weight and factors of each item.

    Raises:
        InvalidRequest, InvalidRecipe: It is not what its digest says, or cannot be composed.
    """
    made = recipes.make_recipe(
        base, alpha, [recipes.Item(sha, weight, tuple(where)) for sha, weight, where in items], method
    )
    if made.digest != digest:
        raise malformed(f"the recipe {digest[:12]} has another digest")
    return made


def read_rows(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[type[Table], list[dict[str, Any]]]:
    """Return rows by table, given the name of the table and the values of each.

    Raises:
        InvalidRequest: A table or column is not carried, a column is missing, or a value is not one of its column.
    """
    found: dict[type[Table], list[dict[str, Any]]] = {}
    for name, values in rows:
        if (one := BY_NAME.get(name)) is None:
            raise malformed(f"it has rows of '{name[:40]}'")
        if values.keys() != one.columns.keys():
            odd = sorted(values.keys() ^ one.columns.keys())
            raise malformed(f"a row of {name} has other columns than this version knows ({', '.join(odd)[:100]})")
        row = {column: read_value(one, column, value) for column, value in values.items()}
        if "path" in row:
            check_path(row["path"])
        derive(one.table, row)
        found.setdefault(one.table, []).append(row)
    if len(found.get(BY_NAME["models"].table, [])) != 1:
        raise malformed("it has not one row of the model")
    return found


def derive(table: type[Table], row: dict[str, Any]) -> None:
    """Hold the values of a row that follow from others to the rules of this registry, or compute them.

    Raises:
        InvalidRequest: A version or a name is not one, or is reserved.
    """
    if table is Release:
        row["sort"] = parse_version(row["version"]).sort_key
    elif table is Channel:
        channels.check_name(row["name"])
    elif table is CardProposal:
        row["commit"] = cards.commit_of(row["card"])
    elif table is Model:
        check_name(row["name"], "name")
        if row["source"] is not None and PINNED.fullmatch(row["source"]) is None:
            raise malformed("the source of a base is not pinned to a commit of a Hub")


def is_shaped(name: str, value: Any) -> bool:
    """Say whether a value may be in a column of JSON: pages rely on its shape, and make a link of a run's address."""
    if name in LISTS:
        return isinstance(value, list) and len(value) <= MOST_ITEMS and all(is_text(item) for item in value)
    if not isinstance(value, dict) or len(value) > MOST_ITEMS or not all(map(is_text, value)):
        return False
    if name == "origin":
        claims, url = value.get("claims"), value.get("url")
        texts = value.get("kind"), value.get("issuer"), *(claims.values() if isinstance(claims, dict) else (None,))
        linked = url is None or (is_text(url) and ADDRESS.fullmatch(url) is not None)
        return value.keys() == {"kind", "issuer", "claims", "url"} and all(map(is_text, texts)) and linked
    return all(is_text(item) or type(item) in (bool, int) for item in value.values())


def is_text(value: Any) -> bool:
    """Say whether a value is a short text."""
    return isinstance(value, str) and len(value) <= MOST_CHARACTERS and "\0" not in value


def read_value(one: Carried, name: str, value: Any) -> Any:
    """Return the value of a column.

    Raises:
        InvalidRequest: It is none.
    """
    column = one.columns[name]
    kind, wrong = column.type, malformed(f"{name} of a row of {one.name} is not one")
    if value is None:
        if not column.nullable:
            raise wrong
        return None
    if isinstance(kind, JSON):
        if not is_shaped(name, value):
            raise wrong
        return value
    if isinstance(kind, Boolean):
        sound = isinstance(value, bool)
    elif isinstance(kind, Integer):
        sound = type(value) is int and -(2**63) <= value < 2**63
    elif isinstance(kind, Float):
        sound = type(value) in (int, float) and math.isfinite(value)
    else:
        sound = isinstance(value, str) and "\0" not in value
    if not sound:
        raise wrong
    if isinstance(kind, Uuid):
        return read_key(value)
    if isinstance(kind, UTCDateTime):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            raise wrong from None
        if at.tzinfo is None:
            raise wrong
        return at
    if isinstance(kind, String) and (
        len(value.encode("utf-8", "surrogatepass")) > TEXT_BYTES.get(name, MESSAGE_BYTES)
        or len(value) > (kind.length or len(value))
    ):
        raise wrong
    return float(value) if isinstance(kind, Float) else value
