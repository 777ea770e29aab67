"""Views of patches in the JSON of the Hub's discussions, and of what was said and done about them as events."""

from collections.abc import Iterator
from datetime import datetime
from html import escape
from typing import Any

from registry.db.tables import AuditEvent, CardProposal, Comment, Model, PatchRevision, Push, Review
from registry.documents.trailers import from_options
from registry.server.hub.views import moment
from registry.services.hub.discussions import STATUS, STEPS, Thread

Entry = dict[str, Any]
VERDICTS = {"approve": "Approved revision {}.", "request_changes": "Requested changes to revision {}."}


def discussion(model: Model, row: PatchRevision | CardProposal | Push) -> Entry:
    """Return a patch in a list of discussions: it is a pull request, by the number of the patch."""
    return {
        "num": row.patch.number,
        "title": row.title,
        "author": user(row.patch.author.name),
        "repo": {"name": model.full_name, "type": "model"},
        "status": STATUS[row.patch.state],
        "isPullRequest": True,
        "createdAt": moment(row.patch.created_at),
        "pinned": False,
    }


def details(model: Model, row: PatchRevision | CardProposal, thread: Thread, here: str, sees_hidden: bool) -> Entry:
    """Return a patch with its events, oldest first.

    Args:
        model: The patch's model.
        row: The patch at its newest revision, or the card that it proposes.
        thread: What was said and done about it.
        here: The address of this registry.
        sees_hidden: Whether the caller sees the text of hidden comments.
    """
    author = row.patch.author.name
    texts = proposed(row, author) if isinstance(row, CardProposal) else ()
    events = [*texts, *found_in(thread, author, sees_hidden)]
    events.sort(key=lambda event: str(event["createdAt"]))
    if thread.cut:
        where = f"{here}/{model.full_name}/patches/{row.patch.number}"
        events.insert(0, said(row.patch.id.hex, author, row.patch.created_at, f"Earlier ones: {where}"))
    return {
        **discussion(model, row),
        "events": events,
        "changes": {"base": "refs/heads/main"},
        "filesWithConflicts": False,
        "diff": None,
    }


def proposed(row: CardProposal, author: str) -> Iterator[Entry]:
    """Yield the text of a proposed card as a commit, and what its author says of it."""
    yield event(f"{row.patch_id.hex}c", "commit", author, row.created_at, {"subject": row.title, "oid": row.commit})
    if row.message:
        yield said(row.patch_id.hex, author, row.created_at, row.message)


def opening(model: Model, push: Push) -> Entry:
    """Return a pull request of which no patch was made yet, and why not if that was tried."""
    author, at = push.patch.author.name, push.created_at
    texts = [push.message] + ([failure(push.error or "")] if push.state == "failed" else [])
    events = [said(f"{number:024x}", author, at, text) for number, text in enumerate(texts) if text]
    changes = {"base": "refs/heads/main"}
    return {**discussion(model, push), "events": events, "changes": changes, "filesWithConflicts": False, "diff": None}


def failure(error: str) -> str:
    """Return what is said of a push that became no patch, with the options that help as tools of the Hub say them."""
    lines = from_options(error)
    ending = " In the description of the next commit, at its end:\n\n" + "\n".join(f"    {line}" for line in lines)
    return f"No patch could be made of it: {error}{ending if lines else ''}"


def found_in(thread: Thread, author: str, sees_hidden: bool) -> Iterator[Entry]:
    """Yield what was said and done about a patch as events, by kinds."""
    for revision in thread.revisions:
        yield commit(revision, author)
        if revision.message:
            yield said(revision.id.hex, author, revision.created_at, revision.message)
        if revision.id in thread.notes:
            yield said(f"{revision.id.hex}n", author, revision.created_at, thread.notes[revision.id])
    yield from map(review, thread.reviews)
    for row in thread.comments:
        yield comment(row, sees_hidden)
    yield from map(step, thread.steps)


def event(key: str, kind: str, author: str, at: datetime, data: Entry) -> Entry:
    """Return an event."""
    return {"id": key, "type": kind, "author": user(author), "createdAt": moment(at), "data": data}


def said(
    key: str, author: str, at: datetime, text: str, *, hidden: bool = False, edited: datetime | None = None
) -> Entry:
    """Return a text that somebody wrote, and perhaps edited since; our own pages have the texts before."""
    latest = {"raw": text, "html": f"<p>{escape(text)}</p>", "updatedAt": moment(edited or at), "author": user(author)}
    told = {"edited": edited is not None, "hidden": hidden, "latest": latest, "history": []}
    return event(key, "comment", author, at, told)


def comment(row: Comment, sees_hidden: bool = False) -> Entry:
    """Return a comment; one that was deleted or hidden says by whom and why in place of its text."""
    text, gone = row.message, row.deleted_at is not None
    if gone and row.deleted_by is not None:
        text = f"This comment was deleted by {row.deleted_by.name}{because(row.deletion_reason)}"
    elif row.hidden_by is not None and not sees_hidden:
        text = f"This comment was hidden by {row.hidden_by.name}{because(row.hiding_reason)}"
    hidden = gone or row.hidden_at is not None
    return said(row.id.hex, row.author.name, row.created_at, text, hidden=hidden, edited=row.edited_at)


def because(reason: str | None) -> str:
    """Return a reason as the end of a sentence."""
    return f": {reason}" if reason else "."


def review(row: Review) -> Entry:
    """Return a verdict as a comment."""
    text = "\n\n".join(filter(None, [VERDICTS[row.verdict].format(row.revision.number), row.message]))
    return said(row.id.hex, row.reviewer.name, row.created_at, text)


def commit(row: PatchRevision, author: str) -> Entry:
    """Return a revision as a commit, whose id is the digest of the patch file."""
    return event(f"{row.id.hex}c", "commit", author, row.created_at, {"subject": row.title, "oid": row.sha256})


def step(row: AuditEvent) -> Entry:
    """Return a step of a patch as a change of its status."""
    said_why = {name: text for name, text in (row.after or {}).items() if name == "reason"}
    told = {"status": STEPS[row.action], **said_why}
    return event(f"{row.serial:024x}", "status-change", row.user_name or "deleted", row.at, told)


def changed(key: str, author: str, at: datetime, status: str) -> Entry:
    """Return a change of status that was made just now."""
    return event(key, "status-change", author, at, {"status": status})


def user(name: str) -> Entry:
    """Return a user."""
    return {"name": name, "fullname": name, "type": "user"}
