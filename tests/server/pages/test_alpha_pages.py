"""Alpha `auto` and hints on pages: the default, the page that waits for a comparison, and sentences that stay words."""

import re
from html import escape, unescape
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from registry.breadcrumbs.comparing.hints import Hint
from registry.db.tables import Job
from registry.server.pages.frame.cookies import COOKIE, csrf_of
from registry.services.catalog import norms
from registry.services.composing import previews
from registry.services.people import sign_ins
from tests.support.community import NAME, Community
from tests.support.visits import HOSTILE

HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')


@pytest.fixture
def database_kind() -> str:
    """SQLite alone: forms and what they show, where the database decides nothing."""
    return "sqlite"


class Browser:
    """Somebody's browser without scripts."""

    def __init__(self, crew: Community, user: str) -> None:
        self.http: TestClient = crew.world.browser()
        with crew.world.database.write() as session:
            self.secret = sign_ins.start(session, crew.world.token(user))
        self.http.cookies.set(COOKIE, self.secret)

    def get(self, path: str) -> str:
        answer = self.http.get(f"/{NAME}{path}")
        assert answer.status_code == 200, answer.text
        return unescape(answer.text)

    def post(self, path: str, fields: dict[str, Any]) -> Any:
        return self.http.post(f"/{NAME}{path}", data={"csrf": csrf_of(self.secret), **fields})


def hidden(page: str) -> dict[str, list[str]]:
    """Return the hidden fields of the form of a page that waits."""
    found: dict[str, list[str]] = {}
    for name, value in HIDDEN.findall(page[page.index("<main") :]):
        found.setdefault(name, []).append(unescape(value))
    return found


def test_the_editor_begins_with_auto_and_shows_the_decimal_and_its_rule_once_it_is_known(crew: Community) -> None:
    bob = Browser(crew, "bob")
    page = bob.get("/recipes/new?patch=1&patch=2")
    assert re.search(r'id="alpha"[^>]*value="auto"', page)
    assert "1 pair of them is not compared yet; composing them has that done first" in page
    crew.post("bob", "/conflicts", 202, patches=[{"number": 1}, {"number": 2}])
    assert "known when the patches are compared" in bob.get("/recipes/new?patch=1&patch=2")
    crew.world.work()
    told = crew.ask(None, "POST", "/preview", patches=[{"number": 1}, {"number": 2}])
    page = bob.get("/recipes/new?patch=1&patch=2")
    assert f"2 patches, alpha {told['alpha']} (auto)" in page
    assert "auto: 0.3 x the root of (norm of the base / (sum of weights x norm of the sum))" in page
    assert "auto: a patch by itself has alpha 1" in bob.get("/recipes/new?patch=1")


def test_without_scripts_a_page_waits_and_sends_the_same_form_again(crew: Community) -> None:
    bob = Browser(crew, "bob")
    fields = {"patch": ["1", "3"], "w3": "0.5", "t1": "embed.*=0.5", "alpha": "auto", "method": "ties"}
    asked = bob.post("/recipes", fields)
    assert asked.status_code == 200
    assert "Comparing patches" in asked.text and "next in line" in asked.text
    again = hidden(asked.text)
    with crew.world.database.read() as session:
        (job,) = session.scalars(select(Job).where(Job.kind == "conflicts"))
    assert again["compared"] == [str(job.id)]
    assert (again["patch"], again["t1"], again["csrf"]) == (["1", "3"], ["embed.*=0.5"], [csrf_of(bob.secret)])
    early = bob.post("/recipes", again)
    assert early.status_code == 200 and hidden(early.text) == again
    crew.world.work()
    done = bob.post("/recipes", again)
    assert done.status_code == 303
    recipe = done.headers["location"]
    items = [{"number": 1, "where": [["embed.*", "0.5"]]}, {"number": 3, "weight": "0.5"}]
    made = crew.post("bob", "/compositions", 202, patches=items, method="ties")
    assert recipe == f"/{NAME}/recipes/{made['recipe']['digest']}"
    assert "auto: 0.3 x the root of (norm of the base x " in bob.get(recipe.removeprefix(f"/{NAME}"))


def test_a_release_waits_on_the_same_page(crew: Community) -> None:
    crew.accept(1, 2)
    mary = Browser(crew, "mary")
    assert "that of the start, or auto" in mary.get("/releases")
    asked = mary.post("/releases", {"version": "1.0.0", "add": "1 2"})
    assert "Comparing patches" in asked.text
    crew.world.work()
    assert mary.post("/releases", hidden(asked.text)).headers["location"] == f"/{NAME}/releases/1.0.0"
    crew.world.work()
    assert "auto: 0.3 x the root of (norm of the base / " in mary.get("/releases/1.0.0")
    crew.post("mary", "/releases", 202, version="1.1.0", from_ref="1.0.0", alpha="0.3")
    assert "auto:" not in mary.get("/releases/1.1.0")


def test_a_comparison_that_was_cancelled_ends_the_waiting(crew: Community) -> None:
    bob = Browser(crew, "bob")
    again = hidden(bob.post("/recipes", {"patch": ["1", "2"]}).text)
    job = again["compared"][0]
    assert crew.world.client("bob").post(f"/api/v1/jobs/{job}/cancel").status_code == 200
    refused = bob.post("/recipes", again)
    assert refused.status_code == 409
    assert "These patches are still not compared" in refused.text


@pytest.mark.parametrize("compared", ["", "x", HOSTILE, "0" * 36])
def test_what_a_form_says_it_waited_for_is_only_compared(crew: Community, compared: str) -> None:
    answer = Browser(crew, "bob").post("/recipes", {"patch": ["1", "2"], "compared": compared})
    assert answer.status_code == 409
    assert HOSTILE not in answer.text


def test_hints_are_on_the_page_of_a_patch_and_in_the_editor_and_stay_words(
    crew: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew.accept(1, 2)
    with crew.world.database.write() as session:
        large = crew.revision(session, 3)
        large.norm, large.rounding = 9 * (crew.revision(session, 1).norm or 0), 0.75
    rita = Browser(crew, "rita")
    for path in ("/patches/3", "/recipes/new?patch=1&patch=3&alpha=0.3"):
        page = rita.get(path)
        assert "which it drowns out" in page, path
        assert "75% of what #3 changes is a single step of rounding" in page, path
        assert re.search(r"\b3:0\.\d+", page), path
    assert "75 % of its changes" in rita.get("/patches/3")
    assert "drowns" not in rita.get("/patches/1")
    crew.world.work()
    assert [hint["kind"] for hint in crew.get("/patches/3/discussion")["hints"]] == ["norm", "rounding"]
    hostile = [Hint("norm", HOSTILE)]
    monkeypatch.setattr(norms, "hints_of_patch", lambda *_: hostile)
    monkeypatch.setattr(previews, "hints_of_recipe", lambda *_: hostile)
    for path in ("/patches/3", "/recipes/new?patch=1"):
        text = rita.http.get(f"/{NAME}{path}").text
        assert escape(HOSTILE) in text.replace("&#34;", "&quot;").replace("&#39;", "&#x27;") and HOSTILE not in text


def test_an_alpha_far_from_auto_and_patches_that_cancel_are_hints_of_the_editor(crew: Community) -> None:
    crew.post("bob", "/conflicts", 202, patches=[{"number": 1}, {"number": 2}])
    crew.world.work()
    bob = Browser(crew, "bob")
    alpha = crew.ask(None, "POST", "/preview", patches=[{"number": 1}, {"number": 2}])["alpha"]
    page = bob.get("/recipes/new?patch=1&patch=2&alpha=0.1")
    assert f"Alpha 0.1 is {0.1 / float(alpha):.2g} times the {alpha} that auto gives" in page
    assert "Hints" not in bob.get(f"/recipes/new?patch=1&patch=2&alpha={alpha}")
