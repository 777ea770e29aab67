"""Which forms somebody is shown: by the table of rules and what they are; the API has the last word."""

from registry import schemas
from registry.services.curation import reviews
from registry.services.people.actors import Actor
from registry.services.people.rules import RULES, Role

VERBS = {
    "propose": "patch.propose",
    "withdraw": "patch.withdraw",
    "request_changes": "patch.review",
    "accept": "patch.accept",
    "reject": "patch.reject",
    "yank": "patch.yank",
    "unyank": "patch.yank",
}


def permitted(actor: Actor | None, model: schemas.Model, author: str | None = None) -> frozenset[str]:
    """Return what somebody may do to a model, or to a patch of it.

    Args:
        actor: Who; None for somebody who has not signed in.
        model: With the role that they have on it.
        author: Whose patch it is.

    Returns:
        Names of actions in RULES.
    """
    if actor is None or model.role is None:
        return frozenset()
    role, own = Role[model.role.upper()], author == actor.name
    return frozenset(
        action
        for action, rule in RULES.items()
        if rule.on in ("model", "patch") and rule.scope in actor.scopes and (role >= rule.role or (rule.author and own))
    )


def steps(actor: Actor | None, patch: schemas.Patch, may: frozenset[str]) -> frozenset[str]:
    """Return the steps that somebody may take with a patch from where it is; nobody reviews their own."""
    own = actor is not None and actor.name == patch.author
    return frozenset(
        verb
        for verb, action in VERBS.items()
        if action in may and patch.state in reviews.STEPS[verb][0] and not (own and verb == "request_changes")
    )
