"""The OpenID provider by which people sign in: the authorization code flow with PKCE.

    browser ── start ──> provider ── code ──> our callback ── finish: code and verifier ──> identity token, checked

State, nonce and verifier are derived from one secret that only the browser holds, so nothing has to be kept here. No
two flows have the same secret.
"""

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc.errors import JoseError

from registry.errors import Unauthenticated, Unavailable
from registry.outside.egress import Egress
from registry.outside.issuers import LEEWAY, Issuers, address, reason
from registry.outside.person import Person

ANSWER_BYTES = 128 * 2**10
FRESH_SECONDS = 600  # within which an identity token was issued
MOST_GROUPS, GROUP_LENGTH = 1000, 200
NAMES = ("preferred_username", "nickname", "name", "email")


@dataclass(frozen=True)
class Access:
    """How to reach a provider.

    Args:
        issuer: Its address.
        client_id: What it calls this registry.
        client_secret: The secret that it gave; empty for a public client.
        scopes: What is asked for, separated by blanks.
        groups_claim: The claim with the groups of a person.
    """

    issuer: str
    client_id: str
    client_secret: str
    scopes: str
    groups_claim: str


class Through(httpx2.BaseTransport):
    """A transport of an HTTP client by which it can only go where `Egress` goes, and read so much."""

    def __init__(self, egress: Egress) -> None:
        self.egress = egress

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and return its whole answer."""
        own = ("host", "connection", "accept-encoding", "content-length")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in own}
        status, raw = self.egress.fetch(request.method, str(request.url), request.read(), headers, ANSWER_BYTES)
        return httpx2.Response(status, content=raw, request=request)


class Provider:
    """A provider, and this registry as its client.

    Args:
        issuers: Knows its addresses and keys.
        access: How to reach it.
    """

    def __init__(self, issuers: Issuers, access: Access) -> None:
        self.issuers, self.access = issuers, access

    def start(self, secret: str, redirect_uri: str) -> str:
        """Return the address to which a browser with a secret goes to sign in.

        Raises:
            InvalidRequest, Unavailable: As for `Issuers.find`.
        """
        document = self.issuers.find(self.access.issuer).document
        with self.client(document, redirect_uri) as client:
            url, _ = client.create_authorization_url(
                address(document, "authorization_endpoint"),
                state=self.state(secret),
                nonce=derive(secret, "nonce"),
                code_verifier=derive(secret, "verifier"),
            )
        return str(url)

    @staticmethod
    def state(secret: str) -> str:
        """Return what the provider has to send a browser with a secret back with."""
        return derive(secret, "state")

    def finish(self, secret: str, redirect_uri: str, code: str) -> Person:
        """Return who signed in, given the code that the provider sent a browser back with.

        Raises:
            Unauthenticated: The code or the identity token is refused; the message says why.
            InvalidRequest, Unavailable: The provider cannot be reached, or does not answer as one.
        """
        document = self.issuers.find(self.access.issuer).document
        given = self.exchange(document, secret, redirect_uri, code)
        id_token, access_token = given.get("id_token"), given.get("access_token")
        if not isinstance(id_token, str):
            raise Unauthenticated(f"{self.access.issuer} sent no identity token; ask for the scope `openid`.")
        claims = self.check(id_token, access_token, derive(secret, "nonce"))
        if self.access.groups_claim not in claims and isinstance(access_token, str):
            claims = {**self.more(document, access_token, str(claims["sub"])), **claims}
        return person(claims, self.access)

    def exchange(self, document: Mapping[str, Any], secret: str, redirect_uri: str, code: str) -> Mapping[str, Any]:
        """Return what the provider gives for a code.

        Raises:
            Unauthenticated: It refuses the code.
            Unavailable: It cannot be reached.
        """
        try:
            with self.client(document, redirect_uri) as client:
                given: Mapping[str, Any] = client.fetch_token(
                    address(document, "token_endpoint"),
                    code=code,
                    grant_type="authorization_code",
                    code_verifier=derive(secret, "verifier"),
                )
        except OAuthError as why:
            raise Unauthenticated(f"{self.access.issuer} refuses the sign-in: {reason(why)}.") from why
        except (httpx2.HTTPError, ValueError, RecursionError) as why:
            raise Unavailable(f"{self.access.issuer} does not answer as a provider: {reason(why)}.") from why
        return given

    def check(self, id_token: str, access_token: Any, nonce: str) -> dict[str, Any]:
        """Return the claims of an identity token that was issued to this registry, just now, for this browser.

        Raises:
            Unauthenticated: It was not; the message says which check it fails.
        """
        claims, algorithm = self.issuers.verify(id_token, self.access.issuer, self.access.client_id)
        params = {"nonce": nonce, "client_id": self.access.client_id, "access_token": access_token}
        try:
            CodeIDToken(claims, {"alg": algorithm}, params=params).validate(leeway=LEEWAY)
        except JoseError as why:
            raise Unauthenticated(f"The identity token is refused: {reason(why)}.") from why
        if claims["iat"] < time.time() - FRESH_SECONDS - LEEWAY:
            raise Unauthenticated("The identity token is refused: it was issued too long ago.")
        return claims

    def more(self, document: Mapping[str, Any], access_token: str, subject: str) -> dict[str, Any]:
        """Return what the provider says of a person beside their identity token, if it says anything.

        Raises:
            Unauthenticated: It is about somebody else.
            Unavailable: It cannot be reached.
        """
        if "userinfo_endpoint" not in document:
            return {}
        headers = {"Authorization": f"Bearer {access_token}"}
        url = address(document, "userinfo_endpoint")
        found = self.issuers.fetch(self.access.issuer, url, ANSWER_BYTES, headers)
        if found.get("sub") != subject:
            raise Unauthenticated(f"{self.access.issuer} answers about somebody else than who signed in.")
        return found

    def client(self, document: Mapping[str, Any], redirect_uri: str) -> OAuth2Client:
        """Return Authlib's client, which goes out by `Egress` alone."""
        methods = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        return OAuth2Client(
            self.access.client_id,
            self.access.client_secret or None,
            token_endpoint_auth_method=method if self.access.client_secret else "none",
            scope=self.access.scopes,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            transport=Through(self.issuers.egress(self.access.issuer)),
            trust_env=False,
        )


def derive(secret: str, use: str) -> str:
    """Return a secret of a flow for one use, from which neither the flow's own nor that of another use follows."""
    return hmac.new(secret.encode(), use.encode(), sha256).hexdigest()


def person(claims: Mapping[str, Any], access: Access) -> Person:
    """Return the person whom claims are about.

    Raises:
        Unauthenticated: Their subject is not a text of 1 to 255 characters.
    """
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
        raise Unauthenticated("The identity token is refused: its subject is not a text of 1 to 255 characters.")
    names = [claims[name] for name in NAMES if isinstance(claims.get(name), str) and claims[name].strip()]
    shown = claims.get("name")
    return Person(
        issuer=access.issuer,
        subject=subject,
        name=names[0][:200] if names else subject,
        display_name=shown if isinstance(shown, str) else "",
        groups=groups(claims.get(access.groups_claim)),
    )


def groups(found: Any) -> frozenset[str]:
    """Return the groups of a claim: texts, or objects with a name, as organisations at the Hub are."""
    rows = found[:MOST_GROUPS] if isinstance(found, list) else []
    names = [row.get("preferred_username") or row.get("name") if isinstance(row, dict) else row for row in rows]
    return frozenset(name for name in names if isinstance(name, str) and 0 < len(name) <= GROUP_LENGTH)
