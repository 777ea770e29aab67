"""Channels: who may move them, rollbacks, and the rule that every move obeys."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from registry.db.tables import Channel, ChannelMove, ChannelVote
from tests.support.community import NAME, RELEASES, URL, Community

pytestmark = pytest.mark.heavy


@pytest.fixture
def crew(lived: Community) -> Community:
    return lived


def move(crew: Community, version: str, user: str = "mary", status: int = 200, channel: str = "stable") -> Any:
    return crew.put(user, f"/channels/{channel}", status, version=version, reason=f"to {version}")


def back(crew: Community, user: str = "mary", status: int = 200) -> Any:
    return crew.post(user, "/channels/stable/rollback", status, message="it forgets")


def protect(crew: Community, status: int = 200, user: str = "alice", **rule: Any) -> Any:
    return crew.put(user, "/channels/stable/protection", status, **rule)


def where(crew: Community, channel: str = "stable") -> str | None:
    return {row["name"]: row["release"] for row in crew.get("/channels")}.get(channel)


def test_a_channel_is_made_by_its_first_move_and_says_who_moved_it_when_and_why(crew: Community) -> None:
    began = datetime.now(UTC)
    made = move(crew, "1.0.0")
    assert (made["name"], made["release"], made["role"], made["approvals"]) == ("stable", "1.0.0", "maintainer", 1)
    move(crew, "1.2.0", "max")
    move(crew, "1.1.0", channel="beta")
    assert (where(crew), where(crew, "beta")) == ("1.2.0", "1.1.0")
    assert crew.get("/releases/1.2.0")["channels"] == ["stable"]
    history = crew.get("/channels/stable/history")
    words = ("number", "kind", "release", "user", "reason")
    assert [tuple(row[word] for word in words) for row in history] == [
        (1, "move", "1.0.0", "mary", "to 1.0.0"),
        (2, "move", "1.2.0", "max", "to 1.2.0"),
    ]
    times = [datetime.fromisoformat(row["created_at"]) for row in history]
    assert began <= times[0] <= times[1] <= datetime.now(UTC)
    (_, second, _) = crew.events("channel.move")
    assert (second.user_name, second.before, second.after) == (
        "max",
        {"release": "1.0.0"},
        {"release": "1.2.0", "reason": "to 1.2.0"},
    )
    assert crew.get("/revisions/stable")["ref"] == "1.2.0"


def test_moving_a_channel_to_its_own_release_changes_nothing(crew: Community) -> None:
    move(crew, "1.0.0")
    events = crew.count_events()
    move(crew, "1.0.0", "max")
    assert (len(crew.get("/channels/stable/history")), crew.count_events()) == (1, events)


def test_a_channel_points_only_at_published_releases(crew: Community) -> None:
    crew.cut("1.3.0", [1, 2, 3, 4])
    sentence = f"{NAME}@1.3.0 is candidate; a channel points at a published release."
    assert move(crew, "1.3.0", status=409)["detail"] == sentence
    crew.post("mary", "/releases/1.2.0/yank", message="it forgets")
    assert "1.2.0 is yanked" in move(crew, "1.2.0", status=409)["detail"]
    move(crew, "9.9.9", status=404)
    assert crew.get("/channels") == []
    move(crew, "1.1.0")
    crew.post("mary", "/releases/1.1.0/yank", message="so does this")
    assert where(crew) == "1.1.0", "a yank moves nobody's channel"
    assert crew.get("/revisions/stable")["warnings"] == [f"{NAME}@1.1.0 was yanked: so does this"]


def test_each_rollback_goes_further_back(crew: Community) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        move(crew, version)
    assert back(crew)["release"] == "1.1.0"
    assert back(crew)["release"] == "1.0.0"
    assert back(crew, status=409)["detail"] == (
        f"The channel {NAME}@stable has no earlier release to go back to; move it instead."
    )
    history = [(row["kind"], row["release"], row["reason"]) for row in crew.get("/channels/stable/history")]
    assert history[3:] == [("rollback", "1.1.0", "it forgets"), ("rollback", "1.0.0", "it forgets")]
    move(crew, "1.2.0")
    assert back(crew)["release"] == "1.0.0", "and not to what was rolled back from"
    assert len(crew.events("channel.rollback")) == 3
    crew.post("mary", "/channels/nightly/rollback", 404, message="")


def test_a_rollback_to_a_yanked_release_is_refused(crew: Community) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        move(crew, version)
    crew.post("mary", "/releases/1.1.0/yank", message="it forgets")
    assert "1.1.0 is yanked" in back(crew, status=409)["detail"]
    assert where(crew) == "1.2.0"
    crew.post("mary", "/patches/3/yank", message="so does this")
    move(crew, "1.0.0")
    assert "does not allow a release with yanked patches: Patch #3" in back(crew, status=409)["detail"]
    protect(crew, allow_yanked=True)
    assert back(crew)["release"] == "1.2.0"


def test_a_channel_for_owners_is_moved_by_owners_whatever_the_way(crew: Community) -> None:
    move(crew, "1.0.0")
    move(crew, "1.1.0")
    for user in ("mary", "rita", "bob", "carol"):
        protect(crew, 403, user, role="owner")
    ruled = protect(crew, role="owner")
    assert (ruled["role"], ruled["approvals"], ruled["allow_yanked"]) == ("owner", 1, False)
    sentence = f"The channel {NAME}@stable is protected; moving it needs an owner."
    assert move(crew, "1.2.0", "mary", 403)["detail"] == sentence
    assert back(crew, "mary", 403)["detail"] == sentence
    assert where(crew) == "1.1.0"
    assert move(crew, "1.2.0", "alice")["release"] == "1.2.0"
    assert back(crew, "alice")["release"] == "1.1.0"
    crew.role("mary", "owner")
    assert back(crew, "mary")["release"] == "1.0.0"
    (event,) = crew.events("channel.protect")
    assert (event.before and event.before["role"], event.after and event.after["role"]) == ("maintainer", "owner")


def test_nobody_below_a_maintainer_moves_any_channel(crew: Community) -> None:
    move(crew, "1.0.0")
    move(crew, "1.1.0")
    for user in ("rita", "bob", "carol"):
        move(crew, "1.2.0", user, 403)
        back(crew, user, 403)
    assert where(crew) == "1.1.0"


def test_where_two_must_ask_the_same_request_of_a_second_person_moves_it(crew: Community) -> None:
    move(crew, "1.0.0")
    protect(crew, approvals=2)
    asked = move(crew, "1.1.0")
    assert (asked["release"], asked["asked"]) == ("1.0.0", {"1.1.0": ["mary"]})
    events = crew.count_events()
    assert move(crew, "1.1.0")["release"] == "1.0.0", "the same person twice is one person"
    assert crew.count_events() == events
    assert move(crew, "1.2.0", "max")["asked"] == {"1.1.0": ["mary"], "1.2.0": ["max"]}
    changed = move(crew, "1.2.0")
    assert (changed["release"], changed["asked"]) == ("1.2.0", {}), "who asks for another has changed their mind"
    assert [row["user"] for row in crew.get("/channels/stable/history")] == ["mary", "mary"]
    assert [(event.user_name, event.after and event.after["asked"]) for event in crew.events("channel.ask")] == [
        ("mary", ["mary"]),
        ("max", ["max"]),
    ]


def test_a_rollback_needs_as_many_as_a_move_does(crew: Community) -> None:
    move(crew, "1.0.0")
    move(crew, "1.1.0")
    protect(crew, approvals=2)
    assert (back(crew)["release"], where(crew)) == ("1.1.0", "1.1.0")
    assert back(crew)["release"] == "1.1.0"
    assert back(crew, "max")["release"] == "1.0.0"
    kinds = [(row["kind"], row["user"]) for row in crew.get("/channels/stable/history")]
    assert kinds == [("move", "mary"), ("move", "mary"), ("rollback", "max")]


@pytest.mark.parametrize("lose", ["role", "membership", "account"])
def test_the_vote_of_a_user_who_lost_the_role_does_not_count(crew: Community, lose: str) -> None:
    move(crew, "1.0.0")
    protect(crew, approvals=2)
    move(crew, "1.1.0", "mary")
    if lose == "account":
        crew.disable("mary")
    else:
        crew.role("mary", "reviewer" if lose == "role" else None)
    assert move(crew, "1.1.0", "max")["release"] == "1.0.0"
    assert move(crew, "1.1.0", "alice")["release"] == "1.1.0"


def test_a_wish_counts_by_the_rule_that_holds_when_it_is_enough(crew: Community) -> None:
    move(crew, "1.0.0")
    protect(crew, approvals=2)
    move(crew, "1.1.0", "mary")
    protect(crew, role="owner")
    crew.role("max", "owner")
    assert move(crew, "1.1.0", "max")["release"] == "1.0.0", "mary may not move it any more"
    assert move(crew, "1.1.0", "alice")["release"] == "1.1.0"
    protect(crew, role="maintainer", approvals=3)
    for user in ("mary", "max"):
        assert move(crew, "1.2.0", user)["release"] == "1.1.0"
    assert move(crew, "1.2.0", "alice")["release"] == "1.2.0"
    with crew.world.database.read() as session:
        assert session.query(ChannelVote).count() == 0


def test_a_channel_can_be_protected_before_it_points_anywhere(crew: Community) -> None:
    protect(crew, role="owner", approvals=2)
    assert where(crew) is None
    assert crew.get("/revisions/stable", status=404)["detail"] == (
        f"The channel {NAME}@stable points at no release yet; move it to one first."
    )
    move(crew, "1.0.0", "mary", 403)
    assert move(crew, "1.0.0", "alice")["release"] is None
    for rule in ({"approvals": 0}, {"approvals": 11}, {"role": "reviewer"}, {"role": "admin"}):
        protect(crew, 422, **rule)
    assert protect(crew, approvals=1)["role"] == "owner", "what is not said stays as it is"
    events = crew.count_events()
    protect(crew, approvals=1)
    assert crew.count_events() == events


@pytest.mark.parametrize(
    "name",
    [
        *("main", "base", "latest", "head", "default", "master", "recipe", "release", "tag"),
        *("1", "1.2.0", "1-2-0", "v1.2.0", "-", "-a", "a-", "A", "Stable", "a b", "a_b", "a.b", "ü", "x" * 33),
        *("deadbeef", "abcdef0", "f" * 32, "recipe-deadbeef", "recipe-x"),
    ],
)
def test_a_name_that_could_be_something_else_is_refused(crew: Community, name: str) -> None:
    assert move(crew, "1.0.0", status=422, channel=name)["field"]
    crew.put("alice", f"/channels/{name}/protection", 422, approvals=1)
    assert crew.get("/channels") == []


def test_other_names_are_channels(crew: Community) -> None:
    names = ["a", "beta", "deadbee-x", "fed", "nightly", "rc-2", "x" * 32]
    for name in names:
        move(crew, "1.0.0", channel=name)
        assert crew.get(f"/revisions/{name}")["channel"] == name
    assert [row["name"] for row in crew.get("/channels")] == names
    assert crew.get("/releases/1.0.0")["channels"] == names


def test_where_a_channel_points_is_its_last_move(crew: Community) -> None:
    for version in (*RELEASES, "1.0.0", "1.2.0"):
        move(crew, version)
    back(crew)
    with crew.world.database.read() as session:
        row = session.scalars(select(Channel)).one()
        last = session.scalars(select(ChannelMove).order_by(ChannelMove.number.desc())).first()
        assert last is not None
        assert (row.release_id, last.number) == (last.release_id, 6)
    assert crew.world.client(None).get(f"{URL}/revisions/stable").json()["ref"] == "1.0.0"
