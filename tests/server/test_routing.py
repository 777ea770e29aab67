"""The route of a request: the one that FastAPI would choose."""

import pytest
from starlette.routing import Match

from registry.server.routing import Routing
from tests.support.world import World

TEXTS = {"namespace": "alice", "name": "tiny", "path": "a/b.json", "rev": "refs%2Fpr%2F1", "number": "7"}


def test_every_address_leads_where_fastapi_would_lead_it(calm: World) -> None:
    routing = calm.app.router.middleware_stack
    assert isinstance(routing, Routing)
    seen = 0
    for method, choice in routing.choices.items():
        for route in choice.routes:
            path = route.path_format.format_map({name: TEXTS.get(name, "x") for name in route.param_convertors})
            scope = {"type": "http", "method": method, "path": path, "root_path": ""}
            first = next((one for one in choice.routes if one.matches(dict(scope))[0] is Match.FULL), None)
            found = choice.find(path)
            assert (found and found[0]) is first, (method, path)
            seen += first is not None
    assert seen > 150


def test_no_route_takes_the_addresses_of_another(calm: World) -> None:
    """Each route is reached by an address of its own: those before it, which may take any path, leave it that."""
    routing = calm.app.router.middleware_stack
    assert isinstance(routing, Routing)
    for method, choice in routing.choices.items():
        for route in choice.routes:
            texts = {name: TEXTS.get(name, "x") for name in route.param_convertors}
            found = choice.find(route.path_format.format_map(texts))
            assert found is not None and found[0].path == route.path, (method, route.path, found and found[0].path)


@pytest.mark.parametrize("path", ["/static/none.css", "/api/v1/nothing", "/api/v1/models/a/b/", "//"])
def test_what_has_no_route_of_its_own_is_left_to_fastapi(calm: World, path: str) -> None:
    routing = calm.app.router.middleware_stack
    assert isinstance(routing, Routing)
    assert routing.choices["GET"].find(path) is None
