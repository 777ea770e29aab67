"""Budgets: how much text a user may add in a day, over all that they write.

Text is outside the quotas of bytes: it is in the database, where every row is small, and a row is never many bytes that
somebody else pays for. So it is bounded in time. A day begins with the first text after the last day has ended.
"""

from datetime import timedelta

from sqlalchemy.orm import Session

from registry.db.tables import User, now
from registry.errors import TooMany
from registry.services.people.actors import Actor

DAY = timedelta(days=1)
ENTRY_BYTES = 512  # of an entry besides its text: rows, their places in indices, the log


def spend(session: Session, actor: Actor, size: int, most: int, entries: int = 1) -> None:
    """Count a text for its writer's day; nothing is counted if the transaction fails.

    Args:
        session: A writing transaction that has locked nothing yet.
        actor: The writer.
        size: Bytes of the text.
        most: Most bytes of a day.
        entries: How many entries of the database hold it.

    Raises:
        TooMany: The day has no room for it; the message says when the next one begins.
    """
    size += ENTRY_BYTES * entries
    user = session.get_one(User, actor.user_id, with_for_update={"key_share": True}, populate_existing=True)
    if user.text_since is None or not user.text_since <= now() < user.text_since + DAY:  # or the clock went back
        user.text_since, user.text_bytes = now(), 0
    if user.text_bytes + size > most:
        ends = user.text_since + DAY
        raise TooMany(
            f"You have written {user.text_bytes} bytes today, and {size} more are too many, since a user "
            f"may write {most} a day; your next day begins at {ends:%Y-%m-%d %H:%M} UTC.",
            retry_after=max(1, int((ends - now()).total_seconds()) + 1),
        )
    user.text_bytes += size
    session.flush()
