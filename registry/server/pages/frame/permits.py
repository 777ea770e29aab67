"""Permits: which forms a page shows to somebody, by the table of rules and their role; the API checks again."""

from registry import schemas
from registry.server.views import reviews as review_views
from registry.services.people.actors import Actor
from registry.services.people.rules import RULES, Role, may_be_mirrored

VERBS = {
    "revise": "patch.revise",
    "propose": "patch.propose",
    "withdraw": "patch.withdraw",
    "request_changes": "patch.review",
    "accept": "patch.accept",
    "reject": "patch.reject",
    "yank": "patch.yank",
    "unyank": "patch.yank",
}


def permitted(actor: Actor | None, model: schemas.Model, author: str | None = None) -> frozenset[str]:
    """Return the actions in RULES that somebody may do on a model, or on a patch of it.

    Args:
        actor: The visitor; None for somebody who has not signed in.
        model: The model, with the visitor's role on it.
        author: The author of the patch.
    """
    if actor is None or model.role is None:
        return frozenset()
    own, mirrored = author == actor.name, model.primary is not None
    role = Role.ADMIN if mirrored and actor.admin else Role[model.role.upper()]
    return frozenset(
        action
        for action, rule in RULES.items()
        if rule.on in ("model", "patch") and rule.scope in actor.scopes and (role >= rule.role or (rule.author and own))
        if not mirrored or may_be_mirrored(action, admin=actor.admin)
    )


def steps(actor: Actor | None, patch: schemas.Patch, may: frozenset[str]) -> frozenset[str]:
    """Return the steps that somebody may take with a patch in its state; nobody reviews their own patch."""
    own = actor is not None and actor.name == patch.author
    return frozenset(
        verb
        for verb, action in VERBS.items()
        if action in may and review_views.can_take(patch.state, verb) and not (own and verb == "request_changes")
    )
