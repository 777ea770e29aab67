"""Cards: proposed, looked at, changed, accepted and rejected, by those who may."""

from typing import Any

import pytest
from sqlalchemy import select, update

from registry.db.tables import CardProposal, Model, Namespace, Patch
from registry.files.beside import CARD_BYTES
from registry.services.curation import cards
from tests.support.community import NAME, URL, Community
from tests.support.world import digest

pytestmark = pytest.mark.heavy

CARD = "---\nlicense: mit\nlanguage: de\ntags:\n- sums\n---\n# Tiny\n\nIt adds.\n"


def propose(crew: Community, card: str = CARD, user: str = "bob", status: int = 201, **more: Any) -> Any:
    return crew.post(user, "/cards", status, card=card, title="Say more", **more)


def tags(crew: Community) -> set[str]:
    return set(crew.world.client(None).get(f"/api/models/{NAME}").json()["tags"])


def test_what_a_maintainer_accepts_is_the_card_of_the_model(crew: Community) -> None:
    before = crew.get("")
    found = propose(crew, message="It had none.")
    number = found["number"]
    assert (found["state"], found["author"], found["sha256"]) == ("proposed", "bob", digest(CARD.encode()))
    assert crew.get("")["card"] == before["card"], "a proposal changes nothing"
    shown = crew.get(f"/cards/{number}")
    assert "+It adds." in shown["diff"] and shown["card"] == CARD and shown["message"] == "It had none."
    crew.post("bob", f"/cards/{number}/accept", 403, message="")
    crew.post("rita", f"/cards/{number}/accept", 403, message="")
    assert crew.post("mary", f"/cards/{number}/accept", sha256=found["sha256"])["state"] == "accepted"
    after = crew.get("")
    assert (after["card"], after["base"]) == (CARD, before["base"])
    assert {"de", "sums"} <= tags(crew)
    assert crew.get(f"/cards/{number}")["diff"] == shown["diff"], "it stays on record against what it replaced"
    assert "accepted; to accept it" in crew.post("mary", f"/cards/{number}/accept", 409, message="")["detail"]
    (event,) = crew.events("card.accept")
    assert (event.user_name, event.subject, (event.after or {})["sha256"]) == (
        "mary",
        f"{NAME}#{number}",
        digest(CARD.encode()),
    )


def test_tags_are_those_of_the_new_card_and_of_the_base(crew: Community) -> None:
    old = tags(crew)
    propose(crew, "---\ntags: [one]\n---\n", "mary", accept=True)
    assert "one" in tags(crew)
    propose(crew, "---\ntags: [two]\n---\n", "mary", accept=True)
    assert "two" in tags(crew) and "one" not in tags(crew)
    kept = {tag for tag in old if tag in ("safetensors", "transformers") or tag.startswith("license:")}
    assert kept and kept <= tags(crew)
    model_type = crew.world.client(None).get(f"/api/models/{NAME}").json()["config"].get("model_type")
    assert model_type is None or model_type in tags(crew)


def test_a_licence_is_taken_from_a_card_only_if_the_model_has_none(crew: Community) -> None:
    owned = crew.get("")["license"]
    assert owned and owned != "mit"
    assert propose(crew)["license"] == "mit", "so that whoever decides sees it"
    propose(crew, user="mary", accept=True, message="at once")
    assert crew.get("")["license"] == owned
    with crew.world.database.write() as session:
        session.execute(update(Model).values(license=None))
    assert propose(crew, f"{CARD}\nMore.\n", "mary", accept=True)["license"] is None
    assert crew.get("")["license"] == "mit" and "license:mit" in tags(crew)


def test_a_maintainer_changes_the_card_at_once_and_it_is_on_record(crew: Community) -> None:
    for user in ("bob", "rita", "carol"):
        assert "maintainer" in propose(crew, user=user, status=403, accept=True)["detail"]
    assert crew.get("/cards")["items"] == []
    done = propose(crew, user="mary", accept=True)
    assert (done["state"], crew.get("")["card"]) == ("accepted", CARD)
    assert [event.action for event in crew.events("card.propose") + crew.events("card.accept")] == [
        "card.propose",
        "card.accept",
    ]
    assert "already" in propose(crew, status=422)["detail"]


def test_an_author_changes_or_withdraws_what_they_proposed(crew: Community) -> None:
    number = propose(crew)["number"]
    seen = crew.get(f"/cards/{number}")["sha256"]
    crew.put("carol", f"/cards/{number}", 403, card="# Mine\n")
    crew.put("mary", f"/cards/{number}", 403, card="# Mine\n")
    crew.put("bob", f"/cards/{number}", card="# Better\n", title="Say less")
    assert "another text" in crew.post("mary", f"/cards/{number}/accept", 409, sha256=seen)["detail"]
    crew.post("carol", f"/cards/{number}/withdraw", 403, message="")
    assert crew.post("bob", f"/cards/{number}/withdraw", message="No need.")["reason"] == "No need."
    crew.put("bob", f"/cards/{number}", 409, card="# Late\n")
    crew.post("mary", f"/cards/{number}/accept", 409, message="")
    other = propose(crew)["number"]
    crew.post("mary", f"/cards/{other}/reject", 422, message="")
    assert crew.post("mary", f"/cards/{other}/reject", message="Too long.")["state"] == "rejected"
    assert crew.get("")["card"] != CARD
    with crew.world.database.read() as session:
        assert set(session.scalars(select(CardProposal.before))) == {None}, "nobody pays for a copy of the card"


def test_a_number_is_that_of_a_patch_or_of_a_card(crew: Community) -> None:
    number = propose(crew)["number"]
    assert number == 5
    crew.get(f"/patches/{number}", status=404)
    crew.get("/cards/1", status=404)
    for verb in ("accept", "reject", "withdraw"):
        crew.post("mary" if verb != "withdraw" else "bob", f"/cards/1/{verb}", 404, message="x")
        crew.post("mary" if verb != "withdraw" else "bob", f"/patches/{number}/{verb}", 404, message="x")
    assert [patch["number"] for patch in crew.get("/patches")["items"]] == [4, 3, 2, 1]
    assert "no patch" in crew.post("mary", "/compositions", 422, patches=[{"number": number}], alpha="1")["detail"]
    assert crew.push(crew.spares[0])["number"] == number + 1
    crew.world.work()


def test_people_talk_about_a_card_as_about_a_patch(crew: Community) -> None:
    number = propose(crew)["number"]
    said = crew.post("carol", f"/patches/{number}/comments", 201, message="A typo.")
    assert [row["message"] for row in crew.get(f"/patches/{number}/comments")["items"]] == ["A typo."]
    crew.put("mary", f"/patches/{number}/comments/{said['id']}/hidden", reason="Rude.")
    assert crew.get(f"/patches/{number}/comments")["items"][0]["message"] == ""
    crew.post("carol", f"/patches/{number}/comments", 404, message="On a revision.", revision=1)


def test_cards_wait_in_the_inbox_of_those_who_can_do_something(crew: Community) -> None:
    number = propose(crew)["number"]
    for user, waits in (("mary", True), ("rita", True), ("bob", True), ("carol", False)):
        assert [card["number"] for card in crew.get("/inbox", user)["cards"]] == [number] * waits, user
        models = crew.world.client(user).get("/api/v1/inbox").json()["items"]
        assert [(one["proposed"], one["mine"]) for one in models] == [(0, 5) if user == "bob" else (1, 0)] * waits
    crew.post("mary", f"/cards/{number}/reject", message="No.")
    assert crew.get("/inbox", "mary")["cards"] == crew.get("/inbox", "bob")["cards"] == []


def test_lists_go_on_over_pages_and_by_state(crew: Community) -> None:
    numbers = [propose(crew, f"# {serial}\n")["number"] for serial in range(3)]
    crew.post("bob", f"/cards/{numbers[1]}/withdraw", message="")
    first = crew.get("/cards?limit=2")
    assert [card["number"] for card in first["items"]] == numbers[:0:-1] and first["items"][0]["card"] is None
    assert [card["number"] for card in crew.get(f"/cards?before={first['next']}")["items"]] == numbers[:1]
    assert [card["number"] for card in crew.get("/cards?state=withdrawn")["items"]] == [numbers[1]]


@pytest.mark.parametrize("raw", [None, b"\xff", b"a\0b", b"x" * (CARD_BYTES + 1)])
def test_what_is_no_text_is_no_card(raw: bytes | None) -> None:
    with pytest.raises(Exception, match="A card "):
        cards.decode(raw)


def test_a_private_models_cards_are_its_members(crew: Community) -> None:
    number = propose(crew)["number"]
    crew.ask("alice", "PATCH", "", 200, visibility="private")
    for user in (None, "carol"):
        for path in ("/cards", f"/cards/{number}"):
            assert crew.world.client(user).get(f"{URL}{path}").status_code == 404
    assert crew.get(f"/cards/{number}", "rita")["number"] == number


def test_text_counts_for_its_writers_day(crew: Community) -> None:
    object.__setattr__(crew.world.settings, "text_bytes", 2000)
    assert "written" in propose(crew, "x" * 2000, status=429)["detail"]
    with crew.world.database.read() as session:
        assert session.scalars(select(Patch).where(Patch.revision == 0)).all() == []
        assert session.scalars(select(Namespace)).first() is not None
