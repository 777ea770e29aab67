"""Next steps: what a visitor, or whoever it waits for, does next with a patch, in one sentence at its head."""

from collections.abc import Collection
from dataclasses import dataclass

from registry import schemas
from registry.server.views import reviews as review_views
from registry.services.people.actors import Actor


@dataclass(frozen=True)
class Step:
    """A sentence, and the link to where the visitor does it; `mine` if it waits for the visitor."""

    sentence: str
    mine: bool = False
    label: str = ""
    href: str = ""


def of_patch(
    actor: Actor | None, found: schemas.Discussion, steps: Collection[str], may: Collection[str], home: str
) -> Step | None:
    """Return what happens next with a patch; None if that is over.

    Args:
        actor: The visitor.
        found: The patch at its newest revision, with what was said about it.
        steps: What the visitor may do with it in its state.
        may: The actions that the visitor may do.
        home: The address of the model.
    """
    patch = found.patch
    own = actor is not None and actor.name == patch.author
    if patch.revision != patch.newest or patch.quarantined:
        return None
    if patch.check == "checking":
        return Step("The registry checks this file; then it can be reviewed.")
    if patch.check == "refused" and review_views.can_take(patch.state, "revise"):
        return revise(own, home, patch.number, "The registry refused this revision.")
    if patch.state == "draft":
        return (
            Step("It is a draft. Propose it, and reviewers are asked to look at it.", True, "Propose it", "#decide")
            if "propose" in steps
            else Step(f"It is a draft; {patch.author} proposes it when it is ready.")
        )
    if patch.state == "changes_requested":
        return revise(own, home, patch.number, "A reviewer asked for changes.")
    if patch.state == "proposed":
        return of_proposal(actor, found, steps)
    if patch.state == "accepted" and not found.affected.releases:
        if "release.cut" in may:
            editor = f"{home}/recipes/new?patch={patch.number}"
            return Step("It is accepted, and in no release yet. Compose it with others.", True, "Compose", editor)
        return Step("It is accepted; a maintainer may put it into a release.")
    return None


def of_proposal(actor: Actor | None, found: schemas.Discussion, steps: Collection[str]) -> Step:
    """Return what happens next with a proposed patch: a review, what is missing, or its acceptance."""
    patch = found.patch
    said = any(
        review.counts and actor is not None and review.reviewer == actor.name and review.revision == patch.revision
        for review in found.reviews
    )
    if not found.missing and "accept" in steps:
        return Step("Nothing is missing. Accept it, or say why not.", True, "Decide", "#decide")
    if "request_changes" in steps and not said:
        sentence = f"Revision {patch.revision} waits for your review: see what it changes, try it, then decide."
        return Step(sentence, True, "Review", "#decide")
    if not found.missing:
        return Step("Nothing is missing; a maintainer accepts it.")
    return Step(f"It waits: {found.missing[0][:1].lower()}{found.missing[0][1:]}")


def revise(own: bool, home: str, number: int, sentence: str) -> Step:
    """Return the step of a patch that needs another revision."""
    if own:
        return Step(f"{sentence} Send another one.", True, "Send a revision", f"{home}/patches/{number}/revise")
    return Step(f"{sentence} Its author sends another one.")
