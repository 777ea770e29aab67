from collections.abc import Callable, Iterator

import httpx2
import pytest
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from tests.support.community import Community

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
