"""What happens at a primary every day does not stop its mirror, and takes nothing from readers."""

from typing import Any

import pytest

from registry.db.tables import Mirror
from registry.errors import Unavailable, WrongState
from registry.services.mirroring import exports, mirrors
from registry.worker.mirror import reading
from tests.support.community import NAME, URL
from tests.worker.mirror.test_following import Pair, make_follower, pair, small
from tests.worker.mirror.test_hostile import SCORE

__all__ = ["pair", "small"]


def test_a_patch_with_files_is_quarantined(small: Pair) -> None:
    crew = small.crew
    number = crew.push_files(crew.spares[0], {"generation_config.json": b'{"a": 1}'})["number"]
    small.follower.round()
    crew.put("chief", f"/patches/{number}/quarantine", reason="Bad.")
    small.follower.round()
    assert small.get(f"/patches/{number}")["state"] == crew.patch(number)["state"]
    small.same(f"/patches/{number}/discussion")
    crew.post("bob", "/patches/1/comments", 201, message="on it goes")
    small.follower.round()
    small.same("/patches/1/discussion")


def test_a_draft_is_cut_again_from_another_recipe(small: Pair) -> None:
    crew = small.crew
    crew.accept(1, 2)
    crew.post("mary", "/releases", 202, version="1.0.0", patches=[{"number": 1}])
    crew.world.work()
    small.follower.round()
    crew.post("bob", "/evaluations", 201, ref="1.0.0", **SCORE)
    crew.post("mary", "/releases", 202, version="1.0.0", patches=[{"number": 1}, {"number": 2}], alpha="1")
    crew.world.work()
    small.follower.round()
    small.same("/releases", "/releases/1.0.0", "/evaluations")
    with small.here.database.write() as session:
        mirrors.restart(session)
    make_follower(crew, small.here).round()
    small.same("/releases", "/releases/1.0.0", "/evaluations")


def test_a_channel_moves_on_to_a_release_that_comes_later(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = pair.crew
    crew.put("mary", "/channels/stable", version="1.0.0", reason="First.")
    pair.follower.round()
    crew.put("mary", "/channels/stable", version="1.1.0", reason="Next.")
    patches = [{"number": number} for number in (1, 2, 3, 4)]
    crew.post("mary", "/releases", 202, version="1.3.0", patches=patches, alpha="1")
    crew.world.work()
    crew.rebuild()
    crew.post("mary", "/releases/1.3.0/publish")
    crew.put("mary", "/channels/stable", version="1.3.0", reason="On.")
    monkeypatch.setattr(reading, "EVENTS", 1)  # as if more than a page had happened
    seen = set()
    for _ in range(reading.head(pair.follower.primary, 0).serial - (pair.mirror().cursor or 0)):
        pair.follower.round()
        seen.add(pair.get("/channels")[0]["release"])
    assert seen == {"1.0.0", "1.3.0"}
    pair.same("/channels", "/channels/stable/history", "/releases/1.3.0")


def test_a_row_goes_while_a_part_is_read(small: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    crew, real, left = small.crew, small.follower.primary.get, 1
    first, *_ = [crew.post("bob", "/patches/1/comments", 201, message=f"word {n}")["id"] for n in range(3)]
    crew.ask("bob", "PUT", f"/patches/1/comments/{first}", 200, message="another word")
    for _ in range(3):
        crew.post("bob", "/evaluations", 201, ref="#1", **SCORE)
    small.follower.round()
    monkeypatch.setattr(exports, "ROWS", 2)
    crew.post("bob", "/patches/1/comments", 201, message="look")

    def get(asked: str, patience: float = 0, **query: Any) -> bytes:
        nonlocal left
        if asked.endswith("/rows") and query.get("skip", 0) >= 8 and left:
            left -= 1
            if left % 2 == 0:
                crew.ask("mary", "PUT", f"/patches/1/comments/{first}/hidden", None, reason="r")
            else:
                crew.post("bob", "/patches/1/comments", 201, message="and again")
        return real(asked, patience, **query)

    small.follower.primary.get = get  # type: ignore[method-assign]
    small.follower.round()
    assert left == 0
    small.follower.round()
    small.same("/patches/1/discussion", "/evaluations")
    left = 99
    crew.post("bob", "/patches/1/comments", 201, message="once more")
    small.refused("all the time")
    assert not small.mirror().stopped


def test_taking_all_over_anew_hides_nothing_even_if_it_fails(small: Pair) -> None:
    small.follower.round()
    with small.here.database.write() as session:
        mirrors.restart(session)
    real = small.follower.primary.get

    def get(asked: str, patience: float = 0, **query: Any) -> bytes:
        if query.get("part") == "patch:2":
            raise Unavailable("Nobody is there.")
        return real(asked, patience, **query)

    follower = make_follower(small.crew, small.here)
    follower.primary.get = get  # type: ignore[method-assign]
    follower.round()
    small.same("", "/patches")
    small.crew.rules(visibility="private")
    follower.round()
    small.get("", status=404)


def test_a_promoted_registry_follows_no_more(small: Pair) -> None:
    small.follower.round()
    with small.here.database.write() as session:
        mirrors.promote(session, current=True)
    follower = make_follower(small.crew, small.here)
    with pytest.raises(WrongState, match="was promoted at"):
        follower.begin()
    follower.primary.get = None  # type: ignore[assignment,method-assign]  # whether or not the old one still answers
    with pytest.raises(WrongState, match="was promoted at"):
        follower.begin()
    assert small.count(Mirror) == 1
    assert small.get("")["primary"] is None
    assert small.here.client("alice").patch(URL, json={"min_approvals": 2}).status_code == 200


def test_admins_of_a_mirror_take_content_down_and_its_primary_does_not_undo_it(small: Pair) -> None:
    crew, here = small.crew, small.here
    words = [crew.post("bob", "/patches/1/comments", 201, message=f"word {n}")["id"] for n in range(2)]
    small.follower.round()
    chief = here.client("boss", admin=True)
    quarantine, hidden = f"{URL}/patches/2/quarantine", f"{URL}/patches/1/comments/{words[0]}/hidden"
    for path, method in ((quarantine, "put"), (hidden, "put"), (f"{URL}/patches/2/reject", "post")):
        refused = here.client("alice").request(method, path, json={"reason": "No."})
        assert refused.status_code in (401, 403), refused.text
    assert chief.put(quarantine, json={"reason": "Stolen."}).status_code == 200
    assert chief.put(hidden, json={"reason": "Rude."}).status_code == 200
    assert chief.post(f"{URL}/patches/2/reject", json={"message": "No."}).status_code == 403
    page = small.page(f"/{NAME}/patches/2", "boss")
    assert "End the quarantine" in page and "<button>Comment" not in page
    assert "End the quarantine" not in small.page(f"/{NAME}/patches/2", "alice")

    def is_down() -> None:
        assert small.get("/patches/2")["quarantined"] == "Stolen."
        small.get("/patches/2/file", status=403)
        said = small.get("/patches/1/discussion")["comments"]
        told = [(one["message"], bool(one["hidden"])) for one in said]
        assert told == [("", True), ("word 1", False)]

    is_down()
    crew.ask("bob", "PUT", f"/patches/1/comments/{words[0]}", 200, message="another word")
    crew.post("bob", "/patches/2/comments", 201, message="Mine.")
    small.follower.round()
    is_down()
    with here.database.write() as session:
        mirrors.restart(session)
    make_follower(crew, here).round()
    is_down()
    assert chief.put(hidden, json={"reason": None}).status_code == 200
    assert "another word" in str(small.get("/patches/1/discussion"))
    assert chief.put(hidden, json={"reason": "Rude."}).status_code == 200
    crew.put("chief", "/patches/2/quarantine", reason="There, too.")
    small.follower.round()
    is_down()
    assert chief.put(quarantine, json={"reason": None}).json()["quarantined"] == "There, too."
    refused = chief.put(quarantine, json={"reason": None})
    assert refused.status_code == 409 and "only there" in refused.json()["detail"]
    assert chief.put(quarantine, json={"reason": "Stolen."}).status_code == 200
    with here.database.write() as session:
        mirrors.promote(session, current=True)
    crew.rules(min_approvals=3)
    assert small.get("/patches/2")["quarantined"] == "Stolen."
    assert chief.put(quarantine, json={"reason": None}).json()["quarantined"] is None
