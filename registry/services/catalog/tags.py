"""Tags: words by which models are found, as on the Hub, from a model's card, config and licence."""

import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.db.tables import Model, ModelTag
from registry.documents.front_matter import read_front_matter, words

TAG = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,100}")
MOST_TAGS = 200  # of a model


def of_card(card: dict[str, Any], license: str | None, model_type: str | None = None) -> list[str]:
    """Return the tags for a card's front matter and a licence, in the order of the Hub.

    Args:
        card: The front matter.
        license: The model's licence; what the card says of it is ignored.
        model_type: The model type in config.json, for a model of transformers.
    """
    library = words(card.get("library_name")) or (["transformers"] if model_type else [])
    names = [
        *library,
        "safetensors",
        *([model_type] if model_type else []),
        *words(card.get("pipeline_tag")),
        *words(card.get("language")),
        *words(card.get("tags")),
        *(f"dataset:{name}" for name in words(card.get("datasets"))),
        *(f"base_model:{name}" for name in words(card.get("base_model"))),
        *([f"license:{license}"] if license else []),
    ]
    return [tag for tag in dict.fromkeys(names) if TAG.fullmatch(tag)][:MOST_TAGS]


def write(session: Session, model: Model, model_type: object) -> None:
    """Add the tags of a model whose base was read."""
    known = model_type if isinstance(model_type, str) else None
    session.add_all(
        ModelTag(model_id=model.id, tag=tag)
        for tag in of_card(read_front_matter(model.card or ""), model.license, known)
    )


def rewrite(session: Session, model: Model, model_type: object) -> None:
    """Replace the tags of a model whose card has changed."""
    session.execute(delete(ModelTag).where(ModelTag.model_id == model.id))
    write(session, model, model_type)


def relicense(session: Session, model: Model) -> None:
    """Replace the licence tag of a model by that of its present licence."""
    session.execute(delete(ModelTag).where(ModelTag.model_id == model.id, ModelTag.tag.startswith("license:")))
    if model.license and model.state == "ready":
        session.add(ModelTag(model_id=model.id, tag=f"license:{model.license}"))


def of_models(session: Session, models: Iterable[Model]) -> dict[Any, list[str]]:
    """Return the tags of models by the models' ids."""
    by_model: dict[Any, list[str]] = {model.id: [] for model in models}
    query = select(ModelTag.model_id, ModelTag.tag).where(ModelTag.model_id.in_(by_model)).order_by(ModelTag.tag)
    for model_id, tag in session.execute(query):
        by_model[model_id].append(tag)
    return by_model
