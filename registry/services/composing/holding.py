"""Holding: which compositions have their weights on disk. Those of the others are composed when they are read.

    held ── it was used least recently, and room is needed ──> digests alone: a function of base, patches and recipe
      ^── composed again: it is read often, a maintainer pinned its release, or a channel points at it ──┘

A composition is let go of in the way of services/blobs/garbage.py: under the locks of its blobs their files are moved
aside, the blobs become `computed`, and the files go after the commit. Bytes that something else needs stay.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update
from sqlalchemy.orm import QueryableAttribute, Session, selectinload

from registry.db.session import Database
from registry.db.tables import (
    STORED,
    BaseFile,
    Blob,
    Channel,
    Composition,
    CompositionFile,
    Job,
    JobPart,
    Model,
    Recipe,
    RecipeItem,
    Release,
    ReleaseFile,
    now,
)
from registry.files.folders import is_weights
from registry.services.blobs import blobs, garbage
from registry.services.composing import compositions, snapshots
from registry.services.composing.snapshots import File
from registry.services.queue import jobs
from registry.storage.store import Store

OFTEN = 3  # whole weight files composed for readers within a day, after which a composition is held
A_DAY = timedelta(days=1)
RENEWED = timedelta(minutes=10)  # how exact the time of the last use is
OTHERS = tuple(owner for owner in blobs.OWNERS if owner not in (CompositionFile.sha256, ReleaseFile.sha256))


@dataclass(frozen=True)
class Ingredients:
    """What the weights of a composition are computed from: the files of the base, and the recipe."""

    composition: uuid.UUID
    base: Sequence[File]
    recipe: Recipe


def ingredients(session: Session, model_id: uuid.UUID, digest: str) -> Ingredients | None:
    """Return what a model's composition is computed from; None if the recipe is not composed there."""
    mine = Composition.model_id == model_id, Composition.recipe_digest == digest
    composition = session.scalar(select(Composition.id).where(*mine))
    if composition is None:
        return None
    recipe = compositions.load(session, digest)
    base = snapshots.list_files(session, snapshots.BASE_FILES, model_id)
    return Ingredients(composition, base, recipe)


def held_bytes(session: Session, *conditions: ColumnElement[bool]) -> int:
    """Return the bytes on disk that are there for held compositions alone, of all or of those that meet conditions."""
    held = select(CompositionFile.sha256).join(Composition).join(Model, Model.id == Composition.model_id)
    held = held.where(Composition.held, weights_of(CompositionFile.path), *conditions)
    total = select(func.coalesce(func.sum(Blob.size), 0)).where(Blob.sha256.in_(held), alone())
    return int(session.scalars(total).one())


def part_bytes(session: Session) -> int:
    """Return the bytes on disk that are there for parts of compositions that are under way."""
    others = (owner for owner in OTHERS if owner not in (JobPart.blob_sha256,))
    needed = (exists().where(owner == Blob.sha256) for owner in others)
    parts = select(JobPart.blob_sha256).where(JobPart.blob_sha256.is_not(None))
    total = select(func.coalesce(func.sum(Blob.size), 0)).where(Blob.sha256.in_(parts), Blob.state.in_(STORED))
    return int(session.scalars(total.where(*(~owned for owned in needed))).one())


def weights_of(path: QueryableAttribute[str]) -> ColumnElement[bool]:
    """Return the condition that a path is that of a weight file, as `is_weights` says."""
    return path.endswith(".safetensors")


def alone() -> ColumnElement[bool]:
    """Return the condition that a blob is on disk, and that only compositions and their releases need it."""
    return and_(Blob.state.in_(STORED), *(~exists().where(owner == Blob.sha256) for owner in OTHERS))


def in_held() -> ColumnElement[bool]:
    """Return the condition that a blob is a file of a held composition."""
    return exists().where(
        CompositionFile.sha256 == Blob.sha256, CompositionFile.composition_id == Composition.id, Composition.held
    )


def kept() -> ColumnElement[bool]:
    """Return the condition that the weights of a composition stay, for a query on its model as well.

    Those that could not be composed again stay, too.
    """
    wanted = or_(
        Release.pinned,
        exists().where(Channel.release_id == Release.id),
        Release.id == snapshots.main_of(Model.id),
    )
    mine = Release.model_id == Composition.model_id, Release.recipe_digest == Composition.recipe_digest
    return or_(exists().where(*mine, wanted), unsound())


def unsound() -> ColumnElement[bool]:
    """Return the condition that something that a composition is made of is damaged."""
    damaged = select(Blob.sha256).where(Blob.damaged_at.is_not(None))
    base = exists().where(BaseFile.model_id == Composition.model_id, BaseFile.sha256.in_(damaged))
    patch = exists().where(RecipeItem.recipe_digest == Composition.recipe_digest, RecipeItem.sha256.in_(damaged))
    return or_(base, patch)


def make_room(database: Database, store: Store, size: int, most: int) -> bool:
    """Let go of compositions, those used least recently first, until another may be held; say whether it may.

    Nothing is let go of for one that may not be held in the end: beside what stays, or on a disk full of other things.

    Args:
        database: Has the rows.
        store: Has the bytes.
        size: Bytes of the weights to be held; 0 to keep to the bound alone.
        most: Most bytes on disk of compositions, and of parts of those that are under way.
    """
    while True:
        with database.read() as session:
            parts = part_bytes(session)
            held, staying = held_bytes(session) + parts, held_bytes(session, kept()) + parts
        if size and (staying + size > most or store.capacity() + held - staying < size):
            make_room(database, store, 0, most)
            return False
        if held + size <= most and store.capacity() >= size:
            return True
        if not let_go_of_next(database, store):
            return False


def let_go_of_next(database: Database, store: Store) -> bool:
    """Let go of the composition that was used least recently; return whether there was one."""
    with store.holding(garbage.LOCK, shared=True) as locked:  # not while a backup copies blobs
        if not locked:
            return False
        with database.read() as session:
            query = select(Composition.id).join(Model).where(Composition.held, ~kept())
            key = session.scalar(query.order_by(Composition.used_at).limit(1))
        if key is None:
            return False
        with database.write() as session:
            gone = let_go(session, store, key)
        drop(store, gone)
        return True


def reclaim(database: Database, store: Store) -> None:
    """Let go of weights that are on disk though no composition that has them is held, and nothing else needs them.

    A row of a composition, of an upload or of a model that went since has kept them here.
    """
    weights = exists().where(CompositionFile.sha256 == Blob.sha256, weights_of(CompositionFile.path))
    stray = alone(), weights, ~in_held(), Blob.leased_until <= now()
    with store.holding(garbage.LOCK, shared=True) as locked:
        while locked:
            with database.write() as session:
                query = select(Blob.sha256).where(*stray).order_by(Blob.sha256).limit(garbage.BATCH)
                named = [sha256 for sha256 in session.scalars(query) if blobs.get_locked(session, sha256)]
                gone = session.scalars(select(Blob).where(Blob.sha256.in_(named), *stray)).all()
                for blob in gone:
                    compute_from_now_on(store, blob)
                session.flush()
            drop(store, [blob.sha256 for blob in gone])
            if len(named) < garbage.BATCH:
                return


def compute_from_now_on(store: Store, blob: Blob) -> None:
    """Let go of the bytes of a locked blob: its file is moved aside, to be dropped after the commit."""
    blob.state, blob.doomed_at, blob.damaged_at = "computed", now(), None
    store.set_aside(blob.sha256)


def let_go(session: Session, store: Store, key: uuid.UUID) -> list[str]:
    """Let go of a composition, unless it stays; return the digests of the blobs whose files are to be dropped after.

    The caller holds `garbage.LOCK`.
    """
    paths = select(CompositionFile.path, CompositionFile.sha256).where(CompositionFile.composition_id == key)
    weights = {sha256 for path, sha256 in session.execute(paths) if is_weights(path)}
    locked = [blob for sha256 in sorted(weights) if (blob := blobs.get_locked(session, sha256))]
    if session.scalar(select(Composition.id).join(Model).where(Composition.id == key, kept())):  # since a moment ago
        return []
    session.execute(update(Composition).where(Composition.id == key).values(held=False, reads=0))
    named = Blob.sha256.in_([blob.sha256 for blob in locked])
    free = set(session.scalars(select(Blob.sha256).where(named, alone(), ~in_held())))
    for blob in locked:
        if blob.sha256 in free:
            compute_from_now_on(store, blob)
    session.flush()
    return sorted(free)


def drop(store: Store, digests: Collection[str]) -> None:
    """Drop files that were moved aside, once that is committed."""
    for sha256 in digests:
        store.drop(sha256)


def use(session: Session, model_id: uuid.UUID, digest: str) -> None:
    """Record that a composition is used now."""
    mine = Composition.model_id == model_id, Composition.recipe_digest == digest
    session.execute(update(Composition).where(*mine, Composition.used_at < now() - RENEWED).values(used_at=now()))


def count_read(session: Session, key: uuid.UUID) -> bool:
    """Count a weight file that was composed for a reader; say whether that happens so often that it should be held."""
    query = select(Composition).where(Composition.id == key).options(selectinload(Composition.files))
    composition = session.scalar(query.with_for_update(of=Composition))
    if composition is None or composition.held:
        return False
    if composition.counted_at < now() - A_DAY:
        composition.reads, composition.counted_at = 0, now()
    composition.reads, composition.used_at = composition.reads + 1, now()
    session.flush()
    return composition.reads >= OFTEN * sum(is_weights(file.path) for file in composition.files)


def hold(session: Session, key: uuid.UUID, *, again: bool = False) -> Job | None:
    """Have a composition held, if it is not: return the job that composes it again; with `again`, in any case.

    Call it in a transaction of its own or with the model locked: a worker that composes holds the job, too.
    """
    composition = session.get_one(Composition, key)
    if composition.held and not again:
        return None
    model = session.get_one(Model, composition.model_id)
    digest, asker = composition.recipe_digest, composition.user_id or model.creator_id
    return compositions.enqueue(session, asker, model, digest)


def hold_recipe(session: Session, model: Model, digest: str) -> None:
    """Have a model's composition of a recipe held, if there is one."""
    composition = compositions.composition_of(session, model, digest)
    if composition is not None:
        hold(session, composition.id)


def doubt(session: Session, key: uuid.UUID) -> None:
    """Have a composition composed again, since a reader was about to get other bytes; a difference is an alarm."""
    composition = session.get(Composition, key)
    if composition is not None:
        model, digest = session.get_one(Model, composition.model_id), composition.recipe_digest
        again = compositions.rebuild_key(model, digest)
        more = compositions.bytes_of_patches(session, digest)
        jobs.enqueue(session, model.creator_id, "rebuild", again, model, digest, {"recipe": digest}, more_bytes=more)


def check(database: Database) -> list[str]:
    """Return a sentence for each blob that is to be computed, and that something needs that is no composition."""
    needed = or_(*(exists().where(owner == Blob.sha256) for owner in OTHERS))
    lost = select(Blob.sha256).where(Blob.state == "computed", needed)
    with database.read() as session:
        return [f"The bytes of blob {sha256} are needed and were let go of." for sha256 in session.scalars(lost)]
