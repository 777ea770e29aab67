"""Payloads: the body of a webhook's request, an event as huggingface_hub's WebhookPayload (version 3) and as logged.

    event        action and scope, in the Hub's words, for programs that listen to the Hub
    repo         the model
    discussion   the patch or the proposed card, if the event is about one; comment: a comment on it
    updatedRefs  where a channel, a version or a patch points now
    crumb        the event as in our log; the Hub's reader ignores it

A `sha` is a commit id (documents/commits.py); for a patch, which has none until it is composed, the sha256 of its file.
"""

import uuid
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import AuditEvent, CardProposal, Comment, Model, PatchRevision, Release
from registry.errors import BreadcrumbError
from registry.services.catalog import patches
from registry.services.composing import snapshots
from registry.services.curation import cards, news

VERSION = 3
WORDS: dict[str, tuple[str, str]] = {  # our action -> the Hub's action and scope; the others are `update`s
    "model.create": ("create", "repo"),
    "model.refuse": ("delete", "repo"),
    "model.expire": ("delete", "repo"),
    "model.ready": ("update", "repo.content"),
    "patch.push": ("create", "discussion"),
    "patch.revise": ("update", "repo.content"),
    "patch.comment": ("create", "discussion.comment"),
    "patch.edit_comment": ("update", "discussion.comment"),
    "patch.delete_comment": ("delete", "discussion.comment"),
    "patch.hide_comment": ("update", "discussion.comment"),
    "patch.unhide_comment": ("update", "discussion.comment"),
    "card.propose": ("create", "discussion"),
    "card.revise": ("update", "discussion"),
    "card.accept": ("update", "repo.content"),
    "card.reject": ("update", "discussion"),
    "card.withdraw": ("update", "discussion"),
    "release.publish": ("update", "repo.content"),
    "channel.move": ("update", "repo.content"),
    "channel.rollback": ("update", "repo.content"),
    "recipe.composed": ("update", "repo.content"),
}
STATUS = {
    "draft": "draft",
    "proposed": "open",
    "changes_requested": "open",
    "accepted": "merged",
}


def describe(session: Session, event: AuditEvent, webhook_id: uuid.UUID, public_url: str) -> dict[str, Any]:
    """Return the payload of an event as JSON, without any secrets.

    Args:
        session: A transaction.
        event: An event about a model that exists.
        webhook_id: The webhook that gets it.
        public_url: The address at which people reach the registry.
    """
    model = session.get_one(Model, event.model_id)
    noun, _, _ = event.action.partition(".")
    action, scope = WORDS.get(event.action, ("update", "discussion" if noun == "patch" else f"repo.config.{noun}"))
    root = public_url.rstrip("/")
    payload: dict[str, Any] = {
        "event": {"action": action, "scope": scope},
        "repo": repo(session, model, root),
        "webhook": {"id": str(webhook_id), "version": VERSION},
        "crumb": {
            "event": event.action,
            "serial": event.serial,
            "at": event.at.isoformat(),
            "user": event.user_name,
            "subject": event.subject,
            "before": event.before,
            "after": event.after,
        },
    }
    if refs := updated_refs(session, model, event):
        payload["updatedRefs"] = refs
    if noun in ("patch", "card") and (row := patch_of(session, model, event)) is not None:
        payload["discussion"] = discussion(model, event, row, root)
        if scope == "discussion.comment":
            payload["comment"] = comment(session, event, payload["discussion"]["url"])
    return payload


def repo(session: Session, model: Model, root: str) -> dict[str, Any]:
    """Describe the model."""
    head = None
    if model.state == "ready":
        try:
            head = snapshots.find(session, None, model, snapshots.DEFAULT).commit
        except BreadcrumbError:  # nothing can be pulled: a patch of it is quarantined, say
            head = None
    return {
        "type": "model",
        "name": model.full_name,
        "id": str(model.id),
        "private": model.visibility != "public",
        "owner": {"id": str(model.namespace_id)},
        "url": {"web": f"{root}/{model.full_name}", "api": f"{root}/api/v1/models/{model.full_name}"},
        "headSha": head,
        "head_sha": head,  # the Hub sends the first, its own library reads the second
    }


def patch_of(session: Session, model: Model, event: AuditEvent) -> PatchRevision | CardProposal | None:
    """Return the newest revision of the patch that an event is about, or the card that is proposed."""
    number = news.number_of(event)
    if number is None:
        return None
    try:
        return patches.find(session, model.full_name, number)
    except BreadcrumbError:
        return cards.seek(session, model, number)


def discussion(model: Model, event: AuditEvent, row: PatchRevision | CardProposal, root: str) -> dict[str, Any]:
    """Describe a patch or a proposal of a card, in the state after the event."""
    patch, kind = row.patch, "cards" if isinstance(row, CardProposal) else "patches"
    number, state = patch.number, (event.after or {}).get("state", patch.state)
    return {
        "id": str(patch.id),
        "num": number,
        "author": {"id": str(patch.author_id)},
        "url": {
            "web": f"{root}/{model.full_name}/patches/{number}",
            "api": f"{root}/api/v1/models/{model.full_name}/{kind}/{number}",
        },
        "title": row.title,
        "isPullRequest": True,
        "status": STATUS.get(state, "closed"),
        "changes": {"base": "refs/heads/main"},
        "pinned": False,
    }


def comment(session: Session, event: AuditEvent, url: dict[str, str]) -> dict[str, Any]:
    """Describe a comment on a patch, without its text if it is hidden by now."""
    about = (event.after or {}) | (event.before or {})
    row = session.get(Comment, uuid.UUID(about["comment"])) if "comment" in about else None
    hidden = row is not None and (row.hidden_at or row.deleted_at) is not None
    return {
        "id": str(row.id) if row else str(event.serial),
        "author": {"id": str(row.author_id if row else event.user_id)},
        "hidden": hidden,
        "content": "" if hidden else row.message if row else about.get("message", ""),
        "url": url,
    }


def updated_refs(session: Session, model: Model, event: AuditEvent) -> list[dict[str, str | None]]:
    """Return the refs that an event moved, each with its old and new commit id."""
    before, after = event.before or {}, event.after or {}
    name = event.subject.rpartition("@")[2]
    if event.action in ("channel.move", "channel.rollback"):
        old, new = (sha(session, model, state.get("release")) for state in (before, after))
        return [{"ref": f"refs/heads/{name}", "oldSha": old, "newSha": new}]
    if event.action == "release.publish":
        return [{"ref": f"refs/tags/{name}", "oldSha": None, "newSha": sha(session, model, name)}]
    if event.action in ("patch.push", "patch.revise"):
        number = event.subject.rpartition("#")[2]
        return [{"ref": f"refs/pr/{number}", "oldSha": before.get("sha256"), "newSha": after.get("sha256")}]
    return []


def sha(session: Session, model: Model, version: str | None) -> str | None:
    """Return the commit id of a published release."""
    return session.scalar(select(Release.commit).where(Release.model_id == model.id, Release.version == version))
