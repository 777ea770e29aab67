"""A patch alone: the base with one patch at alpha 1, and with the files that came with it in place of the base's."""

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.breadcrumbs.formats import recipe as recipes
from registry.breadcrumbs.formats.recipe import ALONE
from registry.db.tables import Model, Patch, PatchRevision, Recipe
from registry.documents.commits import commit_id
from registry.services.catalog import beside, patches
from registry.services.people.access import AnyModel


def recipe_of(revision: PatchRevision) -> recipes.Recipe:
    """Return the recipe of a patch alone."""
    return recipes.make_recipe(revision.base_digest, ALONE, [recipes.Item(revision.sha256)])


def name(session: Session, model: Model, recipe: Recipe, files: Mapping[str, str]) -> None:
    """Give a commit id to a patch that was composed alone, to these files, if others came with it."""
    known = patches.by_digest(session, model, [item.sha256 for item in recipe.items]) if len(recipe.items) == 1 else {}
    for revision in known.values():
        own = {file.path: file.sha256 for file in beside.files_of(session, revision)}
        if own and recipe_of(revision).digest == recipe.digest:
            revision.commit = commit_id({**files, **own})
    session.flush()


def by_commit(session: Session, model: AnyModel, commit: str) -> PatchRevision | None:
    """Return the patch whose commit id, alone and with its files, starts with these digits; None if there is none."""
    named = PatchRevision.commit.is_not(None), PatchRevision.commit.startswith(commit)
    query = select(PatchRevision).join(Patch, Patch.id == PatchRevision.patch_id)
    found: PatchRevision | None = session.scalar(
        query.where(*named, Patch.model_id == model.id).order_by(PatchRevision.commit).limit(1)
    )
    return found
