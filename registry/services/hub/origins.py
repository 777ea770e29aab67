"""Origins: what a pushed model was tuned from, where that is no base but something composed of it, such as a release.

tuned - release, for the base       adds to the release what was learned on top of it
tuned - base                        would hold the changes of the release as well, which a recipe then adds twice
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from registry.db.tables import Model
from registry.errors import InvalidRequest, NotFound
from registry.services.catalog import models
from registry.services.composing import compositions
from registry.services.hub import repositories
from registry.services.hub.pushes import PushedCommit
from registry.services.people.actors import Actor

OPTION = "tuned_from"
GONE = "The weights that it was tuned from are not on disk any more; have them composed again, and push again."


def resolve(session: Session, actor: Actor, model: Model, commit: PushedCommit) -> PushedCommit:
    """Return a commit whose origin, if its description names one, is a composed recipe's digest, or None: the base.

    Raises:
        InvalidRequest: The model has nothing by that name, or it is not composed.
        Forbidden: It holds a quarantined patch, and the caller is not an admin.
    """
    if OPTION not in commit.options:
        return commit
    try:
        snapshot = repositories.find(session, actor, model, commit.options[OPTION])
    except NotFound as why:
        raise InvalidRequest(f"The line 'Tuned-From:' names nothing to compare with: {why.message}") from None
    digest = snapshot.recipe_digest
    composition = compositions.composition_of(session, model, digest) if digest else None
    if composition is not None and not composition.held:
        raise InvalidRequest(
            f"The weights of {commit.options[OPTION]}, which the line 'Tuned-From:' names, are not on disk at present; "
            "a maintainer can have the release pinned."
        )
    return replace(commit, options={**commit.options, OPTION: digest})


def files_of(session: Session, model: Model, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the sha256 by path of the files of what a push was tuned from: the base, unless its options name a recipe.

    Returns:
        Nothing if the composition was deleted or let go of meanwhile.
    """
    digest = options.get(OPTION)
    if digest is None:
        return {file.path: file.sha256 for file in models.base_files(session, model)}
    composition = compositions.composition_of(session, model, digest)
    return {file.path: file.sha256 for file in composition.files} if composition and composition.held else {}
