"""Memberships: privilege ends when they do."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import select

from registry.db.tables import Model, ModelMember, Namespace, NamespaceMember, User
from registry.services.people.rules import Role
from tests.support.makers import make_checkpoint
from tests.support.places import FOREIGN, NONSENSE, OPEN, SHUT, Place, bearer, member
from tests.support.world import create_model

pytestmark = pytest.mark.heavy


def test_a_user_who_loses_the_role_during_a_request_is_refused(place: Place) -> None:
    owner, founder = bearer(place, "newcomer"), bearer(place, "founder")
    spaces = "/api/v1/namespaces/vault/members"

    def body() -> Iterator[bytes]:
        yield b'{"role": '
        with place.world.database.write() as session:
            user = session.scalars(select(User).where(User.name == "newcomer")).one()
            space = session.scalars(select(Namespace).where(Namespace.name == "vault")).one()
            session.delete(session.get_one(NamespaceMember, (space.id, user.id)))
        yield b'"owner"}'

    assert place.http.put(f"{spaces}/newcomer", json={"role": "owner"}, headers=founder).status_code == 204
    headers = {**owner, "Content-Type": "application/json"}
    try:
        answer = place.http.put(f"{spaces}/newcomer", content=body(), headers=headers)
        assert answer.status_code == 403, answer.text
    finally:
        place.http.delete(f"{spaces}/newcomer", headers=founder)


def test_a_user_who_leaves_a_private_model_no_longer_sees_its_jobs(place: Place) -> None:
    newcomer, founder = bearer(place, "newcomer"), bearer(place, "founder")
    where, body = f"/api/v1/models/{FOREIGN}", {"alpha": "0.1", "patches": [{"number": 1}]}
    given = place.http.put(f"{where}/members/newcomer", json={"role": "contributor"}, headers=founder)
    assert given.status_code == 204
    job = place.http.post(f"{where}/compositions", json=body, headers=newcomer).json()["job"]["id"]
    try:
        assert place.http.get(f"/api/v1/jobs/{job}", headers=newcomer).status_code == 200
        assert place.http.delete(f"{where}/members/newcomer", headers=founder).status_code == 204
        assert place.http.get(f"/api/v1/jobs/{job}", headers=newcomer).status_code == 404
        assert place.http.post(f"/api/v1/jobs/{job}/cancel", headers=newcomer).status_code == 404
    finally:
        place.http.post(f"/api/v1/jobs/{job}/cancel", headers=bearer(place, "chief"))


USERS = ("stranger", "author", "contributor")
GRANTS = (None, "contributor", "reviewer", "maintainer", "owner")


class Memberships(RuleBasedStateMachine):
    """Roles on a namespace and its model change; at each step, each of three users may do what their role allows."""

    place: Place

    @initialize()
    def nobody(self) -> None:
        self.here: dict[str, str] = {}
        self.there: dict[str, str] = {}
        self.active = dict.fromkeys(USERS, True)
        self.public = True
        with self.place.world.database.write() as session:
            for user in session.scalars(select(User).where(User.name.in_(USERS))):
                user.is_active = True
                for table in (ModelMember, NamespaceMember):
                    session.execute(sqlalchemy.delete(table).where(table.user_id == user.id))
                own = session.scalars(select(Namespace.id).where(Namespace.name == user.name)).one()
                session.add(NamespaceMember(namespace_id=own, user_id=user.id, role="owner"))
        self.change("PATCH", "models/lab/thing", {"visibility": "public"})

    def change(self, method: str, path: str, body: Any = None) -> int:
        answer = self.place.http.request(method, f"/api/v1/{path}", json=body, headers=bearer(self.place, "founder"))
        assert answer.status_code < 300 or answer.status_code == 404, answer.text
        return answer.status_code

    @rule(user=strategies.sampled_from(USERS), role=strategies.sampled_from(GRANTS), model=strategies.booleans())
    def grant(self, user: str, role: str | None, model: bool) -> None:
        held = self.here if model else self.there
        where = f"{'models/lab/thing' if model else 'namespaces/lab'}/members/{user}"
        if role is None:
            assert self.change("DELETE", where) == (204 if user in held else 404)
            held.pop(user, None)
        else:
            assert self.change("PUT", where, {"role": role}) == 204
            held[user] = role

    @rule(public=strategies.booleans())
    def show(self, public: bool) -> None:
        self.change("PATCH", "models/lab/thing", {"visibility": "public" if public else "private"})
        self.public = public

    @rule(user=strategies.sampled_from(USERS), active=strategies.booleans())
    def enable(self, user: str, active: bool) -> None:
        with self.place.world.database.write() as session:
            session.scalars(select(User).where(User.name == user)).one().is_active = active
        self.active[user] = active

    def may(self, user: str, needed: Role) -> int:
        """Return the status of a request that needs a role: 200 means that it is allowed."""
        if not self.active[user]:
            return 401
        roles = [Role[held[user].upper()] for held in (self.here, self.there) if user in held]
        best = max(roles, default=Role.CONTRIBUTOR if self.public else Role.NONE)
        return 404 if best is Role.NONE else 200 if best >= needed else 403

    @invariant()
    def everybody_may_what_they_may(self) -> None:
        for user in USERS:
            for method, path, needed in (
                ("GET", "", Role.ANYONE),
                ("POST", "/patches", Role.CONTRIBUTOR),
                ("POST", "/patches/1/accept", Role.MAINTAINER),
                ("PATCH", "", Role.OWNER),
            ):
                url = f"/api/v1/models/lab/thing{path}"
                body = None if method == "GET" else NONSENSE
                answer = self.place.http.request(method, url, json=body, headers=bearer(self.place, user))
                status = 200 if answer.status_code == 422 else answer.status_code
                assert status == self.may(user, needed), (user, method, path)


def test_privilege_ends_when_membership_ends(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    with contextlib.ExitStack() as undo:
        headers = bearer(place, "founder")
        assert place.http.post("/api/v1/namespaces", json={"name": "lab"}, headers=headers).status_code == 201
        create_model(place.world, "lab/thing", make_checkpoint(tmp_path_factory.mktemp("lab")), "founder")
        undo.callback(restore, place)
        machine = type("Machine", (Memberships,), {"place": place})
        few = settings(max_examples=6, stateful_step_count=10, deadline=None)
        run_state_machine_as_test(machine, settings=few)


def restore(place: Place) -> None:
    """Give the three users back the roles that other tests expect, and hide the model from them."""
    with place.world.database.write() as session:
        for user in session.scalars(select(User).where(User.name.in_(USERS))):
            user.is_active = True
            for table in (ModelMember, NamespaceMember):
                session.execute(sqlalchemy.delete(table).where(table.user_id == user.id))
            member(session, user.name, user.name, "owner")
        member(session, SHUT, "author", "contributor")
        for where in (OPEN, "band"):
            member(session, where, "contributor", "contributor")
        session.scalars(select(Model).where(Model.namespace == "lab")).one().visibility = "private"
