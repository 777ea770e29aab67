"""The mailer: sends people their news by e-mail, one mail after the other, over one connection.

    claim one ── mail server reached ──> hand it over, no transaction open ── record the outcome ──> claim the next
                         └── away: the mail is due again, and the mailer rests, ever longer

It has a thread of its own, so that a slow mail server holds up nothing but mails. Any number of mailers may run.
"""

import threading
import time

import structlog

from registry.db.session import Database
from registry.errors import Unavailable
from registry.outside.mail import Connection, Mail, MailServer, Postbox
from registry.services.curation import news_mails
from registry.services.curation.news_mails import DueMail
from registry.settings import Settings

log = structlog.get_logger()
LONGEST_REST = 300.0  # seconds
SWEEP_EVERY = 600.0  # seconds


class Mailer:
    """Sends what is due until it is stopped.

    Args:
        settings: The settings, which name a mail server.
        database: The database.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self.root = settings.public_url.rstrip("/")
        self.postbox = Postbox(MailServer(**(settings.mail_server or {})), settings.mail_from)
        self.stopping = threading.Event()
        self.failures = 0  # in a row, of the mail server

    def run(self) -> None:
        """Work until `stop` is called."""
        log.info("mailer.start")
        due = 0.0
        while not self.stopping.is_set():
            try:
                if time.monotonic() >= due:
                    self.sweep()
                    due = time.monotonic() + SWEEP_EVERY
                self.step()
                rest = self.settings.poll_seconds
            except Unavailable as why:
                self.failures += 1
                rest = min(LONGEST_REST, 2.0 ** min(self.failures, 10))  # a float has no room for a week of failures
                if not self.stopping.is_set():
                    log.warning("mailer.away", error=str(why), rest=rest)
            except Exception:  # the database does not answer, say: the next round tries again
                log.exception("mailer.error")
                rest = self.settings.poll_seconds
            self.stopping.wait(rest)
        log.info("mailer.stop")

    def stop(self) -> None:
        """End soon, whatever the mail server does."""
        self.stopping.set()
        self.postbox.cut()

    def sweep(self) -> None:
        """Hurry what waits for a time that a wrong clock set."""
        with self.database.write() as session:
            news_mails.hurry(session)

    def step(self) -> int:
        """Send what is due; return how many mails the server took.

        Raises:
            Unavailable: The mail server cannot be reached, takes nothing, or broke off.
        """
        sent, mail = 0, self.claim()
        if mail is None:
            return 0
        try:
            with self.postbox.open() as connection:
                while mail is not None:
                    sent += self.deliver(connection, mail)
                    self.failures, mail = 0, None
                    mail = self.claim()
        except Unavailable:
            if mail is not None:
                with self.database.write() as session:
                    news_mails.give_back(session, mail)
            raise
        return sent

    def claim(self) -> DueMail | None:
        """Return the next mail that is due, which no other mailer sends meanwhile."""
        while not self.stopping.is_set():
            with self.database.read() as session:
                if not news_mails.waiting(session):
                    return None
            with self.database.write() as session:
                mail = news_mails.claim(session, self.root, self.settings.mail_hour)
            if mail is not None:
                return mail
        return None

    def deliver(self, connection: Connection, mail: DueMail) -> bool:
        """Hand one mail over, and record what came of it; return whether the server took it."""
        bound = log.bind(user=str(mail.user_id), confirms=mail.confirms)
        refusal = connection.send(Mail(mail.to, mail.subject, mail.text, mail.message_id, mail.unsubscribe))
        with self.database.write() as session:
            if refusal is None:
                news_mails.finish(session, mail, self.settings.mail_hour)
                bound.info("mail.sent")
                return True
            state = news_mails.refuse(session, mail, refusal.answer, lasting=refusal.lasting)
        bound.warning("mail.refused", answer=refusal.answer, state=state)
        return False
