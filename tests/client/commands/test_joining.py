"""Joining, sessions and trusted publishing at the command line, against a real server."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.api.client import Client
from client.commands.people import account
from tests.support.oidc import Provider, open_provider
from tests.support.processes import Registry, open_registry
from tests.support.visitors import Crumb, Files


@pytest.fixture(scope="module")
def service() -> Iterator[Provider]:
    """A build service that signs identity tokens."""
    with open_provider() as made:
        yield made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, service: Provider) -> Iterator[Registry]:
    """A registry that anybody may ask to join, with an admin."""
    folder = tmp_path_factory.mktemp("joining")
    with open_registry(folder, registration="open", private_issuers=service.url, part_bytes=1024) as registry:
        registry.serve()
        yield registry


def as_chief(place: Registry) -> dict[str, str]:
    return {"CRUMB_URL": place.url, "CRUMB_TOKEN": place.token("chief", "--admin")}


def test_an_invitation_is_made_listed_and_used_by_commands(place: Registry, crumb: Crumb) -> None:
    chief = as_chief(place)
    link = crumb("admin", "user", "invite", "--label", "Ada", **chief).strip()
    assert "Ada" in crumb("admin", "user", "invitations", **chief)
    assert "not the link" in crumb("join", place.url, code=1) + crumb.errors
    assert "--name" in crumb("join", link, code=1) + crumb.errors
    assert "as ada" in crumb("join", link, "--name", "ada", "--display-name", "Ada L.")
    assert crumb.json("whoami")["user"] == "ada"
    assert crumb.json("profile")["display_name"] == "Ada L."
    assert crumb.json("profile", "--display-name", "Ada")["display_name"] == "Ada"
    assert "used" in crumb("join", link, "--name", "eve", code=1) + crumb.errors
    crumb("org", "create", "crew")
    role = crumb("admin", "user", "invite", "--org", "crew", "--role", "reviewer").strip()
    mine = crumb.json("admin", "user", "invitations", "--org", "crew")
    assert [row["role"] for row in mine] == ["reviewer"]
    place_of_bob = {"CRUMB_URL": place.url, "CRUMB_TOKEN": place.token("bob")}
    assert "reviewer of crew" in crumb("join", role, **place_of_bob)
    again = crumb.json("admin", "user", "invite", "--org", "crew")
    crumb("admin", "user", "revoke", again["id"], "--org", "crew")
    assert crumb.json("admin", "user", "invitations", "--org", "crew") == []


def test_admins_make_accounts_and_decide_about_requests(place: Registry, crumb: Crumb) -> None:
    chief = as_chief(place)
    token = crumb("admin", "user", "create", "erin", "-q", **chief).strip()
    assert crumb.json("whoami", CRUMB_URL=place.url, CRUMB_TOKEN=token)["user"] == "erin"
    crumb("admin", "user", "disable", "erin", **chief)
    assert "disabled" in crumb("admin", "user", "list", "--search", "erin", **chief)
    crumb("whoami", code=1, CRUMB_URL=place.url, CRUMB_TOKEN=token)
    crumb("admin", "user", "enable", "erin", **chief)
    with Client(place.url) as client:
        asked = client.ask_to_join("dora", "Please.")
    (waiting,) = crumb.json("admin", "user", "requests", **chief)
    assert (waiting["asked_name"], waiting["message"]) == ("dora", "Please.")
    crumb("admin", "user", "approve", waiting["id"], **chief)
    assert "as dora" in crumb("join", asked.url, "--name", "dora")
    with Client(place.url) as client:
        client.ask_to_join("spam", "")
    crumb("admin", "user", "refuse", code=2, **chief)
    assert crumb("admin", "user", "refuse", "--all", "-q", **chief) == "1\n"
    assert crumb.json("admin", "user", "refuse", "--all", **chief) == {"refused": 0}


def test_a_login_by_a_browser_waits_until_somebody_lets_it_in(
    place: Registry, crumb: Crumb, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, printed = list[str](), threading.Event()

    def note(words: str, **_: object) -> None:
        code.append(words.rpartition("code ")[2].split()[0])
        printed.set()

    def let_in() -> None:
        assert printed.wait(30)
        with Client(place.url, place.token("bob")) as client:
            assert client.decide_on_device(code[0], True).label.startswith("crumb on ")

    monkeypatch.setattr(account.typer, "echo", note)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.05)))
    somebody = threading.Thread(target=let_in)
    somebody.start()
    assert "as bob" in crumb("login", place.url, "--browser")
    somebody.join()
    assert crumb.json("whoami")["user"] == "bob"
    assert crumb.json("session", "list") == {"sessions": [], "accounts": []}
    crumb("session", "end", "00000000-0000-0000-0000-000000000000", code=1)


def test_push_in_a_job_needs_no_token(place: Registry, crumb: Crumb, files: Files, service: Provider) -> None:
    owner = {"CRUMB_URL": place.url, "CRUMB_TOKEN": place.token("ana")}
    crumb("model", "create", "ana/ci", "--base", files.base, **owner)
    words = ("--issuer", service.url, "--claim", "sub=job:train")
    made = crumb.json("publisher", "add", "ana/ci", "ana-ci", *words, **owner)
    assert "sub=job:train" in crumb("publisher", "list", "ana/ci", **owner)
    job = {"CRUMB_URL": place.url, "CRUMB_ID_TOKEN": service.identity(place.url, sub="job:train")}
    pushed = json.loads(crumb("push", files.patches[0], "ana/ci", "-m", "By CI", "--json", **job))
    assert (pushed["author"], pushed["origin"]["claims"]) == ("ana-ci", {"sub": "job:train"})
    crumb("push", files.patches[1], "ana/ci", "-m", "By CI", code=1, **job)
    assert "used before" in crumb.errors
    wrong = {**job, "CRUMB_ID_TOKEN": service.identity(place.url, sub="job:other")}
    crumb("push", files.patches[1], "ana/ci", "-m", "By CI", code=1, **wrong)
    assert "sub='job:other'" in crumb.errors
    crumb("publisher", "remove", "ana/ci", made["id"], **owner)
    assert "No workflow" in crumb("publisher", "list", "ana/ci", **owner)
    assert Path(files.patches[0]).exists()
