"""CI: where `crumb push` finds the identity of the job that it runs in."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

import pytest

from client.machine.ci import MOST_READ, identity_token
from registry.errors import Unavailable
from tests.support.servers import serving

AUDIENCE = "https://crumbs.example.org"


class GitHub(BaseHTTPRequestHandler):
    """What gives identity tokens to GitHub's jobs; the token says what it was asked with."""

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(where.query).items()}
        body = json.dumps({"value": f"{asked['audience']} {asked['api-version']}"}).encode()
        if where.path == "/large":
            body = b" " * (MOST_READ + 1) + body
        self.send_response(200 if self.headers["Authorization"] == "Bearer of the job" else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serving(GitHub) as url:
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{url}/token?api-version=2")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of the job")
        yield url


def test_a_job_at_github_is_given_a_token_for_the_registry(github: str) -> None:
    assert identity_token(AUDIENCE) == f"{AUDIENCE} 2"


def test_a_token_that_is_there_is_taken_and_without_any_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity_token(AUDIENCE) is None
    monkeypatch.setenv("CRUMB_ID_TOKEN", " a.b.c ")
    assert identity_token(AUDIENCE) == "a.b.c"


@pytest.mark.parametrize("wrong", [("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "another"), ("path", "/large")])
def test_what_github_does_not_give_is_told(
    github: str, wrong: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, value = wrong
    if name == "path":
        name, value = "ACTIONS_ID_TOKEN_REQUEST_URL", f"{github}{value}?api-version=2"
    monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match="identity token"):
        identity_token(AUDIENCE)
