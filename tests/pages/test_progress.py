"""Jobs as they go on: streams of events, and what browsers make of them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from playwright.sync_api import Route, expect
from sqlalchemy import delete

from registry.db.tables import Job, SignIn, now
from registry.server.edge.serving import make_server
from registry.server.pages.frame.cookies import COOKIE
from registry.server.pages.queue import streams
from registry.server.processes.locks import Lock
from registry.server.processes.places import Places
from registry.server.watching import Streams
from registry.services.composing import compositions
from registry.services.composing.mixes import Ingredient, Mix
from registry.services.people import sign_ins
from registry.services.queue import jobs
from tests.support.browsers import Site
from tests.support.community import NAME, Community
from tests.support.holding import beat, held


class Counted(Streams):
    """Streams that say when there is one, and when there are none any more."""

    def __init__(self, most: int) -> None:
        self.some, self.none = threading.Event(), threading.Event()
        super().__init__(Places(most, Lock()))

    @contextmanager
    def open(self) -> Iterator[None]:
        try:
            with super().open():
                self.some.set()
                yield
        finally:
            if not self.places.count():
                self.none.set()


@contextmanager
def served(community: Community) -> Iterator[str]:
    """Serve a community on loopback, without any worker; at the end the server has to stop soon."""
    ready, where = threading.Event(), list[str]()

    def listening(url: str) -> None:
        where.append(url)
        ready.set()

    server = make_server(community.world.app, "127.0.0.1", 0, 15.0, listening)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(30)
    try:
        yield where[0]
    finally:
        server.should_exit = True
        thread.join(8)  # less than what uvicorn waits for connections that do not end
        assert not thread.is_alive()


def test_a_worker_is_killed_and_the_page_goes_on_with_the_next(site: Site) -> None:
    community, watched = site.community, Counted(200)
    community.world.app.state.streams = watched
    claim = held(community, 1)
    page = site.open("bob", f"/{NAME}/recipes/{claim.subject}")
    other = site.open(None, f"/jobs/{claim.job_id}")
    for window in (page, other):
        expect(window.get_by_role("progressbar", name="Composing")).to_have_attribute("value", "0.0")
    beat(community, claim, 0.42)
    for window in (page, other):
        expect(window.get_by_text("42 %")).to_be_visible()
        expect(window.get_by_role("progressbar", name="Composing")).to_have_attribute("value", "42.0")
    with community.world.database.write() as session:
        session.get_one(Job, claim.job_id).lease_until = now()  # as when the worker is dead
    expect(page.get_by_role("heading", name="Use this recipe")).to_be_visible()
    expect(other.get_by_text("Composing is done.")).to_be_visible()
    other.get_by_role("link", name="View the result").click()
    other.wait_for_url(f"**/{NAME}/recipes/{claim.subject}")
    assert watched.none.wait(30) and watched.places.count() == 0
    with community.world.database.read() as session:
        assert session.get_one(Job, claim.job_id).attempt == 2


def test_what_somebody_writes_or_was_answered_is_not_replaced_when_a_job_ends(released: Site) -> None:
    community, claim = released.community, held(released.community, 4)
    community.post("mary", "/releases", 202, version="2.0.0", patches=[{"number": 4}])
    writing, sending, looking, late = (released.open("mary", f"/{NAME}/releases/2.0.0") for _ in range(4))
    under_way = list[Route]()
    late.route(f"**/{NAME}/releases/2.0.0", lambda route: under_way.append(route))
    writing.get_by_text("Edit the changelog").click()
    field = writing.get_by_label("Changelog, in Markdown")
    field.fill("Half a sen")
    released.expected.append("401")
    sending.context.clear_cookies()  # as when she signed out on another tab
    sending.get_by_text("Edit the changelog").click()
    sending.get_by_role("button", name="Save the changelog").click()
    expect(sending.get_by_role("alert")).to_be_visible()
    with late.expect_request(f"**/{NAME}/releases/2.0.0"), community.world.database.write() as session:
        session.get_one(Job, claim.job_id).lease_until = now()  # as when the worker is dead
    late.get_by_text("Edit the changelog").click()
    late.get_by_label("Changelog, in Markdown").fill("While the result")
    under_way[0].continue_()
    expect(looking.get_by_role("button", name="Publish")).to_be_visible()
    for page in (writing, sending, late):
        expect(page.get_by_text("This page is out of date.")).to_be_visible()
    expect(field).to_have_value("Half a sen")
    expect(late.get_by_label("Changelog, in Markdown")).to_have_value("While the result")
    expect(sending.get_by_role("alert")).to_be_visible()
    writing.get_by_role("link", name="reload it").click()
    expect(writing.get_by_role("button", name="Publish")).to_be_visible()


def test_a_window_that_is_closed_gives_its_stream_back(site: Site) -> None:
    watched = site.community.world.app.state.streams = Counted(1)
    claim = held(site.community, 1)
    page = site.open("bob", f"/jobs/{claim.job_id}")
    assert watched.some.wait(30)
    site.expected.append("503")
    other = site.open("bob", f"/jobs/{claim.job_id}")
    expect(other.get_by_text("this page does not update itself")).to_be_visible()
    watched.none.clear()
    page.close()
    assert watched.none.wait(30)
    other.get_by_role("link", name="Reload it").click()
    beat(site.community, claim, 0.5)
    expect(other.get_by_text("50 %")).to_be_visible()


def test_who_signs_out_or_loses_their_role_is_told_no_more(site: Site) -> None:
    site.community.ask("alice", "PATCH", "", visibility="private")
    claim = held(site.community, 1)
    mary, max_ = (site.open(user, f"/jobs/{claim.job_id}") for user in ("mary", "max"))
    beat(site.community, claim, 0.25)
    for page in (mary, max_):
        expect(page.get_by_text("25 %")).to_be_visible()
    site.expected.append("404")
    site.community.role("mary", None)
    expect(mary.get_by_text("There is no such job.")).to_be_visible()
    expect(max_.get_by_text("25 %")).to_be_visible()
    with site.community.world.database.write() as session:
        session.execute(delete(SignIn))
    expect(max_.get_by_text("There is no such job.")).to_be_visible()
    for user in (None, "carol"):
        page = site.open(user, f"/jobs/{claim.job_id}")
        expect(page.get_by_role("alert")).to_have_text("There is no such job.")
        page.goto(f"/jobs/{claim.job_id}/events")
        expect(page.get_by_role("alert")).to_have_text("There is no such job.")


def test_a_stream_tells_what_changes_and_then_that_it_is_over(
    sqlite_crew: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LOOK", 3600.0)  # it is notified
    claim = held(sqlite_crew, 1)
    with served(sqlite_crew) as url, httpx2.Client(base_url=url, timeout=30) as client:
        with client.stream("GET", f"/jobs/{claim.job_id}/events", headers={"Accept": ""}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "private, no-store"
            lines = answer.iter_lines()
            assert next(line for line in lines if "progress" in line).startswith("data: <p")
            beat(sqlite_crew, claim, 0.5)
            assert "50 %" in next(line for line in lines if "progress" in line)
            with sqlite_crew.world.database.write() as session:
                jobs.end(session, claim, "failed", "Line one.\n\nevent: planted\ndata: <b>planted</b>")
            rest = list(lines)
        assert rest[-3:] == ["event: job-ended", "data: ", ""] or rest[-2:] == ["event: job-ended", "data: "]
        assert "event: planted" not in rest and "<b>" not in "".join(rest)
        for method in ("GET", "HEAD"):
            for tail in ("", "/events"):
                answer = client.request(method, f"/jobs/{claim.job_id}{tail}", headers={"Accept": ""})
                assert answer.status_code == (200 if method == "GET" else 405)


def test_a_server_that_stops_does_not_wait_for_those_who_watch(sqlite_crew: Community) -> None:
    claim = held(sqlite_crew, 1)
    with httpx2.Client(timeout=30) as client, served(sqlite_crew) as url:
        request = client.build_request("GET", f"{url}/jobs/{claim.job_id}/events")
        answer = client.send(request, stream=True)
        lines = answer.iter_lines()
        assert next(lines).startswith("data:")
    answer.close()


def test_a_queued_job_says_how_many_are_before_it(sqlite_crew: Community) -> None:
    with sqlite_crew.world.database.write() as session:
        actor = sqlite_crew.actor(session, "bob")
        made = [compositions.request(session, actor, NAME, Mix([Ingredient(number)]))[2] for number in (1, 2, 3)]
        secret = sign_ins.start(session, sqlite_crew.world.token("bob"))
    client = sqlite_crew.world.client(None)
    for place, words in enumerate(("next in line", "1 job before it", "2 jobs before it")):
        job = made[place]
        assert job is not None
        assert words in client.get(f"/jobs/{job.id}").text
        assert client.get(f"/api/v1/jobs/{job.id}").json()["ahead"] == place
    assert "Cancel</button>" not in client.get(f"/jobs/{made[0].id}").text
    client.cookies.set(COOKIE, secret)
    assert "Cancel</button>" in client.get(f"/jobs/{made[0].id}").text
    assert client.get("/jobs/nonsense", headers={"Accept": "text/html"}).status_code == 422
