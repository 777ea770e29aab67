"""Fill a database, what is referred to first."""

import uuid
from dataclasses import dataclass

from sqlalchemy import select

from benchmarks.server.community.events import add_events
from benchmarks.server.community.patches import add_pairs, add_patches
from benchmarks.server.community.people import add_models, add_people, add_trigrams
from benchmarks.server.community.releases import add_compositions, add_releases
from benchmarks.server.community.rows import Rows, hurry
from benchmarks.server.community.sizes import Community, Sizes
from registry.db import tables
from registry.db.session import Database
from registry.services.blobs import quotas
from registry.services.people import sign_ins
from registry.services.people.tokens import create_token

STEPS = (add_people, add_models, add_patches, add_releases, add_compositions, add_pairs, add_trigrams)


@dataclass(frozen=True)
class Secrets:
    """What callers show: alice owns the large model and runs the server; bob has no role."""

    alice: str
    bob: str
    cookie: str


def fill(database: Database, sizes: Sizes) -> Secrets:
    """Fill a migrated, empty database."""
    with database.write() as session:
        alice, _ = create_token(session, "alice", admin=True)
        bob, _ = create_token(session, "bob")
    with database.write() as session:
        cookie = sign_ins.start(session, alice)
    with database.read() as session:
        owner = session.scalars(select(tables.User.id).where(tables.User.name == "alice")).one()
        space = session.scalars(select(tables.Namespace.id).where(tables.Namespace.name == "alice")).one()
    insert_all(database, sizes, owner, space)
    with database.write() as session:
        for key in session.scalars(select(tables.Namespace.id)).all():
            quotas.recount(session, key)
    return Secrets(alice, bob, cookie)


def insert_all(database: Database, sizes: Sizes, owner: uuid.UUID, space: uuid.UUID) -> None:
    """Insert all rows in one transaction; the large model is a user's, in a namespace."""
    with database.engine.connect() as connection:
        hurry(connection)
        with connection.begin():
            rows = Rows(connection)
            community = Community(rows, sizes, owner, space)
            for step in STEPS:
                step(community)
            add_events(connection, rows, sizes)
        connection.invalidate()
