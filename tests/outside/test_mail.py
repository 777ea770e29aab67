"""Mail by real TLS and sign-in, and what operators are told when a mail server takes none of it."""

import socket
from pathlib import Path

import pytest

from registry.errors import Unavailable
from registry.outside import mail
from registry.outside.mail import Mail, MailServer, Postbox, Refusal
from registry.settings import Settings
from tests.support.certificates import certify
from tests.support.mail_servers import open_mail_server
from tests.support.secure_mail_servers import PASSWORD, USER, open_secure_mail_server

LETTER = Mail("rita@example.org", "Grüße", "Text", "1@example.org", "https://crumbs.example.org/end")


def send(port: int, security: str, user: str = USER, password: str = PASSWORD, host: str = "localhost") -> None:
    with Postbox(MailServer(host, port, security, user, password), "Crumbs <news@example.org>").open() as connection:
        assert connection.send(LETTER) is None


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mail_is_sent_encrypted_and_signed_in_to_a_server_whose_certificate_is_trusted(
    security: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = certify(tmp_path, "localhost")
    with open_secure_mail_server(security, certificate) as server:
        with pytest.raises(Unavailable, match=r"certificate verify failed.*SSL_CERT_FILE"):
            send(server.port, security)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        with pytest.raises(Unavailable, match=r"not valid for '127\.0\.0\.1'.*REGISTRY_SMTP_HOST"):
            send(server.port, security, host="127.0.0.1")
        with pytest.raises(Unavailable, match="REGISTRY_SMTP_USER and its password: 535"):
            send(server.port, security, password="other")
        with pytest.raises(Unavailable, match="530"):
            send(server.port, security, user="")
        assert not server.taken
        send(server.port, security)
        ((content, recipients),) = server.taken
    assert recipients == [LETTER.to] and b"\r\nFrom: " in b"\r\n" + content


def test_a_server_that_speaks_otherwise_or_not_at_all_is_told_apart_from_one_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "STEP_SECONDS", 0.1)
    certificate = certify(tmp_path, "localhost")
    with open_secure_mail_server("starttls", certificate) as server, pytest.raises(Unavailable, match="465 tls"):
        send(server.port, "tls")
    with open_secure_mail_server("tls", certificate) as server, pytest.raises(Unavailable, match="587 mostly starttls"):
        send(server.port, "starttls")
    with open_mail_server() as plain:
        with pytest.raises(Unavailable, match=r"STARTTLS.*REGISTRY_SMTP_SECURITY"):
            send(plain.port, "starttls")
        plain.answer = lambda command: "" if command.startswith("MAIL") else None
        with pytest.raises(Unavailable, match=r"unexpectedly closed$"):
            send(plain.port, "none", user="")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for security in ("starttls", "tls"):
            with pytest.raises(Unavailable, match="timed out"):
                send(silent.getsockname()[1], security)


def test_a_server_that_relays_for_nobody_says_nothing_of_the_address() -> None:
    with open_mail_server() as server:
        box = Postbox(MailServer("127.0.0.1", server.port, "none", "", ""), "news@example.org")
        for answer, lasting in (("550 5.1.1 No such user", True), ("554 5.7.1 Relay access denied", False)):
            server.answer = lambda command, said=answer: said if command.startswith("RCPT") else None
            with box.open() as connection:
                assert connection.send(LETTER) == Refusal(answer, lasting)


def test_a_password_that_cannot_be_sent_is_refused_at_the_start() -> None:
    way = {"smtp_host": "smtp.example.org", "mail_from": "news@example.org", "public_url": "https://crumbs.example.org"}
    assert Settings(**way, smtp_user=USER, smtp_password=PASSWORD).mail_server
    with pytest.raises(ValueError, match="can only be sent if it is ASCII"):
        Settings(**way, smtp_user=USER, smtp_password="vier Wörter")
