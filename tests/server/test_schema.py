"""Requests made up from the API's own description: never a 5xx, never an undocumented answer."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, given, settings

from registry.server.api import feed
from tests.support.databases import Databases
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.world import World, create_model, open_world, push_patch


@pytest.fixture
def worlds(tmp_path: Path, migrated_template: Callable[[str], str], databases: Databases) -> Iterator[dict[str, World]]:
    """A registry on SQLite and another one on PostgreSQL, each with a model and a patch."""
    base = make_checkpoint(tmp_path / "base")
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    sqlite = tmp_path / "registry.db"
    shutil.copyfile(str(sqlalchemy.make_url(migrated_template("sqlite")).database), sqlite)
    with ExitStack() as stack:
        postgres = stack.enter_context(databases.lent(migrated_template("postgresql")))
        worlds = {
            name: stack.enter_context(open_world(tmp_path / name, url))
            for name, url in (("sqlite", f"sqlite:///{sqlite}"), ("postgresql", postgres))
        }
        for world in worlds.values():
            create_model(world, "alice/tiny", base)
            push_patch(world, "alice/tiny", tmp_path / "patch.safetensors")
        yield worlds


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_made_up_request_breaks_the_server(worlds: dict[str, World], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is made up once, and sent to both registries: making it up takes most of the time."""
    awaiting = feed.await_change  # for a tenth of a second at most, since nothing changes
    monkeypatch.setattr(feed, "await_change", lambda *ask: awaiting(*ask[:-1], min(ask[-1], 0.1)))
    import schemathesis  # a second of imports, for this test alone
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    asked = (
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    )
    schema = schemathesis.openapi.from_asgi("/openapi.json", worlds["sqlite"].app)
    senders = [(world.app, {"Authorization": f"Bearer {world.token('alice')}"}) for world in worlds.values()]
    seen = []
    for found in schema.get_all_operations():
        operation = found.ok()
        seen.append(operation.label)

        @given(case=operation.as_strategy())
        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
        def request(case: schemathesis.Case) -> None:
            if "name" in (case.path_parameters or {}) and len(str(case.path_parameters["name"])) % 2:
                case.path_parameters.update(namespace="alice", name="tiny")  # often, something that is there
            for app, headers in senders:
                case.call_and_validate(headers=headers, checks=asked, app=app)

        request()
    assert len(seen) >= 18
