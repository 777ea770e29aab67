"""What mails are handed to in tests: a real SMTP server that remembers, refuses or breaks off."""

import email.policy
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from typing import cast

OK = "250 OK"


@dataclass
class MailStandIn:
    """Where mails arrive; `answer` says what to say to a command."""

    port: int = 0
    received: list[EmailMessage] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)  # the same, as they arrived
    answer: Callable[[str], str | None] = lambda _: None  # None for what a server says; an empty text breaks off
    greeting: str = "220 here"

    def to(self, address: str) -> list[EmailMessage]:
        return [mail for mail in self.received if mail["To"] == address]


@contextmanager
def open_mail_server() -> Iterator[MailStandIn]:
    made = MailStandIn()

    class Handler(socketserver.StreamRequestHandler):
        def say(self, line: str) -> None:
            self.wfile.write(line.encode() + b"\r\n")

        def handle(self) -> None:
            self.say(made.greeting)
            while command := self.rfile.readline().decode().strip():
                verb = command.partition(" ")[0].upper()
                said = made.answer(verb + command[len(verb) :])
                if said == "":
                    return
                if said is not None:
                    self.say(said)
                elif verb == "DATA":
                    self.say("354 go on")
                    self.take()
                elif verb == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say(OK)

        def take(self) -> None:
            lines = []
            while (line := self.rfile.readline()) not in (b".\r\n", b""):
                lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
            policy = email.policy.default
            mail = cast(EmailMessage, message_from_bytes(b"".join(lines).replace(b"\r\n", b"\n"), policy=policy))
            said = made.answer("end of data")
            if said is None:
                made.raw.append(b"".join(lines))
                made.received.append(mail)
            self.say(OK if said is None else said)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads, block_on_close = True, True, False

    with Server(("127.0.0.1", 0), Handler) as server:
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
