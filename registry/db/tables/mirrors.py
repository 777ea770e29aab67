"""Tables of mirroring: the registry that this one follows, and what here comes from there."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Integer, String, Text, false
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.tables.declare import Table, now, one_of


class Mirror(Table):
    """The one row of a registry that follows another one, its primary; there is none in any other registry.

    `names` are the models that it follows, None for all. `cursor` is the serial of the primary's log up to which all is
    here, and `hash` that event's hash there; both are None until everything was taken over once. `head` is the newest
    serial that was seen there. `current_at` is when the cursor was last at the head, `asked_at` when the primary last
    answered. `problem` is why the last round failed; if `stopped`, a person has to look at it first. The row stays when
    the registry is promoted, so that it does not follow again when a machine starts.
    """

    __tablename__ = "mirrors"
    __table_args__ = (CheckConstraint("id = 1", name="one"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    url: Mapped[str] = mapped_column(String(2000))
    registry_id: Mapped[uuid.UUID]
    names: Mapped[list[str] | None]
    cursor: Mapped[int | None] = mapped_column(BigInteger)
    hash: Mapped[str | None] = mapped_column(String(64))
    head: Mapped[int] = mapped_column(BigInteger, default=0)
    current_at: Mapped[datetime | None]
    asked_at: Mapped[datetime | None]
    problem: Mapped[str | None] = mapped_column(Text)
    stopped: Mapped[bool] = mapped_column(default=False, server_default=false())
    promoted_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class MirroredRow(Table):
    """A model, user or namespace that was taken over from the primary, by its key, which is the same there.

    A key counts for its kind alone: the primary chooses it, and must not make anything else its own by it. A model is
    `complete` once all of its parts are here; until then nobody sees it. It stops being so when its parts are to be
    read once more, and keeps `completed_at`.
    """

    __tablename__ = "mirrored_rows"
    __table_args__ = (one_of("kind", "model", "user", "namespace"),)

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    complete: Mapped[bool] = mapped_column(default=False, server_default=false())
    completed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class MirroredFile(Table):
    """The digest of a file of which the primary has sent the bytes, and so has them; naming a digest shows nothing."""

    __tablename__ = "mirrored_files"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=now)


class MirrorProblem(Table):
    """A model of the primary that could not be taken over, by its full name there: why, and when it is tried again.

    It need not be here at all, for instance if somebody of this registry has its name. After a promotion these are the
    models that are not all here.
    """

    __tablename__ = "mirror_problems"

    name: Mapped[str] = mapped_column(String(193), primary_key=True)
    problem: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=1)
    retry_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(default=now)


class ModeratedRow(Table):
    """A mirrored patch or comment that an admin of this registry quarantined or hid, which the primary does not undo.

    `there` has what the primary says of the columns that were decided here, for when the decision is taken back.
    """

    __tablename__ = "moderated_rows"
    __table_args__ = (one_of("kind", "patch", "comment"),)

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    there: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)
