import shutil
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy

from tests.support.hubs import NAME, Hub, fill
from tests.support.processes import open_registry
from tests.support.world import open_world


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory, migrated_template: Callable[[str], str]) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    data = folder / "data"
    data.mkdir()
    shutil.copyfile(str(sqlalchemy.make_url(migrated_template("sqlite")).database), data / "registry.db")
    with open_world(data, f"sqlite:///{data / 'registry.db'}", part_bytes=2**25) as world:
        base, tokens, anybody = fill(world, folder), world.tokens, world.client(None)
        world.worker.settings = world.settings.model_copy(update={"composed_bytes": 0})
        world.worker.sweep()
        there = f"/api/models/{NAME}/revision"
        commits = {ref: anybody.get(f"{there}/{ref}").json()["sha"] for ref in ("base", "stable", "1.0.0", "1.1.0")}
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    with open_registry(folder, rate_address="", rate_token="", composed_bytes=0) as registry:
        registry.serve()
        yield Hub(registry.url, data, tokens, commits, files)
