"""Cards: proposals of another card of a model, which its maintainers accept or reject.

    propose ──> proposed ── accept ──> accepted: from now on it is the model's card
                  │  └───── reject ──> rejected
                  └─────── withdraw ──> withdrawn

A proposal has its number among the patches, as at the Hub, and no revision, so no recipe can hold it. A maintainer's
change at once is a proposal that is accepted as it is made. What was released stays as it is: the README.md of the base
and of releases never changes, and the next release takes over what the card's front matter says.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, contains_eager, defer, joinedload

from registry.db.tables import CardProposal, Model, Patch, now
from registry.documents.commits import commit_id
from registry.documents.front_matter import card_license
from registry.errors import InvalidRequest, NotFound, WrongState
from registry.files.beside import CARD, CARD_BYTES
from registry.services.catalog import models
from registry.services.curation import reviews, text_diffs
from registry.services.people import paging
from registry.services.people.actors import Actor, record
from registry.storage.store import Store

MOST = 20  # of a page: each text is read whole for its digest and licence


@dataclass(frozen=True)
class NewCard:
    """A text for the card of a model, with a title and a description of the change."""

    card: str
    title: str
    message: str = ""


def decode(raw: bytes | None) -> str:
    """Return the text of a README.md; None are too many bytes.

    Raises:
        InvalidRequest: It is too long, or is not text in UTF-8 that a database takes.
    """
    if raw is None or len(raw) > CARD_BYTES:
        raise InvalidRequest(f"A card has at most {CARD_BYTES} bytes.", field=CARD)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidRequest("A card is text in UTF-8, without NUL.", field=CARD)
    return text


def propose(session: Session, actor: Actor, full_name: str, new: NewCard) -> CardProposal:
    """Propose another card of a model, under the next number of its patches.

    Raises:
        NotFound, WrongState: The model does not exist, or has no base yet.
        InvalidRequest: It is the model's card already.
    """
    model = models.ready(session, full_name, lock=True)
    require_change(model, new)
    model.patch_count += 1
    patch = Patch(model_id=model.id, number=model.patch_count, author_id=actor.user_id, state="proposed", revision=0)
    session.add(patch)
    session.flush()
    session.refresh(patch, ["author"])
    row = CardProposal(patch_id=patch.id, patch=patch, **texts(new))
    session.add(row)
    session.flush()
    record(session, actor, "card.propose", f"{full_name}#{patch.number}", model, after=logged(row))
    return row


def revise(session: Session, actor: Actor, full_name: str, number: int, new: NewCard) -> CardProposal:
    """Give the author's proposal another text. Does nothing if it has that already.

    Raises:
        NotFound: No such proposal exists.
        WrongState: It was decided on.
        InvalidRequest: It is the model's card already.
    """
    model, row = locked(session, full_name, number)
    require_open(row, f"{full_name}#{number}")
    if all(getattr(row, name) == value for name, value in texts(new).items()):
        return row
    require_change(model, new)
    before = logged(row)
    for name, value in texts(new).items():
        setattr(row, name, value)
    row.created_at = now()
    session.flush()
    record(session, actor, "card.revise", f"{full_name}#{number}", model, before=before, after=logged(row))
    return row


def accept(
    session: Session,
    actor: Actor,
    store: Store,
    full_name: str,
    number: int,
    message: str = "",
    seen: str | None = None,
) -> CardProposal:
    """Make a proposal the card of its model.

    Args:
        session: A writing transaction.
        actor: The maintainer.
        store: Has the config of the base, which says with the card by which tags the model is found.
        full_name: `namespace/name`.
        number: The proposal's number.
        message: Why.
        seen: sha256 of the text that the maintainer looked at.

    Raises:
        NotFound: No such proposal exists.
        WrongState: It was decided on, or has another text by now.
    """
    model, row = locked(session, full_name, number)
    subject = f"{full_name}#{number}"
    if seen is not None and seen != digest(row.card):
        raise WrongState(f"{subject} has another text by now; look at it again.")
    decide(row, "accept", subject, model, message)
    models.change_card(session, store, model, row.card)
    after = {"state": row.patch.state, **logged(row), "message": message}
    record(session, actor, "card.accept", subject, model, before={"state": "proposed"}, after=after)
    return row


def close(session: Session, actor: Actor, full_name: str, number: int, verb: str, message: str) -> CardProposal:
    """Reject or withdraw a proposal.

    Raises:
        NotFound: No such proposal exists.
        WrongState: It was decided on.
    """
    model, row = locked(session, full_name, number)
    subject = f"{full_name}#{number}"
    decide(row, verb, subject, model, message)
    session.flush()
    action = "card.reject" if verb == "reject" else "card.withdraw"
    after = {"state": row.patch.state, "reason": message} if message else {"state": row.patch.state}
    record(session, actor, action, subject, model, before={"state": "proposed"}, after=after)
    return row


def decide(row: CardProposal, verb: str, subject: str, model: Model, message: str) -> None:
    """Take a step that ends a proposal; one that is accepted keeps the card in whose place it comes."""
    reviews.step(row.patch, verb, subject)
    row.patch.reason = message or None
    if verb == "accept":
        row.before = model.card or ""


def locked(session: Session, full_name: str, number: int) -> tuple[Model, CardProposal]:
    """Return a model and a proposal of its card, both locked."""
    model = models.ready(session, full_name, lock=True)
    return model, find(session, model, number)


def find(session: Session, model: Model, number: int) -> CardProposal:
    """Return a proposal, with its patch and author.

    Raises:
        NotFound: No such proposal exists.
    """
    row = seek(session, model, number)
    if row is None:
        raise NotFound(f"No card of {model.full_name} is proposed as #{number}; see `crumb card list`.")
    return row


def seek(session: Session, model: Model, number: int) -> CardProposal | None:
    """Return a proposal, with its patch and author; None if the number is that of something else, or of nothing."""
    row: CardProposal | None = session.scalar(
        proposals(model, Patch.number == number).execution_options(populate_existing=True)
    )
    return row


def by_commit(session: Session, model: Model, commit: str) -> int | None:
    """Return the number of the newest proposal whose text has a name at the Hub; None if there is none."""
    query = proposals(model, CardProposal.commit == commit).order_by(Patch.number.desc()).limit(1)
    row: CardProposal | None = session.scalar(query)
    return row.patch.number if row else None


def listing(
    session: Session, model: Model, state: str | None, before: int | None, limit: int
) -> tuple[list[CardProposal], int | None]:
    """Return a page of the proposals of a model's card, newest first, and the cursor of the next page."""
    limit = min(limit, MOST)
    wanted = [] if state is None else [Patch.state == state]
    query = proposals(model, *wanted).order_by(Patch.number.desc()).limit(limit + 1)
    query = query.options(defer(CardProposal.before))
    rows = session.scalars(query if before is None else query.where(Patch.number < before)).all()
    return paging.cut(rows, limit, lambda row: row.patch.number)


def proposals(model: Model, *conditions: ColumnElement[bool]) -> Any:
    """Return a query for proposals of a model's card, each with its patch and author."""
    joined = select(CardProposal).join(Patch, Patch.id == CardProposal.patch_id)
    return joined.where(Patch.model_id == model.id, *conditions).options(
        contains_eager(CardProposal.patch).options(joinedload(Patch.author))
    )


def is_card() -> ColumnElement[bool]:
    """Return the condition for patches that propose a card."""
    return select(CardProposal.patch_id).where(CardProposal.patch_id == Patch.id).exists()


def require_change(model: Model, new: NewCard) -> None:
    """Refuse a text that is the model's card already."""
    if new.card == (model.card or ""):
        raise InvalidRequest(f"This is the card of {model.full_name} already.", field="card")


def require_open(row: CardProposal, subject: str) -> None:
    """Refuse to change a proposal that was decided on."""
    if row.patch.state != "proposed":
        raise WrongState(f"{subject} is {row.patch.state}; propose another card.")


def texts(new: NewCard) -> dict[str, str]:
    """Return the columns that a text gives a proposal."""
    return {"card": new.card, "title": new.title, "message": new.message, "commit": commit_of(new.card)}


def commit_of(card: str) -> str:
    """Return the commit id of a card alone."""
    return commit_id({CARD: digest(card)})


def logged(row: CardProposal) -> dict[str, Any]:
    """Return what the audit log says of a proposal."""
    return {"title": row.title, "sha256": digest(row.card)}


def digest(card: str) -> str:
    """Return the sha256 of a text."""
    return hashlib.sha256(card.encode()).hexdigest()


def diff(model: Model, row: CardProposal) -> str:
    """Return how a proposal differs from the model's card, or from what that was when it was accepted."""
    before = model.card if row.before is None else row.before
    return text_diffs.unified(before or "", row.card)


def other_license(model: Model, row: CardProposal) -> str | None:
    """Return the licence that a proposal names if the model has another one, which a card does not change."""
    named = card_license(row.card)
    return named if model.license and named != model.license else None
