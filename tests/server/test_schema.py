"""Requests made up from the API's own description: never a 5xx, never an undocumented answer."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.world import World, create_model, push_patch


@pytest.fixture
def world(world: World, tmp_path: Path) -> World:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "patch.safetensors")
    return world


@pytest.mark.slow
def test_no_made_up_request_breaks_the_server(world: World) -> None:
    import schemathesis  # a second of imports, for this test alone
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    asked = (
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    )
    headers = {"Authorization": f"Bearer {world.token('alice')}"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", world.app)
    seen = []
    for found in schema.get_all_operations():
        operation = found.ok()
        seen.append(operation.label)

        @given(case=operation.as_strategy())
        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
        def request(case: schemathesis.Case) -> None:
            if "name" in (case.path_parameters or {}) and len(str(case.path_parameters["name"])) % 2:
                case.path_parameters.update(namespace="alice", name="tiny")  # often, something that is there
            case.call_and_validate(headers=headers, checks=asked)

        request()
    assert len(seen) >= 18
