"""Three newcomers join, by an invitation, by a provider and by trusted publishing, and bring a release about."""

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from registry.services.catalog import publishers
from tests.support.browsers import Site, serving_site
from tests.support.community import NAME, open_community
from tests.support.makers import fine_tuned, make_patch
from tests.support.oidc import CLIENT, SECRET, Provider, open_provider
from tests.support.processes import until
from tests.support.visits import HOSTILE, unharmed, usable
from tests.support.world import upload


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider for people, and a build service for workflows."""
    with open_provider() as made:
        made.who = {"sub": "u-1", "preferred_username": "vera", "name": "Vera", "groups": ["speech"]}
        yield made


@pytest.fixture
def site(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    browser: Browser,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    monkeypatch.setattr(publishers, "ISSUERS", {"github": provider.url, "gitlab": provider.url})
    settings = {
        "registration": "open",
        "oidc_issuer": provider.url,
        "oidc_client_id": CLIENT,
        "oidc_client_secret": SECRET,
        "oidc_groups": "speech=crew:reviewer",
        "oidc_join": "everybody",
        "oidc_name": "Crew ID",
        "private_issuers": provider.url,
    }
    with (
        open_community("sqlite", tmp_path, request, **settings) as community,
        serving_site(community, browser) as made,
    ):
        yield made


def secret_on(page: Page) -> str:
    """Return what a page shows once, to be copied."""
    return page.locator("main .command code").first.inner_text()


def test_three_newcomers_bring_a_release_about(site: Site, provider: Provider, tmp_path: Path) -> None:
    community = site.community
    owner = site.open("alice", "/alice")
    owner.get_by_text("Invite somebody by a link").click()
    owner.get_by_label("For whom").fill("Max")
    owner.locator("#invite-role").select_option("maintainer")
    owner.get_by_role("button", name="Make the link").click()
    expect(owner.get_by_role("status")).to_contain_text("shown only once")
    link = secret_on(owner)

    invited = site.open(None, link.removeprefix(site.url))
    invited.get_by_label("Name", exact=True).fill("nora")
    invited.get_by_label("What to call you").fill("Nora N.")
    invited.get_by_role("button", name="Join").click()
    expect(invited.get_by_role("status")).to_contain_text("Your account is there")
    community.world.tokens["nora"] = secret_on(invited)
    invited.goto("/nora")
    expect(invited.get_by_role("button", name="Sign out")).to_be_visible()
    expect(invited.get_by_text("Nora N.").first).to_be_visible()

    there = site.open(None, f"/login?next=/{NAME}")
    there.get_by_role("link", name="Sign in by Crew ID").click()
    there.wait_for_url(f"**/{NAME}")
    expect(there.get_by_role("link", name="vera")).to_be_visible()

    owner.goto(f"/{NAME}/settings/publishers")
    panel = owner.get_by_role("form", name="GitHub Actions")
    panel.get_by_label("Repository").fill("crew/training")
    panel.get_by_label("File in .github/workflows").fill("train.yml")
    panel.get_by_label("Pushes as").fill("tiny-ci")
    panel.get_by_role("button", name="Name the workflow").click()
    expect(owner.get_by_role("main").get_by_role("link", name="tiny-ci")).to_be_visible()
    identity = provider.identity(
        site.url,
        sub="repo:crew/training",
        jti=str(uuid.uuid4()),
        repository="crew/training",
        job_workflow_ref="crew/training/.github/workflows/train.yml@refs/heads/main",
        run_id="5",
    )
    given = httpx2.post(f"{site.url}/api/v1/publishing/token", json={"model": NAME, "token": identity})
    assert given.status_code == 200, given.text
    community.world.tokens["tiny-ci"] = given.json()["token"]
    file = tmp_path / "ci.safetensors"
    make_patch(community.base, fine_tuned(community.base, tmp_path / "tuned", seed=77), file)
    robot = community.world.client("tiny-ci")
    body = {"sha256": upload(robot, file.read_bytes()), "title": "Trained by CI", "propose": True}
    number = robot.post(f"/api/v1/models/{NAME}/patches", json=body).json()["number"]

    until(lambda: community.patch(number)["check"] == "checked")
    community.role("vera", "reviewer")
    there.goto(f"/{NAME}/patches/{number}")
    expect(there.get_by_role("link", name="This run")).to_have_attribute(
        "href", "https://github.com/crew/training/actions/runs/5"
    )
    there.get_by_role("button", name="Approve").click()
    expect(there.locator(".state-approved").first).to_be_visible()
    invited.goto(f"/{NAME}/patches/{number}")
    invited.get_by_role("button", name="Accept", exact=True).click()
    expect(invited.locator(".state-accepted").first).to_be_visible()
    invited.goto(f"/{NAME}/recipes/new")
    invited.get_by_role("checkbox", name=re.compile(rf"#{number}\b")).check()
    invited.get_by_role("button", name="Compose").click()
    invited.wait_for_url(re.compile(r"/recipes/[0-9a-f]{64}"))
    expect(invited.get_by_label("Version")).to_be_visible(timeout=60_000)  # once it is composed
    invited.get_by_label("Version").fill("2.0.0")
    invited.get_by_role("button", name="Cut the release").click()
    invited.wait_for_url(f"**/{NAME}/releases/2.0.0")
    until(lambda: community.get("/releases/2.0.0")["missing"] == [])  # another worker has composed it, too
    invited.reload()
    invited.get_by_role("button", name="Publish").first.click()
    expect(invited.locator(".state-published").first).to_be_visible()
    published = community.get("/releases/2.0.0")
    assert (published["state"], published["creator"]) == ("published", "nora")


def test_whoever_asks_comes_in_once_an_admin_says_so(site: Site) -> None:
    page = site.open(None, "/login")
    page.get_by_role("link", name="Ask to join").click()
    page.get_by_label("Name", exact=True).fill("dora")
    page.get_by_label("For the admin").fill(HOSTILE)
    page.get_by_role("button", name="Ask to join").click()
    link = secret_on(page).removeprefix(site.url)
    page.goto(link)
    expect(page.get_by_role("heading", name="Your request waits")).to_be_visible()
    admin = site.open("chief", "/admin/invitations")
    unharmed(admin)
    admin.get_by_role("button", name="Approve").click()
    expect(admin.get_by_text("Nobody waits for an answer.")).to_be_visible()
    page.goto(link)
    assert page.get_by_label("Name", exact=True).input_value() == "dora"
    page.get_by_role("button", name="Join").click()
    expect(page.get_by_role("heading", name="Welcome, dora")).to_be_visible()


def test_a_program_is_let_in_and_a_session_ended_by_clicking(site: Site) -> None:
    codes = httpx2.post(f"{site.url}/api/v1/device", json={"label": "crumb on a laptop"}).json()
    page = site.open("bob", codes["url"].removeprefix(site.url))
    page.get_by_role("button", name="Let it in").click()
    expect(page.get_by_role("status")).to_contain_text("gets its token now")
    asked = httpx2.post(f"{site.url}/api/v1/device/token", json={"device_code": codes["device_code"]}).json()
    assert asked["user"] == "bob"
    other = site.open("bob", "/")
    page.goto("/settings/sessions")
    rows = page.get_by_role("listitem").filter(has_not_text="this one")
    expect(rows).to_have_count(1)
    rows.get_by_text("Sign out", exact=True).click()
    rows.get_by_role("button", name="Sign it out").click()
    expect(rows).to_have_count(0)
    other.reload()
    expect(other.get_by_role("link", name="Sign in")).to_be_visible()


def test_the_pages_of_people_can_be_used_by_everybody(site: Site) -> None:
    chief = site.community.world.client("chief")
    link = chief.post("/api/v1/admin/invitations", json={"label": "Ada"}).json()["url"]
    path = re.sub(r"^https?://[^/]+", "", link)
    code = httpx2.post(f"{site.url}/api/v1/device", json={"label": "crumb"}).json()["url"].removeprefix(site.url)
    site.community.world.client("carol").put(f"/api/v1/models/{NAME}/watch")
    site.community.post("bob", "/patches/1/propose")
    site.community.post("bob", "/patches/1/comments", 201, message="@carol, look.")
    usable(site, "carol", "/inbox", f"/{NAME}")
    usable(site, None, "/join", path, "/login")
    usable(site, "alice", "/alice", "/settings/profile", "/settings/sessions", "/settings/mail", "/device", code)
    usable(site, "alice", f"/{NAME}/settings/publishers")
    usable(site, "chief", "/admin/users", "/admin/invitations")
