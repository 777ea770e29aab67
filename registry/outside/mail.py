"""Mail: messages handed to the operator's mail server (SMTP), one connection for many of them.

    open ── STARTTLS or TLS ── signed in ──> send, send, … ──> closed

Every wait is bounded, and `cut` ends one that goes on from another thread.
"""

import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from typing import Any

from registry.errors import Unavailable

STEP_SECONDS = 20.0  # longest wait for the server's next bytes
UNFOLDED = SMTP.clone(max_line_length=998)  # or long addresses in headers would be encoded, and not understood
POLICY = b"5.7."  # RFC 3463: the server's rules or sign-in are in the way (like "Relay access denied"), not the address
ANSWER_LENGTH = 300  # characters that are kept of what it says


@dataclass(frozen=True)
class MailServer:
    """How to reach a mail server.

    Args:
        host: Its name.
        port: Its port.
        security: `starttls`, `tls`, or `none`.
        user: The name to sign in with; empty for no sign-in.
        password: The password.
    """

    host: str
    port: int
    security: str
    user: str
    password: str


@dataclass(frozen=True)
class Mail:
    """A mail in plain text.

    Args:
        to: The address.
        subject: One line.
        text: The text.
        message_id: What identifies it: mail programs show one that came twice once.
        unsubscribe: The address that ends such mails; empty for one that is sent once.
    """

    to: str
    subject: str
    text: str
    message_id: str
    unsubscribe: str = ""


@dataclass(frozen=True)
class Refusal:
    """What the mail server said when it refused a mail; `lasting` if it will do so again."""

    answer: str
    lasting: bool


class Postbox:
    """A mail server that mails are handed to.

    Args:
        server: How to reach it.
        sender: Whom mails come from, like `Crumbs <news@crumbs.example.org>`.
    """

    def __init__(self, server: MailServer, sender: str) -> None:
        self.server, self.sender = server, sender
        self.socket: socket.socket | None = None

    @contextmanager
    def open(self) -> Iterator["Connection"]:
        """Connect to the server, and close the connection at the end.

        Raises:
            Unavailable: It cannot be reached, does not take the sign-in, or breaks off.
        """
        where, smtp = f"The mail server {self.server.host}:{self.server.port}", None
        try:
            smtp = self.connect()
            yield Connection(smtp, self.sender)
            with suppress(smtplib.SMTPException, OSError):
                smtp.quit()
        except smtplib.SMTPAuthenticationError as why:
            raise Unavailable(f"{where} does not take REGISTRY_SMTP_USER and its password: {said(why)}") from why
        except (smtplib.SMTPException, OSError) as why:
            raise Unavailable(f"{where} cannot be used: {said(why)}{'' if smtp else advice(why)}") from why
        finally:
            self.socket = None
            if smtp is not None:
                smtp.close()

    def connect(self) -> smtplib.SMTP:
        """Return a connection that is encrypted and signed in, as far as the settings ask for that."""
        host, port, name = self.server.host, self.server.port, parseaddr(self.sender)[1].rpartition("@")[2]
        if self.server.security == "tls":
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(
                host, port, name, timeout=STEP_SECONDS, context=ssl.create_default_context()
            )
        else:
            smtp = smtplib.SMTP(host, port, name, timeout=STEP_SECONDS)
        try:
            self.socket = smtp.sock
            if self.server.security == "starttls":
                smtp.starttls(context=ssl.create_default_context())
                self.socket = smtp.sock
            if self.server.user:
                smtp.login(self.server.user, self.server.password)
        except BaseException:
            smtp.close()
            raise
        return smtp

    def cut(self) -> None:
        """End the connection that is open, whatever it waits for."""
        if (open_socket := self.socket) is not None:
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)


class Connection:
    """An open connection to a mail server."""

    def __init__(self, smtp: smtplib.SMTP, sender: str) -> None:
        self.smtp, self.sender = smtp, sender

    def send(self, mail: Mail) -> Refusal | None:
        """Hand a mail over; return why the server does not take it, or None if it does.

        Raises:
            SMTPException, OSError: The server takes no mail at all, or broke off; `Postbox.open` says so.
        """
        try:
            self.smtp.send_message(compose(mail, self.sender), parseaddr(self.sender)[1], [mail.to])
        except smtplib.SMTPRecipientsRefused as why:
            code, answer = why.recipients[mail.to]
            return Refusal(line(code, answer), lasting=code >= 500 and not answer.startswith(POLICY))
        except smtplib.SMTPDataError as why:
            return Refusal(line(why.smtp_code, why.smtp_error), lasting=False)
        return None


def compose(mail: Mail, sender: str) -> EmailMessage:
    """Return the message of a mail; a header that holds a line break is a ValueError."""
    message = EmailMessage(UNFOLDED)
    message["From"], message["To"], message["Subject"] = sender, mail.to, mail.subject
    message["Date"], message["Message-ID"] = format_datetime(datetime.now(UTC)), f"<{mail.message_id}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no machine answers it
    if mail.unsubscribe:
        message["List-Unsubscribe"] = f"<{mail.unsubscribe}>"
        if mail.unsubscribe.startswith("https:"):
            message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"  # RFC 8058
    message.set_content(mail.text)
    return message


def line(code: int, answer: Any) -> str:
    """Return what a mail server said, as one line."""
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
    return f"{code} {' '.join(''.join(c if c.isprintable() else ' ' for c in text).split())}"[:ANSWER_LENGTH]


def said(error: Exception) -> str:
    """Return what went wrong with a server, as one line."""
    if isinstance(error, smtplib.SMTPResponseException):
        return line(error.smtp_code, error.smtp_error)
    return " ".join(str(error).split())[:ANSWER_LENGTH] or type(error).__name__


def advice(error: Exception) -> str:
    """Return what to change in the settings after an error that they are the likely cause of; else an empty text."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "; REGISTRY_SMTP_HOST has to be a name in its certificate, and SSL_CERT_FILE a file with its authority"
    if isinstance(error, ssl.SSLError | smtplib.SMTPServerDisconnected | smtplib.SMTPNotSupportedError | TimeoutError):
        return "; see whether REGISTRY_SMTP_SECURITY is what this port speaks: 587 mostly starttls, 465 tls"
    return ""
