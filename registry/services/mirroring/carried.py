"""Carried rows: which tables and columns a mirror gets of a model, and in which parts.

    model             the files of the base, and its evaluations
    patch:3           a patch with its revisions, their files, its card, reviews, comments; and those that it supersedes
    recipe:<64 hex>   a recipe, its composition, builds and releases, and their evaluations
    release:1.2.0     what the recipe of the release is
    channel:stable    a channel and its moves

The row of the model comes with each part. What a mirror finds out by itself is not carried: the tensors of the base,
what is in a patch and what checks say of it, conflicts, tags, downloads. Neither is what is nobody else's business:
tokens, members, votes, reports, webhooks, pushes of the Hub's tools, watches, mentions, and texts that are hidden.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select, union

from registry.db.tables import (
    BaseFile,
    Build,
    CardProposal,
    Channel,
    ChannelMove,
    Comment,
    CommentEdit,
    Composition,
    CompositionFile,
    Evaluation,
    Model,
    Patch,
    PatchRevision,
    Release,
    ReleaseFile,
    Review,
    RevisionFile,
    Table,
)
from registry.documents.versions import parse_version
from registry.errors import BreadcrumbError, InvalidRequest

KINDS = ("model", "patch", "recipe", "release", "channel")
KEYS = {"patch": r"[1-9][0-9]{0,8}", "recipe": "[0-9a-f]{64}", "channel": r"[a-z0-9-]{1,32}"}


class Part(NamedTuple):
    """A part of a model: its kind, and the number, digest, version or name that says which."""

    kind: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.key}" if self.key else self.kind


def parse_part(text: str) -> Part:
    """Return the part that a text names.

    Raises:
        InvalidRequest: It names none.
    """
    part = Part(*text.partition(":")[::2])
    known = part.kind == "model" and text == "model"
    if part.kind == "release":
        try:
            known = bool(parse_version(part.key))
        except BreadcrumbError:
            known = False
    elif part.kind in KEYS:
        known = re.fullmatch(KEYS[part.kind], part.key) is not None
    if not known:
        raise InvalidRequest(
            f"'{text[:80]}' is not a part of a model; they are model, patch:3, recipe:<digest>, release:1.2.0 and "
            "channel:stable.",
            field="part",
        )
    return part


@dataclass(frozen=True)
class Carried:
    """A table of which rows are carried.

    Attributes:
        table: The table.
        left_out: Columns that each registry has its own values of.
        changing: Columns that may change once the row is there.
        vanishing: Whether a row may be gone later.
    """

    table: type[Table]
    left_out: frozenset[str] = frozenset()
    changing: frozenset[str] = frozenset()
    vanishing: bool = False

    @property
    def name(self) -> str:
        """The name of the table."""
        return str(self.table.__tablename__)

    @property
    def columns(self) -> dict[str, Any]:
        """The carried columns by name."""
        return {column.key: column for column in self.table.__table__.c if column.key not in self.left_out}

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return tuple(column.key for column in self.table.__table__.primary_key)

    @property
    def people(self) -> tuple[str, ...]:
        """The columns that name users."""
        return tuple(
            name
            for name, column in self.columns.items()
            if any(key.target_fullname == "users.id" for key in column.foreign_keys)
        )


def carried(table: type[Table], left_out: str = "", changing: str = "", *, vanishing: bool = False) -> Carried:
    """Return what is carried of a table, given names of columns between spaces."""
    return Carried(table, frozenset(left_out.split()), frozenset(changing.split()), vanishing)


HEADER = "header_size header_sha256"
CHECKED_HERE = f"blob_sha256 nnz density drop_bottom drop_top granularity value_dtype norm rounding base_norm {HEADER}"
TABLES = {
    one.table: one
    for one in (
        carried(
            Model,
            "downloads_30d",
            "name visibility license min_approvals required_evaluations mask card patch_count modified_at size",
        ),
        carried(BaseFile, HEADER),
        carried(
            Patch,
            changing="state reason superseded_by quarantined_at quarantine_reason task revision",
        ),
        carried(CardProposal, changing="title message card before commit created_at"),
        carried(PatchRevision, CHECKED_HERE, "commit"),
        carried(RevisionFile, "keys"),
        carried(Review),
        carried(
            Comment,
            changing="message about edited_at deleted_by_id deleted_at deletion_reason hidden_by_id hidden_at "
            "hiding_reason",
        ),
        carried(CommentEdit, vanishing=True),
        carried(Composition, "held used_at reads counted_at", "user_id device seconds warnings", vanishing=True),
        carried(CompositionFile, vanishing=True),
        carried(Build, "told", vanishing=True),
        carried(
            Release,
            changing="state changelog card manifest commit signature publisher_id published_at yank_reason yanked_at "
            "pinned recipe_digest previous_version allow_yanked",
        ),
        carried(ReleaseFile, changing="sha256 revision_id", vanishing=True),
        carried(Channel, changing="release_id role approvals allow_yanked"),
        carried(ChannelMove),
        carried(Evaluation),
    )
}
SEEN = ("checked", "refused")  # states of revisions that are carried
SEALED = ("published", "yanked")  # states of releases of which little may change
CHANGING_SEALED = frozenset(("state", "signature", "yank_reason", "yanked_at", "pinned"))


def is_carried() -> ColumnElement[bool]:
    """Return the condition for patches that are carried: they have a revision that was checked, or propose a card."""
    checked = exists().where(PatchRevision.patch_id == Patch.id, PatchRevision.state.in_(SEEN))
    return or_(checked, exists().where(CardProposal.patch_id == Patch.id))


def queries(model: Model, part: Part, recipe: str | None = None) -> Iterator[tuple[Carried, Select[Any]]]:
    """Yield the queries for the rows of a part of a model, parents first, each in the order of its key.

    Args:
        model: The model.
        part: The part.
        recipe: The digest of the recipe of a release.
    """
    yield of(Model, Model.id == model.id)
    if part.kind == "model":
        yield of(BaseFile, BaseFile.model_id == model.id)
        nothing = (Evaluation.revision_id, Evaluation.release_id, Evaluation.recipe_digest)
        yield of(Evaluation, Evaluation.model_id == model.id, *(column.is_(None) for column in nothing))
    elif part.kind == "patch":
        yield from of_patch(model, int(part.key))
    elif part.kind in ("recipe", "release"):
        digest = part.key if part.kind == "recipe" else recipe
        yield from of_recipe(model, digest) if digest is not None else ()
    else:
        named = and_(Channel.model_id == model.id, Channel.name == part.key)
        yield of(Channel, named)
        yield of(ChannelMove, ChannelMove.channel_id.in_(select(Channel.id).where(named)))


def of(table: type[Table], *conditions: ColumnElement[bool]) -> tuple[Carried, Select[Any]]:
    """Return what is carried of a table, and the query for some of its rows."""
    one = TABLES[table]
    return one, select(table).where(*conditions).order_by(*(table.__table__.c[key] for key in one.keys))


def of_patch(model: Model, number: int) -> Iterator[tuple[Carried, Select[Any]]]:
    """Yield the queries for a patch, and for the patches that it supersedes."""
    mine = and_(Patch.model_id == model.id, or_(Patch.number == number, Patch.superseded_by == number), is_carried())
    patches = select(Patch.id).where(mine)
    revised = and_(PatchRevision.patch_id.in_(patches), PatchRevision.state.in_(SEEN))
    revisions = select(PatchRevision.id).where(revised)
    shown = Comment.hidden_at.is_(None), Comment.deleted_at.is_(None)
    yield of(Patch, mine)
    yield of(CardProposal, CardProposal.patch_id.in_(patches))
    yield of(PatchRevision, revised)
    yield of(RevisionFile, RevisionFile.revision_id.in_(revisions))
    yield of(Review, Review.revision_id.in_(revisions))
    yield of(Comment, Comment.patch_id.in_(patches))
    texts = select(Comment.id).where(Comment.patch_id.in_(patches), *shown)
    yield of(CommentEdit, CommentEdit.comment_id.in_(texts))
    yield of(Evaluation, Evaluation.model_id == model.id, Evaluation.revision_id.in_(revisions))


def of_recipe(model: Model, digest: str) -> Iterator[tuple[Carried, Select[Any]]]:
    """Yield the queries for what there is of a recipe in a model."""
    composed = and_(Composition.model_id == model.id, Composition.recipe_digest == digest)
    released = and_(Release.model_id == model.id, Release.recipe_digest == digest)
    releases = select(Release.id).where(released)
    yield of(Composition, composed)
    yield of(CompositionFile, CompositionFile.composition_id.in_(select(Composition.id).where(composed)))
    yield of(Build, Build.model_id == model.id, Build.recipe_digest == digest)
    yield of(Release, released)
    yield of(ReleaseFile, ReleaseFile.release_id.in_(releases))
    measured = or_(Evaluation.recipe_digest == digest, Evaluation.release_id.in_(releases))
    yield of(Evaluation, Evaluation.model_id == model.id, measured)


def part_keys(model: Model, kind: str, after: str, limit: int) -> Select[Any] | None:
    """Return the query for the keys of the parts of one kind, in their order, after one of them; None if it has none.

    Args:
        model: The model.
        kind: The kind.
        after: The key to go on after; empty for the first.
        limit: Most keys.
    """
    if kind == "patch":
        numbers = select(Patch.number).where(Patch.model_id == model.id, is_carried(), Patch.number > int(after or 0))
        return numbers.order_by(Patch.number).limit(limit)
    if kind == "recipe":
        named: Sequence[tuple[Any, tuple[ColumnElement[bool], ...]]] = (
            (Composition, ()),
            (Release, ()),
            (Build, ()),
            (Evaluation, (Evaluation.revision_id.is_(None), Evaluation.release_id.is_(None))),
        )
        first = [  # of each table as many as are asked for, by its index, and not all of them
            select(table.recipe_digest.label("key"))
            .where(table.model_id == model.id, table.recipe_digest > after, *more)
            .distinct()
            .order_by(table.recipe_digest)
            .limit(limit)
            .subquery()
            for table, more in named
        ]
        both = union(*(select(one.c.key) for one in first)).subquery()
        return select(both.c.key).order_by(both.c.key).limit(limit)
    if kind == "channel":
        names = select(Channel.name).where(Channel.model_id == model.id, Channel.name > after)
        return names.order_by(Channel.name).limit(limit)
    return None
