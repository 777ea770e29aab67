"""News: mentions in threads, events of watched models, and the feed of releases."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from sqlalchemy import select

from registry.db.tables import Mention, Release, WatchedModel
from registry.server.pages.frame.cookies import COOKIE, csrf_of
from registry.services.curation import news
from registry.services.people import sign_ins
from tests.support.community import NAME, URL, Community

pytestmark = pytest.mark.heavy

ATOM = "{http://www.w3.org/2005/Atom}"


def read(crew: Community, user: str) -> dict[str, Any]:
    answer = crew.world.client(user).get("/api/v1/news")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def mentioned(crew: Community, user: str) -> list[tuple[int, str]]:
    return [(row["number"], row["by"]) for row in read(crew, user)["mentions"]]


def say(crew: Community, message: str, user: str = "carol", number: int = 1) -> None:
    crew.post(user, f"/patches/{number}/comments", 201, message=message)


def see(crew: Community, user: str, shown: dict[str, Any]) -> None:
    body = {"serial": shown["serial"], "at": shown["at"]}
    assert crew.world.client(user).post("/api/v1/news/seen", json=body).status_code == 204


def test_who_is_named_in_a_thread_learns_of_it_once_until_they_have_read_it(crew: Community) -> None:
    say(crew, "What do you think, @rita and @bob? Not @nobody, nor @carol.")
    assert (mentioned(crew, "rita"), mentioned(crew, "bob"), mentioned(crew, "carol")) == (
        [(1, "carol")],
        [(1, "carol")],
        [],
    )
    say(crew, "@rita again", "bob")
    assert mentioned(crew, "rita") == [(1, "bob")], "one row for a thread"
    shown = read(crew, "rita")
    say(crew, "@rita, wait", "max", number=2)
    see(crew, "rita", shown)
    assert mentioned(crew, "rita") == [(2, "max")], "what came after is not read"
    say(crew, "@rita!", number=1)
    assert mentioned(crew, "rita") == [(1, "carol"), (2, "max")]


def test_a_verdict_mentions_as_a_comment_does(crew: Community) -> None:
    crew.post("bob", "/patches/1/propose")
    crew.post("rita", "/patches/1/reviews", 201, verdict="approve", revision=1, message="For @mary to accept.")
    assert mentioned(crew, "mary") == [(1, "rita")]


@pytest.mark.parametrize(
    "message", ["`@rita`", "```\n@rita\n```", "mail@rita", "/@rita", "@@rita", "@ rita", "@rita-x", "@ritax"]
)
def test_what_is_no_mention_is_none(sqlite_crew: Community, message: str) -> None:
    say(sqlite_crew, message)
    assert mentioned(sqlite_crew, "rita") == []


def test_nobody_is_told_of_a_model_that_they_may_not_see(crew: Community) -> None:
    crew.rules(visibility="private")
    say(crew, "@carol @rita", "mary")
    assert (mentioned(crew, "carol"), mentioned(crew, "rita")) == ([], [(1, "mary")])
    crew.role("rita", None)
    assert mentioned(crew, "rita") == [], "nor of one that they may see no longer"


def test_a_message_tells_only_so_many(sqlite_crew: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "MOST_NAMED", 2)
    say(sqlite_crew, "@rita @rolf @mary @max")
    with sqlite_crew.world.database.read() as session:
        assert len(session.scalars(select(Mention)).all()) == 2


def test_who_watches_a_model_reads_what_others_do_there_since_they_last_looked(crew: Community) -> None:
    carol = crew.world.client("carol")
    crew.post("bob", "/patches/1/propose")
    for _ in range(2):
        assert carol.put(f"{URL}/watch").status_code == 204
    assert read(crew, "carol")["events"] == [], "what was before is no news"
    crew.post("bob", "/patches/2/propose")
    say(crew, "no news")
    shown = read(crew, "carol")
    assert [(row["event"], row["subject"], row["user"]) for row in shown["events"]] == [
        ("patch.propose", f"{NAME}#2", "bob")
    ]
    assert read(crew, "bob")["events"] == []
    crew.post("bob", "/patches/3/propose")
    see(crew, "carol", shown)
    assert [row["subject"] for row in read(crew, "carol")["events"]] == [f"{NAME}#3"]
    crew.rules(visibility="private")
    assert read(crew, "carol")["events"] == []
    crew.rules(visibility="public")
    assert carol.delete(f"{URL}/watch").status_code == 204
    assert read(crew, "carol")["events"] == []


@pytest.mark.parametrize(
    ("at", "status"),
    [("0001-01-01T00:00:00+14:00", 204), ("9999-12-31T23:59:59-14:00", 204), ("2026-01-01T00:00:00", 422)],
)
def test_no_time_is_too_strange_to_have_read_until(sqlite_crew: Community, at: str, status: int) -> None:
    body = {"serial": 2**63 - 1, "at": at}
    assert sqlite_crew.world.client("rita").post("/api/v1/news/seen", json=body).status_code == status


def test_only_so_many_models_are_watched(sqlite_crew: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "MOST_WATCHED", 0)
    assert sqlite_crew.world.client("carol").put(f"{URL}/watch").status_code == 409
    with sqlite_crew.world.database.read() as session:
        assert session.scalars(select(WatchedModel)).all() == []


def test_the_feed_has_the_releases_of_a_public_model_and_nothing_that_xml_cannot_hold(sqlite_lived: Community) -> None:
    with sqlite_lived.world.database.write() as session:
        row = session.scalars(select(Release).where(Release.version == "1.2.0")).one()
        row_id = row.id
        session.execute(
            Release.__table__.update().where(Release.__table__.c.id == row_id).values(changelog="<b>\x0b & more")
        )
    sqlite_lived.post("mary", "/releases/1.1.0/yank", message="broken")
    answer = sqlite_lived.world.browser().get(f"/{NAME}/releases.atom")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/atom+xml")
    root = ElementTree.fromstring(answer.content)
    titles = [entry.findtext(f"{ATOM}title") for entry in root.iter(f"{ATOM}entry")]
    assert titles == [f"{NAME} 1.2.0", f"{NAME} 1.1.0 (yanked)", f"{NAME} 1.0.0"]
    assert root.find(f"{ATOM}entry").findtext(f"{ATOM}content") == "<b>\ufffd & more"
    assert f'href="/{NAME}/releases.atom"' in sqlite_lived.world.browser().get(f"/{NAME}").text
    sqlite_lived.rules(visibility="private")
    assert sqlite_lived.world.browser().get(f"/{NAME}/releases.atom").status_code == 404


def test_the_inbox_shows_what_is_new_and_a_click_marks_it_as_read(sqlite_crew: Community) -> None:
    sqlite_crew.world.client("carol").put(f"{URL}/watch")
    sqlite_crew.post("bob", "/patches/1/propose")
    say(sqlite_crew, "@carol, look", "bob", number=2)
    with sqlite_crew.world.database.write() as session:
        secret = sign_ins.start(session, sqlite_crew.world.token("carol"))
    browser = sqlite_crew.world.browser()
    browser.cookies.set(COOKIE, secret)
    page = browser.get("/inbox").text
    assert "mentioned you" in page
    assert f'href="/{NAME}/patches/1"' in page
    fields = dict(re.findall(r'name="(serial|at)" value="([^"]+)"', page))
    assert browser.post("/inbox/seen", data={"csrf": csrf_of(secret), **fields}).status_code == 303
    assert "mentioned you" not in browser.get("/inbox").text
    assert "Stop watching" in browser.get(f"/{NAME}").text
    assert browser.post(f"/{NAME}/watch", data={"csrf": csrf_of(secret), "watching": "no"}).status_code == 303
    assert "Stop watching" not in browser.get(f"/{NAME}").text
