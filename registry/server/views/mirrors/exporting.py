"""Views of exports: pages of a model's rows for registries that follow this one."""

import uuid

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.audit import read_head
from registry.db.tables import Blob, Model, Namespace
from registry.services.composing import compositions
from registry.services.mirroring import exports
from registry.services.mirroring.carried import parse_part
from registry.services.operating import identity
from registry.services.people.actors import Actor


def head(session: Session, at: int) -> schemas.MirrorHead:
    """Return which registry this is, the head of its log, and the hash of an event."""
    known = read_head(session)
    return schemas.MirrorHead(
        registry=identity.read_id(session),
        format=exports.FORMAT,
        serial=int(known["serial"]),
        hash=str(known["hash"]),
        at=exports.event_hash(session, at),
    )


def models(session: Session, actor: Actor | None, after: uuid.UUID | None, limit: int) -> schemas.MirrorModelPage:
    """Return a page of the models that the caller may mirror."""
    rows = exports.models(session, actor, after, limit)
    items = [schemas.MirrorModel(id=str(key), name=name) for key, name in rows]
    return schemas.MirrorModelPage(items=items, next=items[-1].id if len(items) == limit else None)


def parts(session: Session, model: Model, after: str | None, limit: int) -> schemas.MirrorPartPage:
    """Return a page of the parts of a model.

    Raises:
        InvalidRequest: `after` is not a part.
    """
    items = [str(part) for part in exports.parts(session, model, parse_part(after) if after else None, limit)]
    return schemas.MirrorPartPage(items=items, next=items[-1] if len(items) == limit else None)


def rows(session: Session, model: Model, part: str, skip: int) -> schemas.MirrorRowPage:
    """Return a page of the rows of a part of a model.

    Raises:
        InvalidRequest: There is no such kind of part.
    """
    page = exports.page(session, model, parse_part(part), skip)
    space = session.get_one(Namespace, model.namespace_id)
    recipe = None
    if page.recipe is not None:
        known = compositions.to_recipe(page.recipe)
        items = [
            schemas.MirrorItem(sha256=item.sha256, weight=item.weight, where=list(item.where)) for item in known.items
        ]
        recipe = schemas.MirrorRecipe(
            digest=known.digest, base=known.base, alpha=known.alpha, method=known.method, items=items
        )
    return schemas.MirrorRowPage(
        space=schemas.MirrorSpace(id=str(space.id), name=space.name, kind=space.kind),
        people=[
            schemas.MirrorUser(
                id=str(user.id),
                name=user.name,
                display_name=user.display_name,
                is_program=user.is_program,
                namespace=str(own.id),
            )
            for user, own in page.people
        ],
        recipe=recipe,
        rows=[schemas.MirrorRow(table=table, values=values) for table, values in page.rows],
        blobs=[schemas.MirrorBlob(sha256=sha256, size=size, where=where) for sha256, size, where in page.blobs],
        next=page.next,
    )


def blob(session: Session, model: Model, sha256: str) -> Blob:
    """Return a file that a mirror of a model may have.

    Raises:
        EntryNotFound: There is none of this digest.
    """
    return exports.blob(session, model, sha256)
