"""What the sweep deletes of ways to come in: all that ended, and nothing else."""

from datetime import timedelta

import pytest

from registry.db.tables import DeviceLogin, Invitation, SignIn, Token, User, now
from registry.services.people import sign_ins, tokens
from registry.services.people.joining import devices
from tests.support.world import World

pytestmark = pytest.mark.heavy


def test_the_sweep_deletes_what_ended_and_no_token_that_somebody_knows(world: World) -> None:
    past = now() - timedelta(hours=1)
    with world.database.write() as session:
        world_token = tokens.create_token(session, "alice")[0]
        ended, lasting = (tokens.create_token(session, "alice")[0] for _ in range(2))
        alice = session.query(User).where(User.name == "alice").one()
        for secret in (ended, lasting):
            sign_ins.start(session, secret)
        over, kept = (sign_ins.start_without(session, alice, "a provider")[1].token for _ in range(2))
        over.expires_at = past
        session.query(Token).where(Token.token_hash == sign_ins.hash_token(ended)).one().revoked_at = past
        for label in ("late", "early"):
            devices.start(session, label)
        session.query(DeviceLogin).where(DeviceLogin.label == "late").one().expires_at = past
        for state in ("open", "used"):
            session.add(Invitation(secret_hash=state, state=state, expires_at=past))
    world.worker.sweep()
    with world.database.read() as session:
        held = {row.token_id for row in session.query(SignIn)}
        assert (len(held), kept.id in held, over.id in held) == (2, True, False)
        known = {row.token_hash for row in session.query(Token).where(Token.kind == "personal")}
        assert {sign_ins.hash_token(secret) for secret in (world_token, ended, lasting)} <= known
        assert session.get(Token, over.id) is None and session.get(Token, kept.id) is not None
        assert [row.label for row in session.query(DeviceLogin)] == ["early"]
        assert [row.state for row in session.query(Invitation)] == ["used"], "who came by which is kept"
