"""Issuers of identity tokens (OpenID Connect): their addresses and keys, kept for a while, and what a token says.

    issuer ── /.well-known/openid-configuration ──> document ── jwks_uri ──> keys ──> the signature of a token

One that failed is left alone for a while, so that strangers' tokens cannot make this server call it again and again. An
issuer is called only by `Egress`. One whose address is not public, or plain http, has to be named by the operator.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import extract_compact
from joserfc.jwt import JWTClaimsRegistry

from registry.errors import BreadcrumbError, InvalidRequest, Unauthenticated, Unavailable
from registry.outside.egress import Egress, check_url

ALGORITHMS = ("RS256", "ES256")
LEEWAY = 60  # seconds by which clocks may differ
LONGEST = 86400  # seconds that a token may be good for
KEPT_SECONDS = 3600.0
FAILED_SECONDS = 30.0  # for which an issuer that failed is left alone
AGAIN_SECONDS = 60.0  # after which keys are fetched again for a token whose key is unknown
DOCUMENT_BYTES, KEYS_BYTES = 64 * 2**10, 256 * 2**10
TOKEN_BYTES = 16 * 2**10
MOST_KEPT = 256  # issuers, and those that failed
MOST_KEYS = 100  # of an issuer
Row = TypeVar("Row")
WELL_KNOWN = "/.well-known/openid-configuration"


@dataclass(frozen=True)
class Known:
    """What is known of an issuer, and since when."""

    at: float
    document: Mapping[str, Any]
    keys: KeySet


class Issuers:
    """The issuers that this process knows.

    Args:
        private: Issuers that may be called at plain http and at addresses that are not public.
        open_egress: Makes the way out, given whether it may go to such addresses.
        clock: Returns the seconds by which what is kept grows old.
    """

    def __init__(
        self,
        private: Collection[str] = (),
        open_egress: Callable[[bool], Egress] = lambda private: Egress(private=private),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.private, self.open_egress, self.clock = frozenset(private), open_egress, clock
        self.known: dict[str, Known] = {}
        self.failed: dict[str, tuple[float, BreadcrumbError]] = {}
        self.lock = threading.Lock()

    def egress(self, issuer: str) -> Egress:
        """Return the way out to an issuer and to what its document names."""
        return self.open_egress(issuer in self.private)

    def check(self, issuer: str) -> None:
        """Refuse an issuer that may not be called, as far as its address alone shows that.

        Raises:
            InvalidRequest: It may not.
        """
        check_url(issuer, private=issuer in self.private)

    def find(self, issuer: str, *, newer_than: float | None = None) -> Known:
        """Return what is known of an issuer, fetched if that was too long ago.

        Args:
            issuer: Its address.
            newer_than: Fetch it again if it was fetched so many seconds ago or earlier.

        Raises:
            InvalidRequest: An address of it may not be called.
            Unavailable: It does not answer as an issuer does, or did not some seconds ago.
        """
        with self.lock:
            known, (failed_at, failure) = self.known.get(issuer), self.failed.get(issuer, (0.0, None))
        if known is not None and self.clock() - known.at < (KEPT_SECONDS if newer_than is None else newer_than):
            return known
        if failure is not None and self.clock() - failed_at < FAILED_SECONDS:
            raise type(failure)(failure.message, field=failure.field)
        try:
            known = self.ask(issuer)
        except (InvalidRequest, Unavailable) as why:
            with self.lock:
                keep(self.failed, issuer, (self.clock(), why), lambda row: row[0])
            raise
        with self.lock:
            self.failed.pop(issuer, None)
            keep(self.known, issuer, known, lambda row: row.at)
        return known

    def ask(self, issuer: str) -> Known:
        """Return what an issuer says of itself now.

        Raises:
            InvalidRequest: An address of it may not be called.
            Unavailable: It does not answer as an issuer does.
        """
        document = self.fetch(issuer, issuer.rstrip("/") + WELL_KNOWN, DOCUMENT_BYTES)
        if document.get("issuer") != issuer:
            raise Unavailable(f"{issuer} says that its name is another; write it as its document does.")
        return Known(self.clock(), document, self.fetch_keys(issuer, address(document, "jwks_uri")))

    def fetch(self, issuer: str, url: str, most: int, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return a JSON object that an issuer serves.

        Raises:
            InvalidRequest: The address may not be called.
            Unavailable: It does not answer with one.
        """
        accept = {"Accept": "application/json", **(headers or {})}
        status, raw = self.egress(issuer).fetch("GET", url, b"", accept, most)
        if status != 200:
            raise Unavailable(f"{issuer} answers {status} at {url[:200]}.")
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Unavailable(f"{issuer} answers something that is no JSON object at {url[:200]}.")
        return found

    def fetch_keys(self, issuer: str, url: str) -> KeySet:
        """Return the public keys of an issuer that can check a signature of ours.

        Raises:
            InvalidRequest: The address may not be called.
            Unavailable: It has none.
        """
        listed = self.fetch(issuer, url, KEYS_BYTES).get("keys")
        kinds = ("RSA", "EC")
        rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
        usable = [row for row in rows if row.get("kty") in kinds and row.get("use", "sig") == "sig"]
        try:
            return KeySet.import_key_set({"keys": [public(row) for row in usable[:MOST_KEYS]]})
        except (JoseError, ValueError, TypeError, KeyError) as why:
            raise Unavailable(f"{issuer} has no key that can be used: {type(why).__name__}.") from why

    def verify(self, token: str, issuer: str, audience: str, now: int | None = None) -> tuple[dict[str, Any], str]:
        """Return the claims of a token that an issuer signed for an audience, and its algorithm.

        Checked are algorithm, signature, issuer, audience, subject, and the times at which it was issued and ends.

        Raises:
            Unauthenticated: It is not such a token; the message says which check it fails.
            InvalidRequest, Unavailable: As for `find`.
        """
        header, _ = peek(token)
        known = self.find(issuer)
        if header.get("kid") not in {key.kid for key in known.keys}:
            known = self.find(issuer, newer_than=AGAIN_SECONDS)
        try:
            decoded = jwt.decode(token, known.keys, algorithms=ALGORITHMS)
            JWTClaimsRegistry(
                now=now if now is not None else int(time.time()),
                leeway=LEEWAY,
                iss={"essential": True, "value": issuer},
                aud={"essential": True, "value": audience},
                sub={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
            ).validate(decoded.claims)
        except (JoseError, ValueError, TypeError, RecursionError) as why:
            raise Unauthenticated(f"The identity token is refused: {reason(why)}.") from why
        claims: dict[str, Any] = decoded.claims
        if claims["exp"] - claims["iat"] > LONGEST:
            raise Unauthenticated("The identity token is refused: it is good for more than a day.")
        return claims, str(decoded.header["alg"])


def keep(rows: dict[str, Row], issuer: str, row: Row, age: Callable[[Row], float]) -> None:
    """Keep something of an issuer; of as many as are kept, the oldest goes."""
    if len(rows) >= MOST_KEPT and issuer not in rows:
        rows.pop(min(rows, key=lambda name: age(rows[name])))
    rows[issuer] = row


def peek(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the claims of a token that nothing has been checked of.

    Raises:
        Unauthenticated: It is not a signed token.
    """
    if len(token) > TOKEN_BYTES:
        raise Unauthenticated(f"An identity token has at most {TOKEN_BYTES} characters.")
    wrong = Unauthenticated("This is not an identity token: it should be a signed JWT.")
    try:
        parts = extract_compact(token.encode("ascii"))
        header, claims = parts.headers(), json.loads(parts.payload or b"")
    except (JoseError, ValueError, TypeError, AttributeError, RecursionError) as why:
        raise wrong from why
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise wrong
    if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid", ""), str):
        raise wrong
    if not isinstance(claims.get("iss"), str) or not re.fullmatch(r"[!-~]{1,500}", claims["iss"]):
        raise wrong
    return dict(header), claims


def reason(error: Exception) -> str:
    """Return what a library says of a token, as part of a sentence."""
    said = str(getattr(error, "description", "") or error)
    return said.partition("\n")[0][:200].rstrip(".") or type(error).__name__


def public(row: Mapping[str, Any]) -> Any:
    """Return the members of a key that are public and that we need."""
    return {name: row[name] for name in ("kty", "kid", "n", "e", "crv", "x", "y", "alg", "use") if name in row}


def address(document: Mapping[str, Any], name: str) -> str:
    """Return an address of an issuer's document.

    Raises:
        Unavailable: It has none of that name.
    """
    found = document.get(name)
    if not isinstance(found, str):
        raise Unavailable(f"{str(document.get('issuer'))[:200]} names no {name}.")
    return found
