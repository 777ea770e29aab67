"""An OpenID provider of our own for tests: a real HTTP server that signs real tokens, and says what it is told to."""

import base64
import functools
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from tests.support.servers import serving

CLIENT, SECRET = "the-registry", "a secret of the provider"
Key = RSAKey | ECKey | OctKey


_turns = itertools.cycle(range(4))


@functools.cache
def first_key(turn: int) -> Key:
    """Return one of a few keys that providers take in turn: making one takes a tenth of a second."""
    return RSAKey.generate_key(2048, {"kid": "first"})


@dataclass
class Provider:
    """What the provider serves; tests change it at will.

    `who` signs in at once at the authorization endpoint; None for somebody who says no. `claims` are added to each
    identity token, and one that is None is left out. `answers` replace what is served at a path: (status, body).
    """

    url: str = ""
    keys: list[Key] = field(default_factory=lambda: [first_key(next(_turns))])
    algorithm: str = "RS256"
    who: dict[str, Any] | None = None
    claims: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def sign(self, claims: dict[str, Any], key: Key | None = None, **header: Any) -> str:
        """Return a token with claims, signed."""
        key = key or self.keys[-1]
        return jwt.encode({"alg": self.algorithm, "kid": key.kid, **header}, claims, key, algorithms=[self.algorithm])

    def identity(self, audience: str, **claims: Any) -> str:
        """Return an identity token as a build service gives one to its jobs."""
        now = int(time.time())
        usual = {"iss": self.url, "aud": audience, "iat": now, "nbf": now, "exp": now + 300}
        return self.sign({name: value for name, value in {**usual, **claims}.items() if value is not None})

    def get(self, path: str, query: str, headers: Any) -> tuple[int, dict[str, str], bytes]:
        """Answer a GET."""
        if path == "/.well-known/openid-configuration":
            names = {"authorization": "/authorize", "token": "/token", "userinfo": "/userinfo"}
            document: dict[str, Any] = {f"{name}_endpoint": self.url + where for name, where in names.items()}
            return reply({**document, "issuer": self.url, "jwks_uri": f"{self.url}/keys"})
        if path == "/keys":
            return reply({"keys": [key.as_dict(private=isinstance(key, OctKey)) for key in self.keys]})
        if path == "/userinfo" and headers.get("Authorization", "").startswith("Bearer access-"):
            return reply({"sub": (self.who or {}).get("sub"), **self.userinfo})
        if path == "/authorize":
            return self.authorize(dict(parse_qsl(query)))
        return 404, {}, b""

    def authorize(self, asked: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Sign somebody in at once, and send the browser back."""
        assert (asked["client_id"], asked["response_type"], asked["code_challenge_method"]) == (CLIENT, "code", "S256")
        back = {"state": asked["state"]}
        if self.who is None:
            back["error"] = "access_denied"
        else:
            back["code"] = f"code-{len(self.codes)}"
            self.codes[back["code"]] = asked
        return 302, {"Location": f"{asked['redirect_uri']}?{urlencode(back)}"}, b""

    def post(self, path: str, form: dict[str, str], headers: Any) -> tuple[int, dict[str, str], bytes]:
        """Answer a POST: give an identity token for a code, once."""
        known = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        asked = self.codes.pop(form.get("code", ""), None) if path == "/token" else None
        if asked is None or self.who is None or headers.get("Authorization") != f"Basic {known}":
            return reply({"error": "invalid_grant"}, 400)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != asked["code_challenge"]:
            return reply({"error": "invalid_grant", "error_description": "wrong verifier"}, 400)
        if form["redirect_uri"] != asked["redirect_uri"]:
            return reply({"error": "invalid_grant", "error_description": "wrong address"}, 400)
        token = self.identity(CLIENT, **{"nonce": asked["nonce"], **self.who, **self.claims})
        return reply({"access_token": f"access-{len(self.asked)}", "token_type": "Bearer", "id_token": token})


def reply(body: dict[str, Any], status: int = 200) -> tuple[int, dict[str, str], bytes]:
    """Return an answer with JSON."""
    return status, {"Content-Type": "application/json"}, json.dumps(body).encode()


@contextmanager
def open_provider() -> Iterator[Provider]:
    """Serve a provider on loopback."""
    made, lock = Provider(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            where = urlsplit(self.path)
            self.answer(where.path, lambda: made.get(where.path, where.query, self.headers))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[-1] for name, values in parse_qs(body).items()}
            self.answer(self.path, lambda: made.post(self.path, form, self.headers))

        def answer(self, path: str, usual: Any) -> None:
            with lock:
                made.asked.append(path)
                status, headers, content = usual()
                if path in made.answers:
                    status, content = made.answers[path]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Handler) as made.url:
        yield made
