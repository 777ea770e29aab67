"""Search: models by parts of their full name, found through an index of trigrams; and by owner, tags and size.

Names are lower case and never change, so a model's trigrams are written once. Words of one or two letters have none,
and are looked for in every name.
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session, aliased

from registry.db.tables import Model, ModelTag, ModelTrigram, Namespace
from registry.services.people import access

LENGTH = 3
MOST_ASKED = 3  # trigrams of one word
GREATEST = 2**62  # weights of a model
MOST_WORDS = 8  # of a search; further ones are ignored


@dataclass(frozen=True)
class Filters:
    """Which models are wanted: all that meet every condition.

    Args:
        words: What their full names contain.
        author: The namespace that they are in.
        tags: The tags that they have.
        smallest: The least number of weights.
        largest: The greatest.
    """

    words: str | None = None
    author: str | None = None
    tags: tuple[str, ...] = ()
    smallest: int | None = None
    largest: int | None = None


def conditions(wanted: Filters) -> list[ColumnElement[bool]]:
    """Return the conditions of filters, in a query that joins Namespace if there are words."""
    found = [containing(word) for word in (wanted.words or "").split()[:MOST_WORDS]]
    if wanted.author:
        found.append(access.in_namespace(wanted.author))
    found += [Model.id.in_(select(ModelTag.model_id).where(ModelTag.tag == tag)) for tag in wanted.tags]
    if wanted.smallest is not None or wanted.largest is not None:
        sized = aliased(Model)  # by its index, as tags are; in place, SQLite would walk all models in their order
        largest = GREATEST if wanted.largest is None else wanted.largest
        found.append(Model.id.in_(select(sized.id).where(sized.parameters.between(wanted.smallest or 0, largest))))
    return found


def write(session: Session, model: Model) -> None:
    """Add the trigrams of a new model."""
    session.add_all(ModelTrigram(trigram=trigram, model_id=model.id) for trigram in set(trigrams(model.full_name)))


def trigrams(word: str) -> list[str]:
    """Return every three letters in a row."""
    return [word[start : start + LENGTH] for start in range(len(word) - LENGTH + 1)]


def containing(word: str) -> ColumnElement[bool]:
    """Return the condition for models whose full name contains a word, in a query that joins Namespace."""
    word = word.lower()
    parts = trigrams(word)
    asked = {parts[place * (len(parts) - 1) // (MOST_ASKED - 1)] for place in range(MOST_ASKED)} if parts else set()
    holding = [
        Model.id.in_(select(ModelTrigram.model_id).where(ModelTrigram.trigram == trigram)) for trigram in sorted(asked)
    ]
    return and_((Namespace.name + "/" + Model.name).contains(word, autoescape=True), *holding)
