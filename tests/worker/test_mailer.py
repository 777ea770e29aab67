"""The mailer: who is told what by e-mail, once, whatever the mail server does; links that confirm and unsubscribe."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.db.audit import newest_serial
from registry.db.tables import MailAddress, User, now
from registry.errors import Unavailable
from registry.services.catalog import models
from registry.services.curation import news, news_mails
from registry.services.people import actors, mail_addresses
from registry.worker.mailer import Mailer
from tests.support.community import NAME, URL, Community, open_community
from tests.support.mail_servers import MailStandIn, open_mail_server

pytestmark = pytest.mark.heavy
MAIL = "/api/v1/mail"
HERE = "https://crumbs.example.org"


@pytest.fixture
def server() -> Iterator[MailStandIn]:
    with open_mail_server() as made:
        yield made


@pytest.fixture
def crew(
    server: MailStandIn, database_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Community]:
    """The community of a registry that sends mails."""
    settings = {"smtp_host": "127.0.0.1", "smtp_port": server.port, "smtp_security": "none"}
    settings |= {"mail_from": "Crumbs <news@crumbs.example.org>", "public_url": HERE}
    with open_community(database_kind, tmp_path, request, **settings) as made:
        yield made


@pytest.fixture
def mailer(crew: Community) -> Mailer:
    return Mailer(crew.world.settings, crew.world.database)


def ask(crew: Community, user: str, rhythm: str = "at_once") -> str:
    """Have somebody set an address; return it."""
    address = f"{user}@example.org"
    answer = crew.world.client(user).put(MAIL, json={"address": address, "rhythm": rhythm})
    assert answer.status_code == 200, answer.text
    return address


def link_in(text: str, purpose: str) -> str:
    return re.findall(rf"{HERE}(/settings/mail/{purpose}\?link=\S+)", text)[-1]


def confirmed(crew: Community, mailer: Mailer, server: MailStandIn, *users: str, rhythm: str = "at_once") -> None:
    """Have people set and confirm their addresses, and forget the mails for that."""
    for user in users:
        address = ask(crew, user, rhythm)
        mailer.step()
        link = link_in(server.to(address)[-1].get_content(), "confirm").rpartition("=")[2]
        assert crew.world.client(user).post(f"{MAIL}/confirm", json={"link": link}).json()["state"] == "verified"
    server.received.clear()
    hasten(crew)


def hasten(crew: Community) -> None:
    """Let the time come at which everybody is told something again."""
    with crew.world.database.write() as session:
        for row in session.query(MailAddress).where(MailAddress.due_at.is_not(None)):
            row.due_at = now()


def say(crew: Community, message: str, user: str = "carol", number: int = 1) -> None:
    crew.post(user, f"/patches/{number}/comments", 201, message=message)


def state(crew: Community, user: str) -> str:
    return str(crew.world.client(user).get(MAIL).json()["state"])


def test_nothing_but_a_link_is_sent_until_the_user_themselves_has_opened_it(
    crew: Community, mailer: Mailer, server: MailStandIn
) -> None:
    address = ask(crew, "rita")
    say(crew, "@rita, look")
    assert (mailer.step(), mailer.step(), state(crew, "rita")) == (1, 0, "sent")
    (mail,) = server.to(address)
    assert "Confirm" in mail["Subject"] and NAME not in mail.get_content()
    link = link_in(mail.get_content(), "confirm")
    body = {"link": link.rpartition("=")[2]}
    assert crew.world.client("bob").post(f"{MAIL}/confirm", json=body).status_code == 403
    assert crew.world.client(None).post(f"{MAIL}/confirm", json=body).status_code == 401
    forged = {"link": body["link"][:-1] + ("0" if body["link"][-1] != "0" else "1")}
    assert crew.world.client("rita").post(f"{MAIL}/confirm", json=forged).status_code == 404
    say(crew, "@rita, still?")
    hasten(crew)
    assert (mailer.step(), state(crew, "rita")) == (0, "sent")
    assert crew.world.client("rita").post(f"{MAIL}/confirm", json=body).json()["state"] == "verified"
    assert mailer.step() == 0, "news begin with the confirmation"
    say(crew, "@rita, at last")
    hasten(crew)
    assert mailer.step() == 1 and f"{HERE}/{NAME}/patches/1" in server.received[-1].get_content()


def test_a_link_ends_after_days_and_with_another_address(crew: Community, mailer: Mailer, server: MailStandIn) -> None:
    address, rita = ask(crew, "rita"), crew.world.client("rita")
    mailer.step()
    body = {"link": link_in(server.to(address)[-1].get_content(), "confirm").rpartition("=")[2]}
    with crew.world.database.write() as session:
        session.query(MailAddress).one().asked_at = now() - mail_addresses.CONFIRM_WITHIN
    assert rita.post(f"{MAIL}/confirm", json=body).status_code == 404
    rita.put(MAIL, json={"address": "other@example.org"})
    assert rita.post(f"{MAIL}/confirm", json=body).status_code == 404
    mailer.step()
    assert [mail["To"] for mail in server.received] == [address, "other@example.org"]
    assert rita.delete(MAIL).status_code == 204 and state(crew, "rita") == "none"


def test_a_mail_has_what_concerns_its_reader_and_each_of_it_once(
    crew: Community, mailer: Mailer, server: MailStandIn
) -> None:
    confirmed(crew, mailer, server, "bob", "rita", "carol")
    crew.world.client("carol").put(f"{URL}/watch")
    crew.post("bob", "/patches/1/propose")
    say(crew, "One thing, @bob and @rita.", "mary")
    say(crew, "And another.", "mary", 2)
    crew.post("rita", "/patches/1/reviews", 201, verdict="approve", revision=1, message="")
    assert mailer.step() == 3
    texts = {mail["To"].partition("@")[0]: mail.get_content() for mail in server.received}
    assert {user: re.findall(r"^\* (.*)$", text, re.MULTILINE) for user, text in texts.items()} == {
        "bob": [
            f"mary mentioned you in {NAME}#1",
            f"mary commented on {NAME}#2",
        ],
        "rita": [f"mary mentioned you in {NAME}#1", f"bob proposed {NAME}#1"],
        "carol": [f"bob proposed {NAME}#1"],
    }
    hasten(crew)
    assert mailer.step() == 0, "nothing is told twice"
    crew.rules(visibility="private")
    say(crew, "@carol @rita", "mary")
    hasten(crew)
    assert mailer.step() == 1, "bob and carol may not see it any more"
    assert server.received[-1]["To"] == "rita@example.org"


def test_what_is_said_of_the_patches_of_others_hides_nothing_of_ones_own(
    crew: Community, mailer: Mailer, server: MailStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "SHOWN", 2)
    confirmed(crew, mailer, server, "bob")
    say(crew, "Hm.", "mary")
    with crew.world.database.write() as session:
        mary = actors.authenticate(session, crew.world.token("mary"))
        for number in (11, 21, 31):
            actors.record(session, mary, "patch.comment", f"{NAME}#{number}", models.find(session, NAME))
    assert mailer.step() == 1
    assert re.findall(r"^\* (.*)$", server.received[-1].get_content(), re.MULTILINE) == [f"mary commented on {NAME}#1"]


def test_what_is_written_while_a_mail_is_made_is_for_the_next(
    crew: Community, mailer: Mailer, server: MailStandIn
) -> None:
    confirmed(crew, mailer, server, "bob")
    say(crew, "One.", "mary")
    with crew.world.database.read() as session:
        serial, bob = newest_serial(session), actors.authenticate(session, crew.world.token("bob"))
    say(crew, "Another.", "rita")
    with crew.world.database.read() as session:
        told = [event.serial for event, _ in news_mails.on_own_patches(session, bob, 0, serial)]
    assert told and max(told) <= serial


def test_mails_end_by_one_click_of_a_mail_program_and_by_no_look_at_the_link(
    crew: Community, mailer: Mailer, server: MailStandIn
) -> None:
    confirmed(crew, mailer, server, "rita")
    say(crew, "@rita")
    mailer.step()
    (mail,) = server.received
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click" and mail["Auto-Submitted"] == "auto-generated"
    assert b"\r\nList-Unsubscribe: <https://" in server.raw[-1], "as it is, or mail programs do not know it"
    link = mail["List-Unsubscribe"].removeprefix(f"<{HERE}").removesuffix(">")
    assert link_in(mail.get_content(), "unsubscribe") == link
    stranger = crew.world.browser()
    assert "Send no more news of" in stranger.get(link).text
    say(crew, "@rita, again")
    hasten(crew)
    assert mailer.step() == 1, "looking ends nothing"
    assert stranger.post(link[:-1]).status_code == 422
    click = stranger.post(link, data={"List-Unsubscribe": "One-Click"}, headers={"Sec-Fetch-Site": "cross-site"})
    assert click.status_code == 200 and "No more mails" in click.text
    say(crew, "@rita, gone?")
    hasten(crew)
    assert mailer.step() == 0
    assert crew.world.client("rita").get(MAIL).json()["rhythm"] == "off"
    ask(crew, "rita")
    assert (state(crew, "rita"), mailer.step()) == ("verified", 0), "confirmed once, and told of nothing older"


def test_a_mail_server_that_is_away_or_breaks_off_loses_nothing(
    crew: Community, mailer: Mailer, server: MailStandIn
) -> None:
    confirmed(crew, mailer, server, "rita")
    say(crew, "@rita")
    server.greeting = "554 closed today"
    with pytest.raises(Unavailable, match="closed today"):
        mailer.step()
    server.greeting, server.answer = "220 here", lambda command: "" if command.startswith("RCPT") else None
    with pytest.raises(Unavailable):
        mailer.step()
    say(crew, "And you, @rita?", number=2)
    server.answer = lambda _: None
    assert mailer.step() == 1, "no attempt was lost, and one mail has all"
    assert re.findall(r"#(\d)", server.received[0].get_content()) == ["2", "1"]


def test_an_address_that_is_refused_holds_up_nobody_and_is_given_up(
    crew: Community, mailer: Mailer, server: MailStandIn
) -> None:
    confirmed(crew, mailer, server, "rita", "bob")
    server.answer = lambda command: "550 No such user" if command.startswith("RCPT TO:<rita@") else None
    say(crew, "@rita @bob")
    assert (mailer.step(), [mail["To"] for mail in server.received]) == (1, ["bob@example.org"])
    for _ in range(news_mails.MOST_REFUSALS - 1):
        assert state(crew, "rita") == "verified"
        hasten(crew)
        assert mailer.step() == 0
    shown = crew.world.client("rita").get(MAIL).json()
    assert (shown["state"], shown["answer"]) == ("refused", "550 No such user")
    server.answer = lambda _: None
    hasten(crew)
    assert mailer.step() == 0


def test_a_mailer_that_dies_after_the_server_took_its_mail_sends_it_once_more_as_the_same(
    crew: Community, mailer: Mailer, server: MailStandIn
) -> None:
    confirmed(crew, mailer, server, "rita")
    say(crew, "@rita")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(news_mails, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            mailer.step()
    assert mailer.step() == 0, "claimed, so that no other mailer sends it meanwhile"
    hasten(crew)
    assert mailer.step() == 1
    first, second = server.received
    assert first["Message-ID"] == second["Message-ID"]


def test_a_server_that_says_nothing_does_not_keep_the_mailer_from_ending(
    crew: Community, mailer: Mailer, server: MailStandIn
) -> None:
    asked, never = threading.Event(), threading.Event()
    server.answer = lambda _: str(asked.set() or never.wait(60))
    ask(crew, "rita")
    thread = threading.Thread(target=mailer.run)
    thread.start()
    try:
        assert asked.wait(30)
        mailer.stop()
        thread.join(15)
        assert not thread.is_alive()
    finally:
        never.set()
        thread.join()


def test_who_may_do_nothing_here_is_told_nothing(crew: Community, mailer: Mailer, server: MailStandIn) -> None:
    confirmed(crew, mailer, server, "rita", "bob")
    crew.disable("rita")
    with crew.world.database.write() as session:
        session.query(User).where(User.name == "bob").one().vouched_until = now() - timedelta(hours=1)
    say(crew, "@rita @bob")
    assert mailer.step() == 0
    crew.disable("rita", active=True)
    say(crew, "@rita")
    hasten(crew)
    assert mailer.step() == 1


def test_a_day_has_one_mail_at_the_hour_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail_addresses, "now", lambda: datetime(2026, 3, 1, 6, 0, tzinfo=UTC))
    assert mail_addresses.next_due("daily", 7) == datetime(2026, 3, 1, 7, tzinfo=UTC)
    assert mail_addresses.next_due("daily", 6) == datetime(2026, 3, 2, 6, tzinfo=UTC)
    assert mail_addresses.next_due("off", 6) is None


def test_no_line_of_an_address_or_answer_becomes_a_header(crew: Community) -> None:
    for address in ("a@b\r\nBcc: c@d", "a b@c", "@b", "a@b,c@d", "a@b>", "ä@b.org", ""):
        answer = crew.world.client("rita").put(MAIL, json={"address": address})
        assert answer.status_code == 422, address
