from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from tests.support.community import Community
from tests.support.hub_pushes import NAME
from tests.support.hubs import make_llama
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


@pytest.fixture
def base(world: World, tmp_path: Path) -> Path:
    folder = make_llama(tmp_path / "base", 1, shards=1)
    create_model(world, NAME, folder, "alice")
    world.token("bob")
    return folder
