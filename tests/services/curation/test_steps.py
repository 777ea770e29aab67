"""The steps of a patch: where each leads, and who may take it."""

from typing import Any

import pytest

from tests.support.community import NAME, URL, Community
from tests.support.reviewing import accept, approve, propose

pytestmark = pytest.mark.heavy


# verb -> where it starts, where it ends, who may take it, what they send
STEPS: dict[str, tuple[set[str], str, str, dict[str, Any]]] = {
    "propose": ({"draft", "changes_requested"}, "proposed", "bob", {}),
    "withdraw": ({"draft", "proposed", "changes_requested"}, "withdrawn", "bob", {"message": "no use"}),
    "approve": ({"proposed"}, "proposed", "rita", {"verdict": "approve", "revision": 1}),
    "request changes": ({"proposed"}, "changes_requested", "rita", {"verdict": "request_changes", "revision": 1}),
    "accept": ({"proposed"}, "accepted", "mary", {"message": "good"}),
    "reject": ({"proposed", "changes_requested"}, "rejected", "mary", {"message": "no use"}),
    "yank": ({"accepted"}, "yanked", "mary", {"message": "no use"}),
    "unyank": ({"yanked"}, "accepted", "mary", {"message": "it was not so"}),
}
STATES = ("draft", "proposed", "changes_requested", "accepted", "rejected", "withdrawn", "superseded", "yanked")


@pytest.mark.parametrize("verb", STEPS)
def test_a_step_leads_where_the_table_says_and_from_elsewhere_nowhere(crew: Community, verb: str) -> None:
    starts, end, user, body = STEPS[verb]
    path = f"/patches/1/{'reviews' if 'verdict' in body else verb}"
    crew.rules(min_approvals=0)
    for state in STATES:
        crew.set(1, state=state, reason="before")
        before = crew.count_events()
        if state in starts:
            answer = crew.post(user, path, 201 if "verdict" in body else 200, **body)
            assert (answer["state"], crew.patch(1)["state"]) == (end, end)
            assert crew.count_events() == before + 1
            if "verdict" not in body and verb != "accept":
                assert answer["reason"] == ("no use" if body.get("message") == "no use" else None)
        else:
            refused = crew.post(user, path, 409, **body)["detail"]
            needs = "only a proposed patch" if verb == "approve" else " or ".join(sorted(starts))
            assert f"{NAME}#1 is {state}; " in refused
            assert needs in refused
            assert (crew.patch(1)["state"], crew.patch(1)["reason"]) == (state, "before")
            assert crew.count_events() == before


def test_a_rejection_and_a_yank_have_to_be_explained(crew: Community) -> None:
    propose(crew, 1)
    for verb in ("reject", "yank"):
        for body in ({}, {"message": ""}, {"message": "  "}):
            assert crew.post("mary", f"/patches/1/{verb}", 422, **body)
    assert crew.patch(1)["state"] == "proposed"


def test_a_decided_patch_takes_no_revision(crew: Community) -> None:
    for state in ("accepted", "rejected", "withdrawn", "superseded", "yanked"):
        crew.set(1, state=state)
        refused = crew.revise(1, crew.spares[0], status=409)["detail"]
        assert refused == f"{NAME}#1 is {state} and takes no more revisions; push a new patch."
    assert crew.patch(1)["newest"] == 1


def test_each_step_is_for_those_whose_it_is(crew: Community) -> None:
    propose(crew, 1)
    for user, path, body in [
        ("mary", "propose", {}),
        ("alice", "withdraw", {"message": ""}),
        ("bob", "accept", {"message": ""}),
        ("rita", "accept", {"message": ""}),
        ("rita", "reject", {"message": "no"}),
        ("carol", "reviews", {"verdict": "approve", "revision": 1}),
        ("bob", "reviews", {"verdict": "request_changes", "revision": 1}),
    ]:
        crew.post(user, f"/patches/1/{path}", 403, **body)
    crew.put("mary", "/patches/1/quarantine", 403, reason="no")
    crew.set(1, state="accepted")
    crew.post("rita", "/patches/1/yank", 403, message="no")
    crew.post("bob", "/patches/1/yank", 200, message="its author may")


def test_an_accepted_patch_takes_the_place_of_older_ones(crew: Community) -> None:
    crew.accept(1, 2)
    propose(crew, 3, 4)
    approve(crew, "rita", 3)
    approve(crew, "rita", 4)
    refused = accept(crew, 3, 409, supersedes=[1, 4])["detail"]
    assert refused == f"{NAME}#4 is proposed; to supersede it, it must be accepted."
    assert accept(crew, 3, 422, supersedes=[1, 3])["field"] == "supersedes"
    assert accept(crew, 3, 404, supersedes=[1, 9])
    assert [crew.patch(number)["state"] for number in (1, 2, 3)] == ["accepted", "accepted", "proposed"]
    accept(crew, 3, supersedes=[2, 1, 2])
    assert [(crew.patch(n)["state"], crew.patch(n)["superseded_by"]) for n in (1, 2, 3)] == [
        ("superseded", 3),
        ("superseded", 3),
        ("accepted", None),
    ]
    assert crew.post("mary", "/patches/1/yank", 409, message="late")["detail"].startswith(f"{NAME}#1 is superseded; ")


def test_a_yank_names_the_releases_and_channels_that_hold_the_patch(crew: Community) -> None:
    crew.accept(1, 2, 3)
    crew.publish("1.0.0", [1])
    crew.publish("1.1.0", [1, 2])
    crew.cut("1.2.0", [1, 2, 3])  # a candidate is no release that anybody relies on
    for channel, version in (("stable", "1.0.0"), ("beta", "1.1.0"), ("nightly", "1.1.0")):
        crew.put("mary", f"/channels/{channel}", version=version)
    yanked = crew.post("bob", "/patches/2/yank", message="it forgets")
    assert yanked["affected"] == {"releases": ["1.1.0"], "channels": ["beta", "nightly"]}
    assert yanked["reason"] == "it forgets"
    both = crew.get("/patches/1/discussion")["affected"]
    assert both == {"releases": ["1.1.0", "1.0.0"], "channels": ["beta", "nightly", "stable"]}
    assert crew.get("/patches/3/discussion")["affected"] == {"releases": [], "channels": []}
    warnings = {row["name"]: row["warnings"] for row in crew.get("/channels")}
    assert "Patch #2 was yanked: it forgets" in warnings["beta"]
    assert not any("yanked" in warning for warning in warnings["stable"])
    assert crew.get("/revisions/1.0.0")["warnings"] == []
    assert crew.get("/revisions/beta")["warnings"] == [f"{NAME}@1.1.0 holds patch #2, which was yanked: it forgets"]
    undone = crew.post("mary", "/patches/2/unyank", message="it was the test")
    assert (undone["state"], undone["reason"], undone["affected"]) == ("accepted", None, None)
    assert crew.get("/revisions/beta")["warnings"] == []


def compose(crew: Community, *numbers: int, user: str = "carol", status: int = 202, **body: Any) -> Any:
    patches = [{"number": number} for number in numbers]
    return crew.post(user, "/compositions", status, patches=patches, **{"alpha": "0.3", **body})


def test_a_yanked_patch_is_composed_only_when_asked_for(crew: Community) -> None:
    crew.accept(1)
    crew.post("mary", "/patches/1/yank", message="it forgets")
    refused = compose(crew, 1, 2, status=422)
    assert refused["detail"] == (
        f"{NAME}#1 was yanked (it forgets); leave it out, or pass --allow-yanked to compose it anyway."
    )
    compose(crew, 1, 2, allow_yanked=True)
    compose(crew, 2)


def test_a_quarantined_patch_is_for_admins_alone(crew: Community) -> None:
    digest = compose(crew, 1, 2)["recipe"]["digest"]
    other = compose(crew, 2)["recipe"]["digest"]
    crew.world.work()
    people = (None, "carol", "bob", "rita", "mary", "alice")
    paths = ("/patches/1/file", "/patches/1.1/file", f"/revisions/{digest}", f"/revisions/{digest}/files/config.json")
    assert {crew.get(path, user) is not None for path in paths for user in people} == {True}
    shown = crew.put("chief", "/patches/1/quarantine", reason="it leaks names")
    assert (shown["quarantined"], shown["state"], crew.patch(1)["quarantined"]) == (
        "it leaks names",
        "draft",
        "it leaks names",
    )
    for path in paths:
        for user in people:
            refused = crew.get(path, user, 403)
            assert "quarantined" in refused["detail"]
        assert crew.world.client("bob").head(f"{URL}{path}").status_code in (403, 405)
    for user in (*people[1:], "chief"):
        refused = compose(crew, 1, 2, user=user, status=422)
        assert refused["detail"] == f"{NAME}#1 is quarantined and cannot be composed."
        compose(crew, 1, user=user, status=422, allow_yanked=True)
    kept = crew.get("/patches/1/file", "chief")
    assert "private" in kept.headers["cache-control"]
    assert crew.get(f"/revisions/{digest}", "chief")["warnings"] == ["Patch #1 is quarantined: it leaks names"]
    assert crew.get(f"/revisions/{digest}/files/config.json", "chief") is not None
    assert crew.get(f"/revisions/{other}")["warnings"] == []
    crew.put("chief", "/patches/1/quarantine", reason="it leaks names")
    crew.world.client("chief").put(f"{URL}/patches/1/quarantine", json={"reason": None})
    assert crew.patch(1)["quarantined"] is None
    assert {crew.get(path, user) is not None for path in paths for user in people} == {True}
    assert [len(crew.events(f"patch.{verb}")) for verb in ("quarantine", "release_from_quarantine")] == [1, 1]


def test_a_patch_quarantined_while_it_waits_to_be_composed_is_not_composed(crew: Community) -> None:
    job = compose(crew, 1, 2)["job"]
    crew.put("chief", "/patches/2/quarantine", reason="odd")
    crew.world.work()
    ended = crew.world.client("carol").get(f"/api/v1/jobs/{job['id']}").json()
    assert (ended["state"], ended["error"]) == ("failed", f"{NAME}#2 is quarantined and cannot be composed.")
