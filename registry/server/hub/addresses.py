"""Addresses: the page of ours for a revision, as the Hub's own pages name it."""

from urllib.parse import quote

from sqlalchemy.orm import Session

from registry.services.curation import cards
from registry.services.hub import pushes, repositories
from registry.services.people.actors import Actor


def page_of(session: Session, actor: Actor | None, name: str, rev: str) -> str:
    """Return the path of the page of a revision: the model's for `main` and the base, else a patch's, release's, ....

    Raises:
        RevisionNotFound: The model has no such revision, or it has not been composed.
        Forbidden: The revision holds a quarantined patch, and the caller is not an admin.
    """
    ref, home = repositories.short_ref(rev), f"/{name}"
    if (pull := repositories.PULL.fullmatch(ref)) is not None:
        return f"{home}/patches/{pull[1]}"
    if ref == "main":
        return home
    model = repositories.ready(session, name)
    number = pushes.by_commit(session, model, ref)
    if number is not None or (number := cards.by_commit(session, model, ref)) is not None:
        return f"{home}/patches/{number}"
    found = repositories.find(session, actor, model, rev)
    if found.channel == ref:
        return f"{home}/channels/{ref}"
    if found.release_id is not None:
        return f"{home}/releases/{quote(found.ref, safe='')}"
    return f"{home}/recipes/{found.recipe_digest}" if found.recipe_digest else home
