"""Notifications: those who wait for a change of rows are called after the commit that made it.

    notify(session, subject) ── commit ──┬── listeners in this process
                                         └── PostgreSQL: NOTIFY, and so listeners in every process (LISTEN)

With SQLite, other processes are told nothing; a `Watch` sees there that somebody has committed. And a connection can
break, so those who listen also look by themselves now and then: notifications save time, and nothing relies on them.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Engine, PoolProxiedConnection, event, text
from sqlalchemy.orm import Session

log = structlog.get_logger()
CHANNEL = "crumb"
NOTIFY = text("SELECT pg_notify(:channel, subject) FROM unnest(CAST(:subjects AS text[])) AS subject")
PENDING = "notifications"
CLOSING_SECONDS = 1.0  # in which the connection of a thread that listens ends
RECONNECT_SECONDS = 5.0
GLANCE_SECONDS = 0.05  # between two glances at a SQLite file, each of some microseconds
Listener = Callable[[str], object]


def notify(session: Session, subject: object) -> None:
    """Notify listeners of a subject when the transaction is committed."""
    session.info.setdefault(PENDING, set()).add(str(subject))


class Notifications:
    """The listeners of a database in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.lock = engine, threading.Lock()
        self.remote = engine.dialect.name == "postgresql"
        self.listeners: list[Listener] = []
        self.closing: threading.Event | None = None  # of the thread that listens to other processes
        event.listen(engine, "engine_disposed", self._close)

    @contextmanager
    def listen(self, listener: Listener) -> Iterator[None]:
        """Call a function with the subject of every notification; it runs in whatever thread, and must be quick."""
        with self.lock:
            self.listeners.append(listener)
            if self.remote and self.closing is None:
                self.closing = threading.Event()
                threading.Thread(target=self._follow, args=(self.closing,), name="notifications", daemon=True).start()
        try:
            yield
        finally:
            with self.lock:
                self.listeners.remove(listener)

    def send(self, session: Session) -> Collection[str]:
        """Notify other processes, as a part of a transaction; return the subjects that the commit is to be told of."""
        subjects: set[str] = session.info.pop(PENDING, set())
        if subjects and self.remote:
            session.execute(NOTIFY, {"channel": CHANNEL, "subjects": sorted(subjects)})
        return subjects

    def deliver(self, subjects: Collection[str]) -> None:
        """Call the listeners in this process."""
        with self.lock:
            listeners = list(self.listeners) if subjects else []
        for listener in listeners:
            for subject in subjects:
                listener(subject)

    def _close(self, _engine: Engine) -> None:
        with self.lock:
            if self.closing is not None:
                self.closing.set()
                self.closing = None

    def _follow(self, closing: threading.Event) -> None:
        """Deliver what PostgreSQL notifies, over a connection of its own, until the engine is disposed."""
        while not closing.is_set():
            try:
                self._receive(closing)
            except Exception as why:  # of the driver's own, once it is in use
                if not closing.is_set():
                    log.warning("notifications.interrupted", error=" ".join(str(why).split()))
                closing.wait(RECONNECT_SECONDS)

    def _receive(self, closing: threading.Event) -> None:
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.detach()  # so that it is closed, and never lent to others
            connection.exec_driver_sql(f"LISTEN {CHANNEL}")
            driver: Any = connection.connection.dbapi_connection
            while not closing.is_set():
                for notification in driver.notifies(timeout=CLOSING_SECONDS):
                    self.deliver([notification.payload])


class Watch:
    """Waits, in one thread, until something may have changed: notified, or committed to SQLite by another process.

    Args:
        news: Ends the wait when it is set: by a notification, or by whoever else has a reason.
        glance: Returns a number that differs once another connection has committed; None where all is notified.
    """

    def __init__(self, news: threading.Event, glance: Callable[[], int] | None) -> None:
        self.news, self.glance = news, glance
        self.seen = 0

    def begin(self) -> None:
        """Take all that has happened until now as known; call it before looking."""
        self.news.clear()
        self.seen = self.glance() if self.glance else 0

    def wait(self, seconds: float) -> None:
        """Wait until something has happened since `begin`, for so many seconds at most."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.news.wait(min(left, GLANCE_SECONDS) if self.glance else left):
                return
            if self.glance and self.glance() != self.seen:
                return


@contextmanager
def watching(notifications: Notifications, news: threading.Event) -> Iterator[Watch]:
    """Open a watch for the thread that waits."""
    with ExitStack() as stack:
        stack.enter_context(notifications.listen(lambda _: news.set()))
        if notifications.remote:
            yield Watch(news, None)
            return
        connection = notifications.engine.raw_connection()  # the number counts for one connection
        stack.callback(connection.close)
        yield Watch(news, partial(_data_version, connection))


def _data_version(connection: PoolProxiedConnection) -> int:
    """Return SQLite's `data_version`, or 0 while the file cannot be read."""
    driver: Any = connection.driver_connection
    try:
        return int(driver.execute("PRAGMA data_version").fetchone()[0])
    except sqlite3.Error:
        return 0
