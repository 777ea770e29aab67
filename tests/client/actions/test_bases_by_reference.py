import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Client
from client.actions.downloads import Wanted, download
from client.actions.models import create
from client.api.http import Connection
from registry import errors
from tests.support.hub_files import HubFiles
from tests.support.makers import make_checkpoint
from tests.support.processes import Person, open_registry, person
from tests.support.scripted import serving

REPOSITORY = "acme/tiny"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubFiles]:
    with HubFiles() as made:
        made.add(REPOSITORY, make_checkpoint(tmp_path_factory.mktemp("hub") / "base"))
        yield made


@pytest.fixture(scope="module")
def alice(hub: HubFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    folder = tmp_path_factory.mktemp("registry")
    with open_registry(folder, hub_endpoint=hub.url, hub_hosts="") as registry:
        registry.serve()
        yield person(registry, "alice")


def place(hub: HubFiles) -> tuple[str, bytes]:
    """Return where the weights are at a Hub, and what they are."""
    commit = hub.commits[REPOSITORY, "main"]
    return (
        f"/{REPOSITORY}/resolve/{commit}/model.safetensors",
        (hub.folders[REPOSITORY, commit] / "model.safetensors").read_bytes(),
    )


def test_a_model_is_created_from_a_hub_and_nothing_is_sent_from_here(alice: Person, hub: HubFiles) -> None:
    source = f"hf://{REPOSITORY}@{hub.commits[REPOSITORY, 'main']}"
    made = alice.json("model", "create", "alice/tiny", "--base", f"hf://{REPOSITORY}")
    assert (made["state"], made["source"], made["by_reference"]) == ("ready", source, True)
    shown = alice.crumb("model", "show", "alice/tiny")
    assert source in shown
    assert "stay there" in shown
    assert alice.json("model", "create", "alice/tiny", "--base", source)["base"] == made["base"]
    copied = alice.json("model", "create", "alice/copied", "--base", source, "--copy", "--private")
    assert (copied["base"], copied["by_reference"], copied["visibility"]) == (made["base"], False, "private")
    assert "copied" in alice.crumb("model", "show", "alice/copied")


def test_what_cannot_be_asked_for_is_said_in_words(
    alice: Person, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_checkpoint(tmp_path / "base")
    card = base / "README.md"
    for words in (
        ("--base", "hf://acme/nothing"),
        ("--base", "hf://acme"),
        ("--base", f"hf://{REPOSITORY}", "--card", card),
        ("--base", base, "--copy"),
    ):
        alice.crumb("model", "create", "alice/other", *map(str, words), code=1)
    with (
        Client(alice.registry.url, alice.token) as client,
        pytest.raises(errors.InvalidRequest, match=r"source: write a base at a Hub like hf://org/name or hf://"),
    ):
        create(client, "alice/other", "hf://acme")
    alice.crumb("model", "show", "alice/other", code=1)


def test_a_download_that_is_redirected_goes_on_where_it_was_and_keeps_the_token(
    hub: HubFiles, tmp_path: Path, no_pauses: list[float]
) -> None:
    (path, data), target = place(hub), tmp_path / "model.safetensors"
    wanted = Wanted(path, target, hashlib.sha256(data).hexdigest(), len(data))
    with serving(lambda request: request.answer(302, Location=hub.url + request.path)) as registry:
        connection = Connection(registry.url, "hf_secret")
        hub.asked, hub.cuts = [], [1500]
        download(connection, wanted)
        connection.close()
        assert {request.headers["authorization"] for request in registry.seen} == {"Bearer hf_secret"}
    assert target.read_bytes() == data
    assert [asked.start for asked in hub.asked] == [None, 1500]
    assert {asked.token for asked in hub.asked} == {None}
    assert not any("if-range" in asked.headers for asked in hub.asked)  # the Hub has another ETag, and would start over


def test_what_comes_from_elsewhere_is_verified_and_its_faults_are_not_the_registrys(
    hub: HubFiles, tmp_path: Path, no_pauses: list[float]
) -> None:
    (path, data), target = place(hub), tmp_path / "model.safetensors"
    other = Wanted(path, target, hashlib.sha256(b"other").hexdigest(), len(data))
    gone = Wanted(f"{path}.gone", target, other.sha256, len(data))
    with serving(lambda request: request.answer(302, Location=hub.url + request.path)) as registry:
        connection = Connection(registry.url)
        with pytest.raises(errors.DigestMismatch):
            download(connection, other)
        said = (
            r"127\.0\.0\.1, to which the registry at .* redirects, answered GET .* Tell .* that the file is gone there"
        )
        with pytest.raises(errors.NotFound, match=said):
            download(connection, gone)
        connection.close()
    assert not target.exists()


def test_redirects_in_a_circle_end(tmp_path: Path) -> None:
    with serving(lambda request: request.answer(302, Location=request.path)) as registry:
        connection = Connection(registry.url)
        with pytest.raises(errors.Unavailable, match="in a circle"):
            download(connection, Wanted("/file", tmp_path / "x", "0" * 64, 5))
        connection.close()
        assert len(registry.seen) == 6


def test_a_hub_without_an_address_is_said_at_once(tmp_path: Path) -> None:
    with open_registry(tmp_path, hub_endpoint="https://hub.invalid", hub_hosts="") as registry:
        registry.serve()
        with (
            Client(registry.url, person(registry, "alice").token) as client,
            pytest.raises(errors.JobFailed, match=r"The Hub at https://hub.invalid cannot be found"),
        ):
            create(client, "alice/far", "hf://acme/tiny@main")
