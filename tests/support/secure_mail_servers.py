"""A mail server with TLS and sign-in that we did not write (aiosmtpd), which takes mails for tests."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

OK = "250 OK"
USER, PASSWORD = "crumbs", "four words, one space"


class SecureController(Controller):
    """An SMTP server of a thread, on a free port, that takes mails by STARTTLS or TLS of those who have signed in.

    Args:
        security: `starttls` or `tls`.
        certificate: Its certificate and key.
    """

    def __init__(self, security: str, certificate: tuple[Path, Path]) -> None:
        self.taken: list[tuple[bytes, list[str]]] = []  # content, recipients
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        asks = security == "starttls"
        way: dict[str, Any] = {"tls_context": context, "require_starttls": True} if asks else {"ssl_context": context}
        super().__init__(
            self, "127.0.0.1", 0, authenticator=self.authenticate, auth_required=asks, auth_require_tls=asks, **way
        )

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, asked: Any) -> AuthResult:
        known = LoginPassword(USER.encode(), PASSWORD.encode())
        return AuthResult(success=asked == known, handled=False)

    async def handle_MAIL(self, _server: Any, session: Any, envelope: Any, address: str, _options: Any) -> str:
        if not session.authenticated:
            return "530 Authentication required"
        envelope.mail_from = address
        return OK

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.taken.append((envelope.content, envelope.rcpt_tos))
        return OK

    def _trigger_server(self) -> None:
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextmanager
def open_secure_mail_server(security: str, certificate: tuple[Path, Path]) -> Iterator[SecureController]:
    server = SecureController(security, certificate)
    server.start()
    try:
        yield server
    finally:
        server.stop()
