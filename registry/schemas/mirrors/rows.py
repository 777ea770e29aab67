"""Schemas of rows: models part by part, as a registry that follows another one takes them over."""

from typing import Any, Literal

from pydantic import Field

from registry.schemas.wire import Answer, Hex256, ModelName, WeightsDigest


class MirrorHead(Answer):
    """Which registry this is, the newest event of its log, and the hash of the event that was asked for.

    A mirror goes on only if that hash is the one that it knows: then nothing before it was changed.
    """

    registry: str | None = Field(description="its id; null until a server or worker has started once")
    format: int = Field(description="of the rows")
    serial: int
    hash: str
    at: str | None = Field(description="null if no event has that serial")


class MirrorModel(Answer):
    """A model that may be mirrored."""

    id: str
    name: ModelName


class MirrorModelPage(Answer):
    """Models in the order of their keys; `next` is the `after` of the next page."""

    items: list[MirrorModel]
    next: str | None


class MirrorPartPage(Answer):
    """Parts of a model, as `rows` takes them; `next` is the `after` of the next page."""

    items: list[str]
    next: str | None


class MirrorRow(Answer):
    """A row of a table, with the columns that mirrors take over."""

    table: str
    values: dict[str, Any]


class MirrorUser(Answer):
    """A user whom rows name, and the key of their namespace."""

    id: str
    name: str
    display_name: str
    is_program: bool
    namespace: str


class MirrorSpace(Answer):
    """The namespace that a model is in."""

    id: str
    name: str
    kind: Literal["user", "organisation"]


class MirrorItem(Answer):
    """A patch of a recipe, its weight, and its factors by tensor."""

    sha256: Hex256
    weight: str = Field(max_length=64)
    where: list[tuple[str, str]]


class MirrorRecipe(Answer):
    """A recipe; its digest follows from the rest."""

    digest: Hex256
    base: WeightsDigest
    alpha: str = Field(max_length=64)
    method: str = Field(max_length=16)
    items: list[MirrorItem]


class MirrorBlob(Answer):
    """A file that rows name: `here` it can be downloaded, at the `hub` the base has it, `composed` it follows."""

    sha256: Hex256
    size: int = Field(ge=0, lt=2**63)
    where: Literal["here", "hub", "composed"]


class MirrorRowPage(Answer):
    """Rows of a part of a model, parents first; `next` is the `skip` of the next page."""

    space: MirrorSpace
    people: list[MirrorUser]
    recipe: MirrorRecipe | None
    rows: list[MirrorRow]
    blobs: list[MirrorBlob]
    next: int | None
