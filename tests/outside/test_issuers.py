"""Identity tokens: every claim and the signature are checked, and an issuer cannot make the server do what it likes."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey

from registry.errors import BreadcrumbError, InvalidRequest, Unauthenticated, Unavailable
from registry.outside import issuers
from registry.outside.issuers import Issuers, peek
from tests.support.oidc import Provider, open_provider

AUDIENCE = "https://crumbs.example.org"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with open_provider() as made:
        yield made


@pytest.fixture
def known(provider: Provider) -> Issuers:
    return Issuers([provider.url])


def test_a_sound_token_says_what_it_says(provider: Provider, known: Issuers) -> None:
    claims, algorithm = known.verify(provider.identity(AUDIENCE, sub="job", repository="a/b"), provider.url, AUDIENCE)
    assert (claims["repository"], algorithm) == ("a/b", "RS256")


def test_elliptic_curves_sign_as_well(provider: Provider, known: Issuers) -> None:
    provider.keys, provider.algorithm = [ECKey.generate_key("P-256", {"kid": "e"})], "ES256"
    assert known.verify(provider.identity(AUDIENCE, sub="job"), provider.url, AUDIENCE)[1] == "ES256"


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"aud": "https://other.example.org"}, "aud"),
        ({"aud": None}, "aud"),
        ({"aud": 1}, "aud"),
        ({"iss": "https://evil.example.org"}, "iss"),
        ({"iss": None}, "signed jwt"),
        ({"sub": None}, "sub"),
        ({"exp": int(time.time()) - 3600}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": "tomorrow"}, "exp"),
        ({"exp": float("nan")}, "exp"),
        ({"iat": int(time.time()) + 3600}, "future"),
        ({"iat": None}, "iat"),
        ({"nbf": int(time.time()) + 3600}, "not yet"),
        ({"exp": int(time.time()) + 10 * 86400}, "more than a day"),
    ],
    ids=lambda part: part if isinstance(part, str) else "-".join(part),  # not the time, which differs by process
)
def test_a_token_with_a_wrong_claim_is_refused(
    provider: Provider, known: Issuers, claims: dict[str, Any], words: str
) -> None:
    token = provider.identity(AUDIENCE, **{"sub": "job", **claims})
    with pytest.raises(Unauthenticated) as error:
        known.verify(token, provider.url, AUDIENCE)
    assert words in str(error.value).lower()


def test_a_signature_of_anybody_else_is_refused(provider: Provider, known: Issuers) -> None:
    now = int(time.time())
    claims = {"iss": provider.url, "aud": AUDIENCE, "sub": "job", "iat": now, "exp": now + 60}
    other = RSAKey.generate_key(2048, {"kid": "first"})
    head, body, signature = provider.sign(claims).split(".")
    _, others, _ = provider.sign({**claims, "sub": "root"}).split(".")
    none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"
    secret = OctKey.import_key(json.dumps(provider.keys[0].as_dict(private=False)).encode(), {"kid": "first"})
    provider.algorithm = "HS256"
    confused = provider.sign(claims, secret)
    provider.algorithm = "RS256"
    for token in (provider.sign(claims, other), f"{head}.{others}.{signature}", f"{none}.{body}.", confused):
        with pytest.raises(Unauthenticated):
            known.verify(token, provider.url, AUDIENCE)
    known.verify(f"{head}.{body}.{signature}", provider.url, AUDIENCE)


def test_a_shared_secret_among_the_keys_is_never_used(provider: Provider, known: Issuers) -> None:
    provider.keys, provider.algorithm = [OctKey.generate_key(256, {"kid": "s"})], "HS256"
    with pytest.raises(Unavailable, match="no key"):
        known.verify(provider.identity(AUDIENCE, sub="job"), provider.url, AUDIENCE)


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.b.c", "é.é.é", "x" * 20_000, "e30.e30.e30", "eyJhbGciOiJSUzI1NiJ9.W10."]
)
def test_what_is_no_token_is_refused_before_anybody_is_asked(provider: Provider, known: Issuers, token: str) -> None:
    with pytest.raises(Unauthenticated):
        known.verify(token, provider.url, AUDIENCE)
    with pytest.raises(Unauthenticated):
        peek(token)
    assert provider.asked == []


def test_keys_are_asked_for_once_an_hour_and_again_when_a_key_is_new(provider: Provider) -> None:
    clock = [1000.0]
    known = Issuers([provider.url], clock=lambda: clock[0])

    def verify() -> None:
        known.verify(provider.identity(AUDIENCE, sub="job"), provider.url, AUDIENCE)

    verify()
    verify()
    assert provider.asked.count("/keys") == 1
    provider.keys.append(RSAKey.generate_key(2048, {"kid": "second"}))
    with pytest.raises(Unauthenticated):  # whoever makes up names of keys cannot have them fetched all the time
        verify()
    clock[0] += issuers.AGAIN_SECONDS
    verify()
    assert provider.asked.count("/keys") == 2
    clock[0] += issuers.KEPT_SECONDS
    verify()
    assert provider.asked.count("/keys") == 3


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/keys", (500, b"")),
        ("/keys", (200, b"[]")),
        ("/keys", (200, b"{")),
        ("/keys", (200, b"[" * 100_000)),
        ("/keys", (200, b" " * (issuers.KEYS_BYTES + 1))),
        ("/keys", (200, b'{"keys": []}')),
        ("/keys", (200, b'{"keys": [{"kty": "RSA", "n": 1}]}')),
        ("/.well-known/openid-configuration", (302, b"")),
        ("/.well-known/openid-configuration", (200, b'{"issuer": "https://another.example.org"}')),
        ("/.well-known/openid-configuration", (200, b" " * (issuers.DOCUMENT_BYTES + 1))),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_issuer_that_answers_nonsense_is_not_available(
    provider: Provider, known: Issuers, path: str, answer: tuple[int, bytes]
) -> None:
    provider.answers[path] = answer
    with pytest.raises(Unavailable):
        known.verify(provider.identity(AUDIENCE, sub="job"), provider.url, AUDIENCE)


def test_an_issuer_that_failed_is_left_alone_for_a_while_whoever_asks(provider: Provider) -> None:
    clock = [1000.0]
    known = Issuers([provider.url], clock=lambda: clock[0])
    provider.answers["/keys"] = (500, b"")

    def verify() -> None:
        known.verify(provider.identity(AUDIENCE, sub="job"), provider.url, AUDIENCE)

    for _ in range(3):
        with pytest.raises(Unavailable, match="answers 500"):
            verify()
    assert provider.asked.count("/keys") == 1
    del provider.answers["/keys"]
    clock[0] += issuers.FAILED_SECONDS
    verify()
    assert provider.asked.count("/keys") == 2
    provider.answers["/keys"] = (500, b"")
    provider.keys.append(RSAKey.generate_key(2048, {"kid": "second"}))
    clock[0] += issuers.AGAIN_SECONDS
    for _ in range(3):  # keys of unknown names bring no more calls, and take nothing from those that are known
        with pytest.raises(Unavailable):
            verify()
    provider.keys.pop()
    verify()
    assert provider.asked.count("/keys") == 3


def test_an_issuer_at_a_private_address_is_asked_only_if_the_operator_names_it(provider: Provider) -> None:
    for named in ([], ["https://127.0.0.1"], [f"{provider.url}/"]):
        with pytest.raises(InvalidRequest):
            Issuers(named).verify(provider.identity(AUDIENCE, sub="job"), provider.url, AUDIENCE)
    assert provider.asked == []


def test_a_document_cannot_send_the_server_anywhere_but_to_an_address_of_the_web() -> None:
    with open_provider() as outside:
        known = Issuers([outside.url])
        outside.answers["/.well-known/openid-configuration"] = (
            200,
            json.dumps({"issuer": outside.url, "jwks_uri": "file:///etc/passwd"}).encode(),
        )
        with pytest.raises(BreadcrumbError):
            known.find(outside.url)


def test_only_so_many_issuers_are_kept(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuers, "MOST_KEPT", 2)
    with open_provider() as second, open_provider() as third:
        known = Issuers([provider.url, second.url, third.url])
        for one in (provider, second, third):
            known.find(one.url)
        assert set(known.known) == {second.url, third.url}
