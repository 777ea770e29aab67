"""Lists over all models: what was released last, and what waits; complete page by page, without what is not visible."""

from typing import Any

import pytest
from sqlalchemy import select

from registry.db.tables import Model, now
from registry.services.people import paging
from tests.support.community import Community


def pages(crew: Community, path: str, user: str | None = None, limit: int = 1) -> list[dict[str, Any]]:
    """Return all items of a list, page by page."""
    items, before = [], ""
    while True:
        answer = crew.world.client(user).get(f"/api/v1/{path}?limit={limit}{before}")
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["items"]) <= limit
        items += page["items"]
        if page["next"] is None:
            return items
        before = f"&before={page['next']}"


def test_proposed_patches_come_newest_first_and_only_while_they_wait(crew: Community) -> None:
    assert pages(crew, "patches") == []
    for number in (1, 2, 3):
        crew.post("bob", f"/patches/{number}/propose")
    assert [item["number"] for item in pages(crew, "patches")] == [3, 2, 1]
    crew.set(2, quarantine_reason="bad", quarantined_at=now())
    crew.post("bob", "/patches/3/withdraw", message="")
    (left,) = pages(crew, "patches")
    assert (left["model"], left["number"], left["title"], left["author"]) == ("alice/tiny", 1, "Patch 1", "bob")


def test_what_a_caller_may_not_see_is_left_out_and_does_not_end_a_list(
    crew: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3, 4):
        crew.post("bob", f"/patches/{number}/propose")
    monkeypatch.setattr(paging, "WINDOW", 2)
    assert [item["number"] for item in pages(crew, "patches", limit=3)] == [4, 3, 2, 1]
    with crew.world.database.write() as session:
        session.scalars(select(Model)).one().visibility = "private"
    assert pages(crew, "patches") == pages(crew, "releases") == []
    assert [item["number"] for item in pages(crew, "patches", "rita")] == [4, 3, 2, 1]


def test_releases_come_newest_first_without_yanked_ones(lived: Community) -> None:
    assert [item["version"] for item in pages(lived, "releases")] == ["1.2.0", "1.1.0", "1.0.0"]
    lived.post("mary", "/releases/1.1.0/yank", message="Broken.")
    rows = pages(lived, "releases")
    assert [item["version"] for item in rows] == ["1.2.0", "1.0.0"]
    assert {(item["model"], item["publisher"]) for item in rows} == {("alice/tiny", "mary")}


def test_a_cursor_that_is_none_is_refused(crew: Community) -> None:
    answer = crew.world.client(None).get("/api/v1/patches?before=x")
    assert answer.status_code == 422
