"""Blobs that nothing refers to, and rows that do."""

import random
import uuid
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.db.tables import BaseFile, Blob, Model, Namespace, User, now
from registry.services.blobs import garbage, quotas
from tests.support.world import World

DATA = random.Random(1).randbytes(2500)
NONE = timedelta(0)


def orphan(world: World, data: bytes = DATA, age: timedelta = NONE, **changed: Any) -> str:
    """Store bytes that nothing refers to."""
    sha256, size = world.store.put([data])
    with world.database.write() as session:
        then = now() - age
        session.add(Blob(sha256=sha256, size=size, created_at=then, leased_until=then))
        session.flush()
        for name, value in changed.items():
            setattr(session.get_one(Blob, sha256), name, value)
    return sha256


def refer(session: Session, sha256: str) -> None:
    """Add a model whose base is a blob, as a foreign key alone does it: without a lease."""
    user = session.scalars(select(User)).first()
    space = session.scalars(select(Namespace)).first()
    assert user is not None
    assert space is not None
    name = f"m{uuid.uuid4().hex[:12]}"
    files = [BaseFile(path="model.safetensors", sha256=sha256)]
    quotas.charge(session, space.id, [sha256])
    session.add(Model(namespace_id=space.id, name=name, creator_id=user.id, size=1, files=files))
    session.flush()


def unwanted(world: World, sha256: str) -> None:
    """Have no base refer to a blob any more."""
    with world.database.write() as session:
        session.execute(delete(BaseFile).where(BaseFile.sha256 == sha256))


def collect(world: World, grace: timedelta = NONE, **how: Any) -> garbage.Collected:
    """Collect what nothing refers to, in the bucket as well if there is one that has copies."""
    return garbage.run(world.database, world.store, grace, bucket=world.worker.bucket, **how)
