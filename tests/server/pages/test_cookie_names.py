"""Cookies: over https no other host of the domain can plant one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.server.pages.frame.cookies import COOKIE, csrf_of
from registry.services.people import sign_ins
from tests.support.world import World, open_world


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[World]:
    """A registry that people reach by https."""
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    with open_world(tmp_path / "data", url, public_url="https://crumbs.example.org") as made:
        yield made


def test_a_cookie_that_another_host_may_have_planted_signs_nobody_in(encrypted: World) -> None:
    token = encrypted.token("mallory")
    with encrypted.database.write() as session:
        secret = sign_ins.start(session, token)
    browser = encrypted.browser()
    given = browser.get("/login").headers["set-cookie"]
    assert given.startswith(f"__Host-{COOKIE}=")
    assert "Secure" in given and "Path=/" in given and "Domain" not in given
    for name, status in ((COOKIE, 303), (f"__Host-{COOKIE}", 200)):
        found = browser.get("/settings/profile", headers={"cookie": f"{name}={secret}"})
        assert found.status_code == status, name
    form = {"csrf": csrf_of(secret), "display_name": "M"}
    planted = browser.post("/settings/profile", data=form, headers={"cookie": f"{COOKIE}={secret}"})
    assert planted.status_code in (401, 403)
