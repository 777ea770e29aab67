from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from tests.support.community import Community
from tests.support.hub_pushes import NAME
from tests.support.hubs import make_llama
from tests.support.prepared import Fill
from tests.support.world import World, create_model

ClientOf = Callable[[Community, str | None], HfApi]


@pytest.fixture
def client_of() -> Iterator[ClientOf]:
    """The Hub's own client, of a registry in this process and with the token of one of its people."""

    def make(crew: Community, user: str | None) -> HfApi:
        transport = crew.world.client(None)._transport
        set_client_factory(lambda: httpx2.Client(transport=transport))
        return HfApi(endpoint="http://testserver", token=crew.world.token(user) if user else False)

    yield make
    set_client_factory(default_client_factory)


def add_llama(world: World, folder: Path) -> None:
    """Add a model of alice's, made of the folder `base`; bob is there as well."""
    create_model(world, NAME, make_llama(folder / "base", 1, shards=1), "alice")
    world.token("bob")


@pytest.fixture
def world_filling(request: pytest.FixtureRequest) -> Fill | None:
    return add_llama if "base" in request.fixturenames else None


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder of the model that is in `world` from the start."""
    return tmp_path / "base"
