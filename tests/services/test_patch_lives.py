"""The lives of patches: steps in any order, compared with a small model."""

from typing import Any

import pytest
from hypothesis import strategies
from hypothesis.stateful import rule, run_state_machine_as_test
from sqlalchemy import select

from registry.db.tables import (
    Model,
    Patch,
    PatchRevision,
    Review,
)
from registry.errors import BreadcrumbError, Forbidden, InvalidRecipe, InvalidRequest, WrongState
from registry.services.catalog import models, patches, revisions
from registry.services.composing import mixes
from registry.services.composing.mixes import Ingredient, Mix
from registry.services.curation import reviews
from registry.services.people.actors import Actor
from tests.support.lives import ENDS, LENGTH, PEOPLE, STARTS, Lives, people, smallest, whoever
from tests.support.world import World


class PatchLives(Lives):
    """Patches of four users, who review, decide and change their minds."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.needed = 1
        self.patches: dict[int, dict[str, Any]] = {}
        for user, role in (("ann", "maintainer"), ("ben", "reviewer"), ("cat", "reviewer")):
            self.grant(user, role)
        self.push("ann")
        self.push("dan")

    def pick(self, number: int) -> int:
        """Choose one of the patches."""
        return 1 + number % len(self.patches)

    def check(self) -> None:
        """Compare the rows with the model, and the verdicts that count with those that may."""
        with self.world.database.read() as session:
            model = session.get_one(Model, self.model_id)
            for row in session.scalars(select(Patch).where(Patch.model_id == self.model_id)):
                told = self.patches[row.number]
                assert (row.state, row.revision) == (told["state"], told["revision"])
                assert (row.superseded_by, row.quarantined_at is not None) == (told["superseded"], told["quarantined"])
                assert (row.reason is not None) == (row.state in ("withdrawn", "rejected", "yanked"))
                verdicts = session.query(Review).join(PatchRevision).filter(PatchRevision.patch_id == row.id)
                assert verdicts.count() == told["said"]
                revision = patches.find(session, model.full_name, row.number)
                approvers = reviews.approvers(session, model, revision)
                assert approvers == sorted(self.approving(row.number))
                assert told["author"] not in approvers

    def approving(self, number: int) -> set[str]:
        told = self.patches[number]
        verdicts = told["verdicts"].get(told["revision"], {})
        return {user for user, verdict in verdicts.items() if verdict == "approve" and self.may(user, "reviewer")}

    @rule(user=people)
    def push(self, user: str) -> None:
        with self.world.database.write() as session:
            number = self.add_patch(session, user)
        self.patches[number] = {
            "author": user,
            "state": "draft",
            "revision": 1,
            "superseded": None,
            "quarantined": False,
            "verdicts": {},
            "said": 0,
        }

    def who(self, user: str, author: str) -> str:
        """Choose a user: most often one who is allowed."""
        if user == "maintainer":
            return next((one for one in PEOPLE if self.may(one, "maintainer")), "ann")
        return author if user == "author" else user

    @rule(number=smallest, user=whoever, verb=strategies.sampled_from(sorted(STARTS)))
    def step(self, number: int, user: str, verb: str) -> None:
        number = self.pick(number)
        told = self.patches[number]
        user = self.who(user, told["author"])
        author = told["author"] == user
        allowed = {
            "propose": author,
            "withdraw": author,
            "reject": self.may(user, "maintainer"),
            "yank": author or self.may(user, "maintainer"),
            "unyank": author or self.may(user, "maintainer"),
        }[verb]
        expected = None if told["state"] in STARTS[verb] else WrongState
        self.attempt(
            expected if allowed else Forbidden,
            user,
            f"patch.{'yank' if verb == 'unyank' else verb}",
            lambda session, actor: reviews.move(session, actor, self.name, number, verb, "because"),
            number,
        )
        if allowed and expected is None:
            told["state"] = ENDS[verb]
        self.check()

    @rule(number=smallest)
    def ask(self, number: int) -> None:
        """Have a patch proposed, and approved by everybody who may, so that it can be decided."""
        self.step(number, "author", "propose")
        for user in PEOPLE:
            self.review(number, user, 0, "approve")

    @rule(
        number=smallest,
        change=strategies.sampled_from((None, None, None, "demote", "revise")),
        then=strategies.sampled_from((None, "yank", "yank", "revise")),
    )
    def decide(self, number: int, change: str | None, then: str | None) -> None:
        """Go the whole way to a decision, while something may change before and after it."""
        self.ask(number)
        if change == "demote":
            self.grant("ben", None)
            self.grant("cat", "contributor")
        elif change == "revise":
            self.revise(number, "author")
        self.accept(number, "maintainer", 0, [])
        if then == "yank":
            self.step(number, "author", "yank")
            self.step(number, "author", "unyank")
        elif then == "revise":
            self.revise(number, "author")

    @rule(number=smallest, user=whoever)
    def revise(self, number: int, user: str) -> None:
        number = self.pick(number)
        told = self.patches[number]
        user = self.who(user, told["author"])
        with self.world.database.write() as session:
            sha256 = self.add_blob(session, user)

        def do(session: Any, actor: Actor) -> None:
            row, _ = revisions.revise(session, actor, self.name, number, revisions.Contribution(sha256, "t", ""))
            row.state = "checked"

        expected: type[BreadcrumbError] | None = None
        if told["state"] not in ("draft", "proposed", "changes_requested"):
            expected = WrongState
        if told["author"] != user:
            expected = Forbidden
        self.attempt(expected, user, "patch.revise", do, number)
        if expected is None:
            told["revision"] += 1
        self.check()

    @rule(
        number=smallest,
        user=people,
        late=strategies.sampled_from((0, 0, 0, 1, -1)),
        verdict=strategies.sampled_from(("approve", "approve", "approve", "request_changes")),
    )
    def review(self, number: int, user: str, late: int, verdict: str) -> None:
        number = self.pick(number)
        told = self.patches[number]
        seen = told["revision"] - late
        expected: type[BreadcrumbError] | None = None
        if not self.may(user, "reviewer") or told["author"] == user:
            expected = Forbidden
        elif late or told["state"] != "proposed":
            expected = WrongState
        self.attempt(
            expected,
            user,
            "patch.review",
            lambda session, actor: reviews.review(session, actor, self.name, number, seen, verdict, ""),
            number,
        )
        if expected is None:
            told["verdicts"].setdefault(told["revision"], {})[user] = verdict
            told["said"] += 1
            if verdict == "request_changes":
                told["state"] = "changes_requested"
        self.check()

    @rule(
        number=smallest,
        user=whoever,
        late=strategies.sampled_from((None, None, 0, 0, 0, 1)),
        older=strategies.lists(smallest, max_size=1),
    )
    def accept(self, number: int, user: str, late: int | None, older: list[int]) -> None:
        number, older = self.pick(number), [self.pick(one) for one in older]
        told = self.patches[number]
        user = self.who(user, told["author"])
        seen = None if late is None else told["revision"] - late
        expected: type[BreadcrumbError] | None = None
        lacking = len(self.approving(number)) < self.needed or told["quarantined"]
        if not self.may(user, "maintainer"):
            expected = Forbidden
        elif late or told["state"] != "proposed" or lacking:
            expected = WrongState
        elif number in older:
            expected = InvalidRequest
        elif any(self.patches[one]["state"] != "accepted" for one in older):
            expected = WrongState
        self.attempt(
            expected,
            user,
            "patch.accept",
            lambda session, actor: reviews.accept(session, actor, self.name, number, "", seen, older),
            number,
        )
        if expected is None:
            told["state"] = "accepted"
            for one in older:
                self.patches[one] |= {"state": "superseded", "superseded": number}
        self.check()

    @rule(needed=strategies.integers(0, 2))
    def need(self, needed: int) -> None:
        with self.world.database.write() as session:
            models.update(session, self.actors["owner"], self.name, {"min_approvals": needed})
        self.needed = needed

    @rule(number=smallest, user=strategies.sampled_from((*PEOPLE, "chief", "chief")), on=strategies.booleans())
    def quarantine(self, number: int, user: str, on: bool) -> None:
        number = self.pick(number)
        told = self.patches[number]
        reason = "odd" if on else None
        self.attempt(
            None if user == "chief" else Forbidden,
            user,
            "patch.quarantine",
            lambda session, actor: reviews.quarantine(session, actor, self.name, number, reason),
            number,
        )
        if user == "chief":
            told["quarantined"] = on
        self.check()

    @rule(number=smallest)
    def compose(self, number: int) -> None:
        """Whether a patch can be composed depends only on its state and quarantine."""
        number = self.pick(number)
        told = self.patches[number]
        with self.world.database.read() as session:
            model = session.get_one(Model, self.model_id)
            items = [Ingredient(number)]
            for allow in (False, True):
                refused = told["quarantined"] or (told["state"] == "yanked" and not allow)
                try:
                    mixes.choose(session, model, Mix(items, allow_yanked=allow))
                    assert not refused
                except InvalidRecipe:
                    assert refused


@pytest.mark.slow
def test_a_patch_lives_as_the_rules_say_whatever_people_try(quick: World) -> None:
    run_state_machine_as_test(lambda: PatchLives(quick), settings=LENGTH)
