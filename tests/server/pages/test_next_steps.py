"""What a patch says happens next, to each of those who look at it."""

from types import SimpleNamespace as Thing
from typing import Any

import pytest

from registry import schemas
from registry.server.pages.curation import next_steps

HOME = "/alice/tiny"


def step(
    user: str | None, *, steps: Any = (), may: Any = (), missing: Any = (), reviews: Any = (), **patch: Any
) -> Any:
    """Return the step that a page shows to somebody, of a patch of bob's."""
    given = {"number": 3, "revision": 1, "newest": 1, "state": "proposed", "check": "checked", "author": "bob"}
    shown = schemas.Patch.model_construct(**{**given, "quarantined": None, **patch})
    affected = schemas.Affected.model_construct(releases=patch.get("releases", []), channels=[])
    found = schemas.Discussion.model_construct(patch=shown, missing=missing, reviews=reviews, affected=affected)
    actor: Any = Thing(name=user) if user else None
    return next_steps.of_patch(actor, found, steps, may, HOME)


def test_a_reviewer_is_asked_until_they_have_said_something_about_this_revision() -> None:
    waiting = ["It has 0 of 1 approvals of revision 1."]
    asked = step("rita", steps={"request_changes"}, missing=waiting)
    assert asked.mine and asked.href == "#decide" and "Revision 1 waits for your review" in asked.sentence
    older = schemas.Review.model_construct(reviewer="rita", revision=1, counts=False)
    assert step("rita", steps={"request_changes"}, missing=waiting, reviews=[older]).mine
    said = schemas.Review.model_construct(reviewer="rita", revision=1, counts=True)
    told = step("rita", steps={"request_changes"}, missing=waiting, reviews=[said])
    assert not told.mine and told.sentence == "It waits: it has 0 of 1 approvals of revision 1."
    assert step(None, missing=waiting).sentence == told.sentence


def test_whoever_may_accept_is_told_once_nothing_is_missing() -> None:
    assert step("mary", steps={"accept", "request_changes"}).sentence.startswith("Nothing is missing. Accept it")
    assert not step("bob").mine and step("bob").sentence == "Nothing is missing; a maintainer accepts it."


@pytest.mark.parametrize(
    ("patch", "user", "steps", "may", "href"),
    [
        ({"state": "draft"}, "bob", {"propose"}, (), "#decide"),
        ({"state": "changes_requested"}, "bob", (), (), f"{HOME}/patches/3/revise"),
        ({"check": "refused"}, "bob", (), (), f"{HOME}/patches/3/revise"),
        ({"state": "accepted"}, "mary", (), {"release.cut"}, f"{HOME}/recipes/new?patch=3"),
    ],
)
def test_the_one_it_waits_for_gets_a_link_and_others_get_a_sentence(
    patch: dict[str, Any], user: str, steps: Any, may: Any, href: str
) -> None:
    mine, other = step(user, steps=steps, may=may, **patch), step("carol", **patch)
    assert mine.mine and mine.href == href and mine.label
    assert not other.mine and other.sentence and not other.href


def test_what_is_over_or_no_longer_the_newest_says_nothing() -> None:
    assert step("mary", state="rejected") is step("mary", state="yanked") is None
    assert step("rita", steps={"request_changes"}, newest=2) is None
    assert step("rita", steps={"request_changes"}, quarantined="It holds personal data.") is None
    assert step("mary", may={"release.cut"}, state="accepted", releases=["1.0.0"]) is None
