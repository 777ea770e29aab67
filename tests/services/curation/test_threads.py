"""Threads: comments that are edited, quoted and previewed, and what comments and verdicts say about tensors."""

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from registry.db.tables import CommentEdit
from registry.server.pages.frame.cookies import COOKIE, csrf_of
from registry.services.curation import comments
from registry.services.people import sign_ins
from tests.support.community import NAME, URL, Community

pytestmark = pytest.mark.heavy
HERE = f"/{NAME}/patches/1"


def say(crew: Community, message: str, user: str = "carol", status: int = 201, **body: Any) -> Any:
    return crew.post(user, "/patches/1/comments", status, message=message, **body)


def mentioned(crew: Community, user: str) -> list[str]:
    return [row["by"] for row in crew.world.client(user).get("/api/v1/news").json()["mentions"]]


def browse(crew: Community, user: str) -> tuple[TestClient, str]:
    """Return a browser of somebody, and the CSRF token of its forms."""
    browser = crew.world.browser()
    with crew.world.database.write() as session:
        secret = sign_ins.start(session, crew.world.token(user))
    browser.cookies.set(COOKIE, secret)
    return browser, csrf_of(secret)


def test_an_edited_comment_keeps_its_texts_for_whoever_may_read_it(crew: Community) -> None:
    first = say(crew, "One, @rita.")
    where = f"/patches/1/comments/{first['id']}"
    crew.put("bob", where, 403, message="Not mine")
    crew.put("carol", where, message="Two, @rita and @bob.")
    crew.put("carol", where, message="Two, @rita and @bob.")
    edited = crew.put("carol", where, message="Three")
    assert (edited["message"], edited["edited_at"] is not None) == ("Three", True)
    history = crew.get(f"{where}/history")
    assert [text["message"] for text in history["texts"]] == ["One, @rita.", "Two, @rita and @bob.", "Three"]
    assert len(crew.events("patch.edit_comment")) == 2, "an edit to the same text is none"
    assert (mentioned(crew, "rita"), mentioned(crew, "bob")) == (["carol"], ["carol"])
    crew.put("mary", f"{where}/hidden", reason="Rude")
    assert crew.get(f"{where}/history", "carol", 404)
    assert crew.get(f"{where}/history", "mary")["texts"][0]["message"] == "One, @rita."
    crew.put("carol", where, 409, message="Four")
    crew.post("mary", f"{where}/delete", message="Rude")
    assert crew.get(f"{where}/history", "mary", 404)
    with crew.world.database.read() as session:
        assert session.query(CommentEdit).count() == 0, "deleted with the comment"


def test_a_comment_is_edited_only_so_often(sqlite_crew: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comments, "MOST_EDITS", 1)
    where = f"/patches/1/comments/{say(sqlite_crew, 'a')['id']}"
    sqlite_crew.put("carol", where, message="b")
    sqlite_crew.put("carol", where, 409, message="c")


def test_an_edit_names_those_again_whom_the_text_before_did_not(sqlite_crew: Community) -> None:
    where = f"/patches/1/comments/{say(sqlite_crew, 'Hello')['id']}"
    sqlite_crew.put("carol", where, message="> @bob said\n\nHello @rita")
    assert (mentioned(sqlite_crew, "rita"), mentioned(sqlite_crew, "bob")) == (["carol"], []), "a quote names nobody"


def test_comments_and_verdicts_refer_to_tensors_that_the_patch_changes(crew: Community) -> None:
    refused = say(crew, "Hm", status=422, about=["layers.9.*"])
    assert "layers.9.*" in refused["detail"] and f"crumb show {NAME}#1" in refused["detail"]
    say(crew, "Hm", status=422, about=["layers.[0"])
    on = say(crew, "Norms should stay.", about=["layers.*"])
    assert (on["about"], on["revision"]) == (["layers.*"], 1)
    crew.post("bob", "/patches/1/propose")
    verdict = {"verdict": "request_changes", "revision": 1, "message": "Why so large?"}
    crew.post("rita", "/patches/1/reviews", 422, about=["nothing"], **verdict)
    assert crew.patch(1)["state"] == "proposed"
    crew.post("rita", "/patches/1/reviews", 201, about=["embed.weight"], **verdict)
    hidden = say(crew, "Spam", about=["embed.*"])
    say(crew, "All in all, good.")
    crew.put("mary", f"/patches/1/comments/{hidden['id']}/hidden", reason="Spam")
    discussion = crew.get("/patches/1/discussion")
    assert [(row["kind"], row["author"], row["about"], row["message"]) for row in discussion["remarks"]] == [
        ("comment", "carol", ["layers.*"], "Norms should stay."),
        ("review", "rita", ["embed.weight"], "Why so large?"),
    ]
    assert discussion["reviews"][0]["about"] == ["embed.weight"]
    page = crew.world.client(None).get(HERE).text
    beside = {name: re.findall(r'href="#said-([0-9a-f-]+)"', part) for name, part in rows_of_tensors(page).items()}
    assert beside.pop("lm_head.weight") == []
    assert beside == {"embed.weight": [discussion["reviews"][0]["id"]], "layers.0.norm.weight": [on["id"]]}
    assert f'id="said-{on["id"]}"' in page


def rows_of_tensors(page: str) -> dict[str, str]:
    """Return what the table of tensors has for each of them, by its name."""
    table = page.partition('aria-label="Tensors"')[2].partition("</tbody>")[0]
    rows = re.split('<tr><th scope="row">', table)[1:]
    return {row.partition("<code>")[2].partition("</code>")[0]: row for row in rows}


def test_a_form_shows_what_its_message_will_look_like_with_and_without_a_script(sqlite_crew: Community) -> None:
    browser, csrf = browse(sqlite_crew, "carol")
    fields = {"csrf": csrf, "message": "**bold** <script>alert(1)</script>", "about": "layers.*", "revision": "1"}
    whole = browser.post(f"{HERE}/comments", data={**fields, "preview": "on"}).text
    assert "<strong>bold</strong>" in whole and "<script>alert" not in whole and "<h1>Preview</h1>" in whole
    assert 'name="about" value="layers.*"' in whole and f'action="{HERE}/comments"' in whole
    part = browser.post(f"{HERE}/comments", data={**fields, "preview": "on"}, headers={"HX-Request": "true"}).text
    assert "<strong>bold</strong>" in part and "<html" not in part
    assert sqlite_crew.get("/patches/1/discussion")["comments"] == []
    assert browser.post(f"{HERE}/comments", data=fields).status_code == 303
    (comment,) = sqlite_crew.get("/patches/1/discussion")["comments"]
    assert comment["about"] == ["layers.*"]
    quoting = browser.get(f"{HERE}?quote={comment['id']}").text
    assert "&gt; **bold** &lt;script&gt;alert(1)&lt;/script&gt;" in quoting
    edit = f"{HERE}/comments/{comment['id']}/edit"
    assert "<em>thin</em>" in browser.post(edit, data={"csrf": csrf, "message": "*thin*", "preview": "on"}).text
    assert browser.post(edit, data={"csrf": csrf, "message": "*thin*"}).status_code == 303
    history = browser.get(f"{HERE}/comments/{comment['id']}/history").text
    assert "<em>thin</em>" in history and "<strong>bold</strong>" in history and "<script>alert" not in history


def test_a_verdict_that_is_previewed_is_not_given(sqlite_crew: Community) -> None:
    sqlite_crew.post("bob", "/patches/1/propose")
    browser, csrf = browse(sqlite_crew, "rita")
    fields = {"csrf": csrf, "message": "Fine.", "revision": "1", "preview": "on"}
    shown = browser.post(f"{HERE}/reviews", data=fields).text
    assert 'name="verdict" value="approve"' in shown
    assert sqlite_crew.world.client("rita").get(f"{URL}/patches/1/reviews").json()["items"] == []
