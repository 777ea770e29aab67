"""Debug lines, errors and retries of single calls."""

import re
import socket
import time

import pytest

from client import Client
from client.api.http import Connection
from registry import errors
from tests.support.scripted import Request, serving

ME = {"user": "ana", "admin": False, "scopes": ["push"], "token": "hf_abc", "expires_at": None}


@pytest.mark.parametrize("slug", sorted(errors.by_slug()))
def test_every_error_is_raised_again_by_its_own_class(slug: str) -> None:
    with (
        serving(lambda request: request.problem(400, slug, "A whole sentence.")) as there,
        Client(there.url) as client,
        pytest.raises(errors.BreadcrumbError) as caught,
    ):
        client.whoami()
    assert type(caught.value) is errors.by_slug()[slug]
    assert str(caught.value) == "A whole sentence."


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (401, errors.Unauthenticated),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.WrongState),
        (413, errors.TooLarge),
        (416, errors.RangeNotSatisfiable),
        (418, errors.InvalidRequest),
        (422, errors.InvalidRequest),
        (500, errors.Unavailable),
        (507, errors.StorageFull),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>a proxy", b'{"type": 3, "detail": []}', b"[1]", b"[" * 50000])
def test_an_unknown_problem_is_raised_by_its_status(status: int, cls: type[Exception], body: bytes) -> None:
    with (
        serving(lambda request: request.answer(status, body)) as there,
        Client(there.url) as client,
        pytest.raises(cls, match=str(status)),
    ):
        client.whoami()


def test_a_proxy_that_refuses_a_part_is_told_of() -> None:
    page = b"<html><title>413 Request Entity Too Large</title></html>"
    with (
        serving(lambda request: request.answer(413, page)) as there,
        Client(there.url) as client,
        pytest.raises(errors.TooLarge, match=r"client_max_body_size 0.*REGISTRY_PART_BYTES"),
    ):
        client.whoami()


def test_a_busy_registry_is_asked_again_after_the_time_it_names(no_pauses: list[float]) -> None:
    def answer(request: Request) -> None:
        if len(there.seen) < 3:
            request.problem(429, "too-many", "Come back later.", Retry_After="7")
        else:
            request.answer(200, ME)

    with serving(answer) as there, Client(there.url) as client:
        assert client.whoami().user == "ana"
    assert no_pauses == [7, 7]


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateway_error_is_tried_again_with_growing_pauses(status: int, no_pauses: list[float]) -> None:
    with (
        serving(lambda request: request.answer(status, b"")) as there,
        Client(there.url) as client,
        pytest.raises(errors.Unavailable),
    ):
        client.whoami()
    assert len(there.seen) == 8
    assert no_pauses == sorted(no_pauses)


def test_a_registry_that_says_come_back_tomorrow_is_not_waited_for(no_pauses: list[float]) -> None:
    with (
        serving(lambda r: r.problem(429, "too-many", "Enough.", Retry_After="86400")) as there,
        Client(there.url) as client,
        pytest.raises(errors.TooMany, match="Enough"),
    ):
        client.whoami()
    assert no_pauses == []


def test_a_broken_connection_is_tried_again(no_pauses: list[float]) -> None:
    with (
        serving(lambda r: r.hang_up() if len(there.seen) < 3 else r.answer(200, ME)) as there,
        Client(there.url) as client,
    ):
        assert client.whoami().user == "ana"
    assert len(there.seen) == 3


def test_nobody_there_is_told_soon_and_names_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()
    with Client(url) as client, pytest.raises(errors.Unavailable, match=url):
        client.whoami()
    assert time.monotonic() - start < 2


def test_the_token_does_not_follow_a_redirect_to_another_host() -> None:
    with (
        serving(lambda request: request.answer(200, ME)) as other,
        serving(lambda request: request.answer(307, b"", Location=f"{other.url}/elsewhere")) as there,
        Client(there.url, "hf_secret") as client,
    ):
        client.whoami()
    assert there.seen[0].headers["authorization"] == "Bearer hf_secret"
    assert "authorization" not in other.seen[0].headers


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gopher://x/"])
def test_a_redirect_to_no_http_address_is_named_as_one(target: str) -> None:
    with (
        serving(lambda request: request.answer(302, b"", Location=target)) as there,
        Client(there.url) as client,
        pytest.raises(errors.Unavailable, match=f"at {there.url} redirects to a {target.partition(':')[0]}: address"),
    ):
        client.whoami()


def test_what_is_sent_is_never_redirected() -> None:
    with (
        serving(lambda request: request.answer(200, ME)) as other,
        serving(lambda request: request.answer(307, b"", Location=f"{other.url}/x?key=secret")) as there,
        Client(there.url, "hf_secret") as client,
        pytest.raises(errors.Unavailable, match=f"elsewhere.* {other.url}$"),
    ):
        client.announce_upload("0" * 64, 1)
    assert other.seen == []


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.api.http.ANSWER_BYTES", 1000)
    with (
        serving(lambda request: request.answer(200, b" " * 1001)) as there,
        Client(there.url) as client,
        pytest.raises(errors.TooLarge),
    ):
        client.whoami()


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"user": 3}'])
def test_what_is_no_registry_is_told_apart(body: bytes) -> None:
    with (
        serving(lambda request: request.answer(200, body)) as there,
        Client(there.url) as client,
        pytest.raises(errors.Unavailable, match="not one that this crumb understands"),
    ):
        client.whoami()


def test_words_of_a_server_carry_no_control_characters() -> None:
    with (
        serving(lambda r: r.problem(404, "not-found", "Gone\x1b[2J\r\n\u202eback.")) as there,
        Client(there.url) as client,
        pytest.raises(errors.NotFound) as caught,
    ):
        client.whoami()
    assert str(caught.value) == "Gone [2J back."


def test_requests_name_the_client() -> None:
    with serving(lambda request: request.answer(200, ME)) as there, Client(there.url) as client:
        client.whoami()
    assert there.seen[0].headers["user-agent"].startswith("crumb/0.")


@pytest.mark.parametrize(
    "url", ["", "example.org", "ftp://example.org", "http://", "http://ana:pw@example.org", "http://h?x=1"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        Connection(url)


def test_a_token_with_a_line_break_is_refused_and_not_repeated() -> None:
    with pytest.raises(errors.Unauthenticated) as caught:
        Connection("http://localhost", "hf_a\r\nX-Other: 1")
    assert "hf_a" not in str(caught.value)


@pytest.mark.parametrize("name", ["llm", "ana/../bob", "Ana/llm", "ana/llm/x", "ana/", "ana/llm?x", ""])
def test_a_model_name_that_cannot_be_is_not_asked_for(name: str) -> None:
    with (
        serving(lambda request: request.answer(200, ME)) as there,
        Client(there.url) as client,
        pytest.raises(errors.InvalidRequest),
    ):
        client.model(name)
    assert there.seen == []


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "client.api.http"]


def test_each_call_has_a_debug_line_without_token_or_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "client")
    page = {"items": [], "next": None}
    with serving(lambda request: request.answer(200, page)) as there, Client(there.url, "hf_secret") as client:
        list(client.models(search="very private words"))
    (line,) = lines_of(caplog)
    assert re.fullmatch(r"GET /api/v1/models: 200 in \d+\.\d{3} s \(attempt 1\)", line)
    path, _, query = there.seen[0].path.partition("?")
    assert path == "/api/v1/models" and "search=very" in query


def test_each_retry_has_a_debug_line_with_its_reason_and_wait(
    caplog: pytest.LogCaptureFixture, no_pauses: list[float]
) -> None:
    caplog.set_level("DEBUG", "client")

    def answer(request: Request) -> None:
        if len(there.seen) == 1:
            request.problem(429, "too-many", "Come back later.", Retry_After="7")
        elif len(there.seen) == 2:
            request.hang_up()
        else:
            request.answer(200, ME)

    with serving(answer) as there, Client(there.url, "hf_secret") as client:
        client.whoami()
    called, waited, broken, again, last = lines_of(caplog)
    assert re.fullmatch(r"GET /api/v1/whoami: 429 in \S+ s \(attempt 1\)", called)
    assert waited == "attempt 1 of 8 failed: status 429; waiting 7.00 s"
    assert re.fullmatch(r"GET /api/v1/whoami broke off after \S+ s \(\w+, attempt 2\)", broken)
    assert re.fullmatch(r"attempt 2 of 8 failed: \w+; waiting 0\.\d\d s", again)
    assert re.fullmatch(r"GET /api/v1/whoami: 200 in \S+ s \(attempt 3\)", last)
    assert no_pauses[0] == 7


def test_a_signed_address_is_logged_by_its_host_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "client")
    signed = "/bucket/blob?X-Amz-Signature=secret"
    with (
        serving(lambda request: request.answer(200, ME)) as bucket,
        serving(lambda request: request.answer(307, b"", Location=bucket.url + signed)) as there,
        Client(there.url, "hf_secret") as client,
    ):
        client.whoami()
    assert bucket.seen[0].path == signed
    (line,) = lines_of(caplog)
    assert re.fullmatch(r"GET /api/v1/whoami: 200 from 127\.0\.0\.1 in \S+ s \(attempt 1\)", line)


def test_a_name_cannot_write_lines_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "client")
    with (
        serving(lambda request: request.answer(404, b"")) as there,
        Client(there.url) as client,
        pytest.raises(errors.NotFound),
    ):
        client.job("x\nforged \x1b[2J")
    (line,) = lines_of(caplog)
    assert line.startswith("GET /api/v1/jobs/x%0Aforged%20%1B%5B2J: 404")


def test_a_client_shows_its_address_and_never_its_token() -> None:
    with Client("http://localhost", "hf_secret") as client:
        assert repr(client) == "Client('http://localhost')"
