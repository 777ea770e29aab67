"""The follower: reads the change feed of the primary, and takes over what the changes are about.

    round: head, is its past the same? ── changes since the cursor ── each part: read, fetch, verify, apply ── cursor
                │ no                          │ none: wait for them                  one transaction each      moves
                └──> stopped: an alarm        └── serials that say nothing: which models are still shown?

A part is taken over as it is now, which may be newer than its change; the cursor moves when all of a page is here, or
its model was set aside. So a killed mirror does some of it again, and ends where one that was not killed does.
"""

import json
import math
import re
import time
import uuid
from collections.abc import Iterable
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from registry import schemas
from registry.db.audit import FIRST_HASH
from registry.db.session import Database
from registry.db.tables import AuditEvent, Mirror, now
from registry.errors import HistoryChanged, NotFound, Unavailable, WrongState
from registry.files.names import MODEL
from registry.outside.primary import Primary
from registry.services.events import feed
from registry.services.mirroring import mirrors, problems
from registry.services.mirroring.carried import Part
from registry.settings import Settings
from registry.storage.store import Store
from registry.worker.mirror import reading
from registry.worker.mirror.taking import Taker, is_told, tell
from registry.worker.runner import Stopped

log = structlog.get_logger()
WAIT = 20  # seconds for which the primary is asked to wait for a change
LOCK = "mirror.lock"
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds after a round that failed
MAX_TOLD = 2**16  # characters of what an event says of a change
LIST_EVERY = 600.0  # seconds, after which it is looked which models are still shown, whatever the feed says


class Follower(Taker):
    """Follows a primary until it is stopped.

    Args:
        settings: The settings.
        database: Has the rows of this registry.
        store: Has its files.
        primary: Whom it follows.
        names: The models that it follows; all if there are none.
    """

    def __init__(
        self, settings: Settings, database: Database, store: Store, primary: Primary, names: Iterable[str] = ()
    ) -> None:
        super().__init__(settings, database, store)
        self.primary, self.names = primary, tuple(names)
        self.listed = float("-inf")  # when it was last looked which models are shown

    def begin(self) -> None:
        """Find out who the primary is, and whether this registry may follow it.

        If the primary does not answer, a mirror that has followed it before asks it again later.

        Raises:
            BreadcrumbError: It may not, or the primary does not answer; the message says what to do.
        """
        self.require_keys()
        with self.database.read() as session:
            mirrors.refuse_promoted(session.get(Mirror, 1))
        try:
            found = reading.head(self.primary, 0)
        except Unavailable:
            with self.database.read() as session:
                mirror = mirrors.find(session)
            if mirror is None or mirror.stopped or list(self.names) not in ([], mirror.names):
                raise
            return
        assert found.registry is not None
        if self.names:
            shown = set(reading.models(self.primary).values())
            if missing := sorted(set(self.names) - shown):
                raise NotFound(f"{self.primary.url} shows no model {missing[0]}; see `crumb model list` there.")
        with self.database.write() as session:
            mirrors.begin(session, self.primary.url, uuid.UUID(found.registry), list(self.names), found.serial)
            problems.hurry(session)  # the operator may have mended what was wrong

    def run(self) -> None:
        """Follow until `stop` is called.

        Raises:
            HistoryChanged: The primary's past is another one; a person has to look at it.
            WrongState: This registry was promoted meanwhile.
        """
        pause = FIRST_PAUSE
        while not self.stopping.is_set():
            try:
                self.round(WAIT)
                pause = FIRST_PAUSE
            except Stopped:
                return
            except HistoryChanged as why:
                self.give_up(why)
                raise
            except Exception as why:
                if not self.fails(why):
                    raise
                self.stopping.wait(pause)
                pause = min(LONGEST_PAUSE, pause * 2)

    def fails(self, why: Exception) -> bool:
        """Record why a round failed; return whether the next one may do better."""
        log.warning("mirror.failed", error=tell(why), exc_info=None if is_told(why) else why)
        try:
            with self.database.write() as session:
                if mirrors.find(session) is None:
                    return False
                mirrors.note(session, None, tell(why))
        except SQLAlchemyError as lost:  # the database is away, and may come back
            log.warning("mirror.not_noted", error=tell(lost))
        return True

    def give_up(self, why: HistoryChanged) -> None:
        """Stop this mirror until a person has looked at it."""
        log.error("mirror.stopped", error=tell(why))
        with self.database.write() as session:
            mirrors.note(session, None, str(why), stopped=True)

    def round(self, wait: int = 0) -> None:
        """Take over what has happened since the last round.

        Args:
            wait: Seconds to wait for something to happen.

        Raises:
            HistoryChanged: The primary's past is another one.
            BreadcrumbError: The round failed; the next may do better.
        """
        with self.database.read() as session:
            mirror = mirrors.find(session)
        if mirror is None:
            raise WrongState("This registry is not a mirror any more.")
        found = reading.head(self.primary, mirror.cursor or 0)
        require_same(mirror, found)
        if mirror.cursor is None:
            self.take_all(mirror, found)
            return
        with self.database.read() as session:
            due = problems.next_due(session)
        left = wait if due is None else min(wait, max(0, math.ceil((due - now()).total_seconds())))
        page = reading.changes(self.primary, mirror.cursor, left)
        self.take_changes(mirror, page)
        late = time.monotonic() - self.listed > LIST_EVERY or (due is not None and due <= now())
        if late or page.next - mirror.cursor > len(page.items):
            self.take_list(mirror)
        if page.next > mirror.cursor:
            digest = self.hash_at(page.next)
            with self.database.read() as session:
                keys = {name: key for key, name in mirrors.shown(session).items()}
            told = [change for change in page.items if change.model in keys and change.action in feed.ACTIONS]
            events = [logged(change, keys[change.model]) for change in told]
            with self.database.write() as session:
                mirrors.advance(session, page.next, digest, events)
        with self.database.write() as session:
            mirrors.note(session, max(found.serial, page.next), None)

    # Models ------------------------------------------------------------------------------------------------------

    def take_all(self, mirror: Mirror, found: schemas.MirrorHead) -> None:
        """Take over all models once; what happens meanwhile is after the cursor."""
        digest = self.hash_at(found.serial)
        self.take_list(mirror)
        with self.database.write() as session:
            mirrors.advance(session, found.serial, digest, [])
            mirrors.note(session, found.serial, None)

    def hash_at(self, serial: int) -> str:
        """Return the hash of an event of the primary's log.

        Raises:
            HistoryChanged: It is gone.
        """
        at = reading.head(self.primary, serial).at
        if at is None and serial > 0:
            raise HistoryChanged(f"{self.primary.url} no longer has the event {serial} of its log.")
        return at or FIRST_HASH

    def take_list(self, mirror: Mirror) -> None:
        """Take over models that are not here, and hide those that the primary shows no longer."""
        there = {key: name for key, name in reading.models(self.primary).items() if self.follows(mirror, name)}
        with self.database.write() as session:
            mirrors.require(session)
            problems.keep(session, set(there.values()))
            if gone := mirrors.not_hidden(session).keys() - there.keys():
                mirrors.hide(session, gone)
            here, waiting = mirrors.shown(session), problems.waiting(session)
            due = {row.name for row in problems.rows(session)} - waiting
        self.listed = time.monotonic()
        for key, name in there.items():
            if name in due or (key not in here and name not in waiting):
                self.take_whole(name, key)
        self.repair()

    # Changes -----------------------------------------------------------------------------------------------------

    def take_changes(self, mirror: Mirror, page: schemas.ChangePage) -> None:
        """Take over what changes are about, each part once; a model that is new, as a whole."""
        with self.database.read() as session:
            known, waiting = set(mirrors.shown(session).values()), problems.waiting(session)
        wanted: dict[tuple[str, Part], None] = {}
        for change in page.items:
            if self.follows(mirror, change.model) and change.model not in waiting:
                wanted[change.model, reading.part_of(change)] = None
        done, late = set[str](), dict[tuple[str, Part], None]()  # done: taken over as a whole, or set aside
        for name, part in wanted:
            if name in done:
                continue
            if name not in known:
                done.add(name)
                self.take_whole(name)
            elif (taken := self.take_again(name, part)) is None:
                done.add(name)
            else:
                late |= dict.fromkeys((name, channel) for channel in taken.late)
        for name, part in late:
            if name not in done and self.take_again(name, part) is None:
                done.add(name)

    def follows(self, mirror: Mirror, name: str) -> bool:
        """Say whether a model is one of those that are followed, and its name is one."""
        return re.fullmatch(MODEL, name) is not None and (mirror.names is None or name in mirror.names)


def logged(change: schemas.Change, model: uuid.UUID) -> AuditEvent:
    """Return the row of this registry's log for a change of the primary."""
    return AuditEvent(
        user_name=None if change.user is None else problems.one_line(change.user, 96),
        action=change.action,
        subject=problems.one_line(change.subject, 300),
        model_id=model,
        before=short(change.before),
        after={**(short(change.after) or {}), "mirrored": {"serial": change.serial, "at": change.at.isoformat()}},
    )


def short(told: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what an event says of a change, if it is as short as here; nobody needs it to take over the change."""
    if told is None or len(json.dumps(told)) <= MAX_TOLD:
        return told
    return {"left_out": "It was too long."}


def require_same(mirror: Mirror, found: schemas.MirrorHead) -> None:
    """Refuse a primary whose past is not the one that was taken over.

    Raises:
        HistoryChanged: It is another registry, lost events, or changed one.
    """
    if found.registry != str(mirror.registry_id):
        raise HistoryChanged(f"{mirror.url} is another registry now: {found.registry}, not {mirror.registry_id}.")
    if mirror.cursor is None or mirror.cursor == 0:
        return
    if found.at is None:
        raise HistoryChanged(
            f"{mirror.url} no longer has the event {mirror.cursor} of its log; it ends at {found.serial}. It was "
            "restored from a backup, or events were removed."
        )
    if found.at != mirror.hash:
        raise HistoryChanged(
            f"The event {mirror.cursor} of {mirror.url} had the hash {mirror.hash}, and has {found.at} now: its log "
            "was changed, or written anew after a restore."
        )
