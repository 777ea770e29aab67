"""What a registry does not do for the Hub's clients: they are told what to do instead, and nothing changes."""

from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import BadRequestError, RepositoryNotFoundError

from tests.server.hub.conftest import ClientOf
from tests.support.community import NAME, Community

REFUSED: tuple[tuple[Callable[[HfApi], Any], str], ...] = (
    (lambda api: api.create_tag(NAME, tag="v1"), f"`crumb release cut {NAME} VERSION N...`"),
    (lambda api: api.create_tag(NAME, tag="v1", exist_ok=True), "A tag here is a release"),
    (lambda api: api.delete_tag(NAME, tag="1.0.0"), "`crumb release yank`"),
    (lambda api: api.create_branch(NAME, branch="nightly/x"), f"`crumb channel move {NAME} CHANNEL VERSION`"),
    (lambda api: api.delete_branch(NAME, branch="stable"), "A branch here is a channel"),
    (lambda api: api.update_repo_settings(NAME, private=True), f"`crumb model set {NAME}`"),
    (lambda api: api.super_squash_history(NAME), "stay as they were published"),
    (lambda api: list(api.list_lfs_files(NAME)), "belong to patches and releases"),
    (lambda api: api.delete_repo(NAME), "--private` hides it"),
    (lambda api: api.move_repo(NAME, "alice/other"), "neither deleted nor renamed"),
    (lambda api: api.unlike(NAME), "crumb --help"),
)


@pytest.mark.parametrize(("call", "told"), REFUSED, ids=[told for _, told in REFUSED])
def test_what_a_registry_does_not_do_is_said_with_what_to_do(
    sqlite_crew: Community, client_of: ClientOf, call: Callable[[HfApi], Any], told: str
) -> None:
    before = sqlite_crew.count_events()
    for user in ("alice", "carol"):
        with pytest.raises(BadRequestError) as refused:
            call(client_of(sqlite_crew, user))
        assert told in str(refused.value)
    assert sqlite_crew.count_events() == before


def test_a_model_that_nobody_may_see_is_not_spoken_of(sqlite_crew: Community, client_of: ClientOf) -> None:
    sqlite_crew.rules(visibility="private")
    api = client_of(sqlite_crew, "carol")
    for call in (
        lambda: api.create_tag(NAME, tag="v1"),
        lambda: api.create_branch(NAME, branch="x"),
        lambda: api.unlike(NAME),
    ):
        with pytest.raises(RepositoryNotFoundError, match="There is no model"):
            call()


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_there_are_models_alone(sqlite_crew: Community, client_of: ClientOf, kind: str) -> None:
    api = client_of(sqlite_crew, "alice")
    assert not api.repo_exists(NAME, repo_type=kind)
    for call in (
        lambda: api.repo_info(NAME, repo_type=kind),
        lambda: api.create_branch(NAME, branch="x", repo_type=kind),
        lambda: list(api.get_repo_discussions(NAME, repo_type=kind)),
        lambda: api.hf_hub_download(NAME, "data.csv", repo_type=kind),
    ):
        with pytest.raises(RepositoryNotFoundError) as missing:
            call()
        error = missing.value if f"no {kind}s" in str(missing.value) else missing.value.__cause__
        assert f"This registry holds models alone, and no {kind}s" in str(error)


def test_a_route_that_a_registry_has_is_not_refused(lived: Community) -> None:
    """The routes that take any path come last."""
    client = lived.world.client("carol")
    assert client.get(f"/api/models/{NAME}/tree/main").status_code == 200
    asked = client.post(f"/api/models/{NAME}/paths-info/main", json={"paths": ["config.json"]})
    assert [found["path"] for found in asked.json()] == ["config.json"]
    assert client.get(f"/{NAME}/resolve/main/info/refs").headers["x-error-code"] == "EntryNotFound"


def test_transformers_sends_no_token_to_a_service_that_converts_models(
    sqlite_crew: Community, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = pytest.importorskip("transformers.safetensors_conversion")
    sent: list[Any] = []
    monkeypatch.setattr(conversion, "spawn_conversion", lambda *given: sent.append(given))
    api = client_of(sqlite_crew, "carol")
    monkeypatch.setattr(conversion, "get_repo_discussions", api.get_repo_discussions)
    assert api.list_repo_commits(NAME), "people may ask"
    api.headers = {"user-agent": conversion.http_user_agent()}
    with pytest.raises(BadRequestError, match="would now send your token to a service"):
        conversion.get_conversion_pr_reference(api, NAME, token=api.token)
    assert not sent
