"""Fixtures of tests of people: a registry with everybody in it, for all files of access."""

import shutil
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy
from sqlalchemy import select

from registry.db.tables import User
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.places import ACTORS, FOREIGN, MEMBERS, OPEN, SHUT, Place, member
from tests.support.routes import every_way
from tests.support.world import create_model, digest, open_world, push_patch, upload


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def place(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_template: Callable[[str], str],
) -> Iterator[Place]:
    folder, template = tmp_path_factory.mktemp("place"), migrated_template(request.param)
    if request.param == "sqlite":
        shutil.copyfile(str(sqlalchemy.make_url(template).database), folder / "registry.db")
        url = f"sqlite:///{folder / 'registry.db'}"
    else:
        url = request.getfixturevalue("databases").create(template)
    with (
        open_world(folder / "data", url) as world,
        world.client(None) as http,
    ):
        made = Place(world, http, every_way(world.app), {None: ""})
        for user in filter(None, (*ACTORS, "founder", "newcomer")):
            made.secrets[user] = world.token(user, admin=user == "chief")
        founder = world.client("founder")
        base = make_checkpoint(folder / "base")
        for place, name in enumerate((OPEN, SHUT, FOREIGN)):
            assert founder.post("/api/v1/namespaces", json={"name": name.partition("/")[0]}).status_code == 201
            create_model(world, name, base, "founder")
            file = folder / f"{place}.safetensors"
            make_patch(base, fine_tuned(base, folder / f"tuned{place}", seed=place + 1), file)
            made.patches[name] = digest(file.read_bytes())
            with world.database.write() as session:
                member(session, name, "author", "contributor")
            beside = [{"path": "config.json", "sha256": upload(world.client("author"), b"{}")}]
            push_patch(world, name, file, "author", propose=True, files=beside)
        file = folder / "second.safetensors"
        make_patch(base, fine_tuned(base, folder / "tuned", seed=9), file)
        push_patch(world, FOREIGN, file, "founder", propose=True)
        for name in (SHUT, FOREIGN):
            hidden = founder.patch(f"/api/v1/models/{name}", json={"visibility": "private"})
            assert hidden.status_code == 200
        with world.database.write() as session:
            for user in MEMBERS:
                member(session, OPEN, user, user)  # a role on the model
                member(session, "band", user, user)  # a role in its namespace
            for where in (OPEN, SHUT, FOREIGN, "crew", "band", "vault"):
                member(session, where, "disabled", "owner")
            session.scalars(select(User).where(User.name == "disabled")).one().is_active = False
        for name in (OPEN, FOREIGN):  # who contributed here once has no role any more
            assert founder.delete(f"/api/v1/models/{name}/members/author").status_code == 204
        yield made
