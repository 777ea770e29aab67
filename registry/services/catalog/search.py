"""Search: models by a part of their full name, found through an index of trigrams.

Names are lower case and never change, so a model's trigrams are written once. Words of one or two letters have none,
and are looked for in every name.
"""

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from registry.db.tables import Model, ModelTrigram, Namespace

LENGTH = 3
MOST_ASKED = 3  # trigrams of one word


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
