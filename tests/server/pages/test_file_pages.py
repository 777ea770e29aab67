"""Files beside the weights on pages: of a patch, with the keys that differ, and in the form that cuts a release."""

import json
import re
from html import escape, unescape

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from registry.db.tables import Release
from registry.files.folders import is_pickle
from registry.server.pages.frame.cookies import COOKIE, csrf_of
from registry.server.pages.frame.files import NOT_SENT
from registry.services.people import sign_ins
from tests.support.community import NAME, Community
from tests.support.visits import HOSTILE

pytestmark = pytest.mark.heavy

CONFIG = json.dumps({"rope_theta": 1e6, "x" + HOSTILE[:40]: HOSTILE[:40]}).encode()


def browser(crew: Community, user: str) -> tuple[TestClient, str]:
    """Return somebody's browser without scripts, and what its forms carry."""
    http = crew.world.browser()
    with crew.world.database.write() as session:
        secret = sign_ins.start(session, crew.world.token(user))
    http.cookies.set(COOKIE, secret)
    return http, csrf_of(secret)


def test_the_page_of_a_patch_has_its_files_and_the_keys_that_differ(crew: Community) -> None:
    files = {"config.json": CONFIG, "modeling_tiny.py": b"import os"}
    number = crew.push_files(crew.spares[0], files)["number"]
    http, _ = browser(crew, "rita")
    page = http.get(f"/{NAME}/patches/{number}").text
    assert "Beside the weights" in page and "code that may run where the model is loaded" in page
    assert "rope_theta</code></th><td>missing</td><td><code>1000000.0</code>" in page
    assert "5 keys differ" in page
    assert HOSTILE[:40] not in page and escape(HOSTILE[:30]).replace("&quot;", "&#34;") in page
    assert f'href="/{NAME}/patches/{number}.1/files/config.json"' in page
    assert http.get(f"/{NAME}/patches/{number}.1/files/config.json").content == CONFIG
    assert "Beside the weights" not in http.get(f"/{NAME}/patches/1").text
    crew.put("chief", f"/patches/{number}/quarantine", reason="bad")
    assert f"{number}.1/files/config.json" not in http.get(f"/{NAME}/patches/{number}").text
    assert http.get(f"/{NAME}/patches/{number}.1/files/config.json").status_code == 403


def test_the_form_of_a_release_has_a_box_for_each_accepted_patch_with_files(crew: Community) -> None:
    accepted = crew.push_files(crew.spares[0], {"config.json": CONFIG}, title="Accepted")["number"]
    crew.push_files(crew.spares[1], {"config.json": CONFIG}, title="A draft")
    crew.accept(1, accepted)
    http, token = browser(crew, "mary")
    page = unescape(http.get(f"/{NAME}/releases").text)
    assert f'name="files_of" value="{accepted}"> #{accepted} Accepted: <code>config.json</code>' in page
    assert page.count('name="files_of"') == 1
    fields = {"csrf": token, "version": "1.0.0", "add": f"1 {accepted}", "alpha": "1", "files_of": str(accepted)}
    answer = http.post(f"/{NAME}/releases", data=fields)
    assert answer.status_code == 303, answer.text
    crew.world.work()
    page = http.get(answer.headers["location"]).text
    assert "Files of patches" in page and f"#{accepted}.1</a>" in page
    assert [file["path"] for file in crew.get("/releases/1.0.0")["taken_files"]] == ["config.json"]
    with crew.world.database.write() as session:
        session.scalars(select(Release)).one().state = "draft"  # as after a composition that failed
    page = http.get(answer.headers["location"]).text
    assert f'<input type="hidden" name="files_of" value="{accepted}">' in page, "cut again, it takes them again"


def test_a_form_sends_nothing_pickled_however_its_name_is_written() -> None:
    for path in ("optimizer.pt", "a/Optimizer.PT", "pytorch_model.BIN", "x.Pkl"):
        assert is_pickle(path) and re.search(NOT_SENT, path), path
    for path in ("model.safetensors", "README.md", "pt", "a.pt/config.json"):
        assert not re.search(NOT_SENT, path), path
