"""The whole story by clicking, in a real browser: from a patch to a release that users pull."""

import re

from playwright.sync_api import expect

from tests.support.browsers import Site, faults
from tests.support.community import NAME
from tests.support.processes import until


def test_from_a_proposal_to_the_pull_command_by_clicking(site: Site) -> None:
    home = f"/{NAME}"
    for number in (1, 2):
        page = site.open("bob", f"{home}/patches/{number}")
        page.get_by_role("button", name="Propose").click()
        expect(page.locator(".state-proposed").first).to_be_visible()

    page = site.open("rita", f"{home}/inbox")
    page.get_by_role("link", name=re.compile("Patch 1")).first.click()
    page.wait_for_url(f"**{home}/patches/1")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator(".state-approved").first).to_be_visible()
    page.goto(f"{home}/patches/2")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator(".state-approved").first).to_be_visible()

    page = site.open("mary", f"{home}/patches/1")
    for number in (1, 2):
        page.goto(f"{home}/patches/{number}")
        page.get_by_role("button", name="Accept", exact=True).click()
        expect(page.locator(".state-accepted").first).to_be_visible()

    page.goto(f"{home}/recipes/new")
    for number in (1, 2):
        page.get_by_role("checkbox", name=re.compile(rf"#{number}\b")).check()
    page.get_by_role("button", name="Compose").click()
    page.wait_for_url(re.compile(r"/recipes/[0-9a-f]{64}"))
    expect(page.get_by_text(re.compile("crumb pull alice/tiny@[0-9a-f]{8}")).first).to_be_visible(timeout=60_000)
    assert faults(page) == []

    page.get_by_label("Version").fill("1.0.0")
    page.get_by_role("button", name="Cut the release").click()
    page.wait_for_url(f"**{home}/releases/1.0.0")
    until(lambda: site.community.get("/releases/1.0.0")["missing"] == [])  # another worker has composed it, too
    page.reload()
    page.get_by_role("button", name="Publish").click()
    expect(page.locator(".state-published").first).to_be_visible()
    assert faults(page) == []

    page = site.open(None, home)
    expect(page.get_by_role("heading", name=re.compile("Latest release: 1.0.0"))).to_be_visible()
    expect(page.get_by_text("crumb pull alice/tiny -o merged")).to_be_visible()
    assert faults(page) == []
