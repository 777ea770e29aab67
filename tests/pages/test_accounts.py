"""Pages of tokens, users and organisations, in a real browser."""

import httpx2
from playwright.sync_api import expect
from sqlalchemy import select

from registry.db.tables import Namespace, Token, now
from registry.services.people.tokens import create_token
from tests.support.browsers import Site
from tests.support.community import NAME
from tests.support.visits import HOSTILE, unharmed, usable


def whoami(site: Site, secret: str) -> httpx2.Response:
    """Ask the API who a token speaks for."""
    return httpx2.get(f"{site.url}/api/v1/whoami", headers={"Authorization": f"Bearer {secret}"})


def sign_in_with(site: Site, user: str, *scopes: str) -> None:
    """Have a user sign in from now on with a token of these scopes alone."""
    with site.community.world.database.write() as session:
        site.community.world.tokens[user], _ = create_token(session, user, scopes=scopes)


def test_a_token_is_made_shown_once_and_revoked(site: Site) -> None:
    site.expected.append("404")
    page = site.open("alice", "/settings/tokens")
    expect(page.get_by_text("signed in with this one")).to_have_count(1)
    page.get_by_label("Label").fill(HOSTILE)
    page.get_by_label("push –").uncheck()
    page.get_by_label("Only for one model").fill("nobody/nothing")
    page.get_by_role("button", name="Create the token").click()
    expect(page.get_by_role("alert")).to_contain_text("There is no model nobody/nothing; `crumb model list` shows")
    assert page.get_by_label("Label").input_value() == HOSTILE
    page.get_by_label("Only for one model").fill(NAME)
    page.get_by_role("button", name="Create the token").click()
    expect(page.get_by_role("status")).to_contain_text("shown only once")
    expect(page).to_have_title("Your new token · Breadcrumb registry")
    expect(page.get_by_role("button", name="Copy").first).to_be_visible()
    secret = page.locator("main code").first.inner_text()
    assert whoami(site, secret).json()["scopes"] == ["read"]
    unharmed(page)

    page.get_by_role("link", name="Your tokens").click()
    page.wait_for_url("**/settings/tokens")
    assert secret not in page.content()
    row = page.get_by_role("listitem").filter(has_text=HOSTILE)
    expect(row).to_contain_text(f"{secret[:9]}… · read · only for {NAME}")
    expect(row).not_to_contain_text("signed in with this one")
    unharmed(page)
    row.get_by_text("Revoke", exact=True).click()
    row.get_by_role("button", name="Revoke the token").click()
    expect(row).to_have_count(0)
    assert whoami(site, secret).status_code == 401
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_without_scripts_a_token_is_made_and_the_one_in_use_revoked(site: Site) -> None:
    page = site.open("bob", "/settings/tokens", java_script_enabled=False)
    page.get_by_role("button", name="Create the token").click()
    secret = page.locator("main code").first.inner_text()
    assert whoami(site, secret).json()["scopes"] == ["push", "read"]
    page.get_by_role("link", name="Your tokens").click()
    row = page.get_by_role("listitem").filter(has_text="signed in with this one")
    expect(row.get_by_role("button", name="Revoke the token")).not_to_be_visible()  # without a step before it
    row.get_by_text("Revoke", exact=True).press("Enter")
    expect(row).to_contain_text("will be signed out")
    row.get_by_role("button", name="Revoke the token").click()
    page.wait_for_url("**/login")
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()


def test_a_token_without_the_scope_is_shown_no_forms_and_can_send_none(site: Site) -> None:
    sign_in_with(site, "alice", "read", "push")
    page = site.open("alice", "/settings/tokens")
    expect(page.get_by_role("note")).to_contain_text("may neither create nor revoke tokens")
    expect(page.locator("main form")).to_have_count(0)
    page.goto("/alice")
    expect(page.locator("main form")).to_have_count(0)
    cookie, csrf = page.context.cookies()[0], page.locator("input[name=csrf]").first.get_attribute("value")
    for path in ("/settings/tokens", "/settings/organisations", "/settings/namespaces/alice/members"):
        form = {"csrf": csrf, "scopes": "admin", "name": "crew", "user": "bob", "role": "owner"}
        answer = httpx2.post(f"{site.url}{path}", data=form, cookies={cookie["name"]: cookie["value"]})
        assert answer.status_code == 403, path
        assert "is missing the scope" in answer.text
    with site.community.world.database.read() as session:
        assert session.scalar(select(Namespace).where(Namespace.name == "crew")) is None


def test_an_organisation_is_made_and_its_roles_given_and_taken(site: Site) -> None:
    site.expected.extend(("409", "404"))
    page = site.open("bob", "/bob")
    expect(page.get_by_text("There is no model here yet.")).to_be_visible()
    expect(page.get_by_text("You belong to no organisation yet.")).to_be_visible()
    page.get_by_role("textbox", name="New organisation").fill("a1ice")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("looks like 'alice'")
    page.get_by_role("textbox", name="New organisation").fill("crew")
    page.get_by_role("button", name="Create", exact=True).click()
    page.wait_for_url("**/crew")
    page.get_by_label("User").fill("nobody")
    page.get_by_role("button", name="Give the role").click()
    expect(page.get_by_role("alert")).to_have_text("There is no user nobody.")
    page.get_by_label("User").fill("rita")
    page.get_by_role("combobox", name="Role").select_option("maintainer")
    page.get_by_role("button", name="Give the role").click()
    rita = page.get_by_role("listitem").filter(has_text="rita")
    expect(rita).to_contain_text("maintainer")
    expect(page.get_by_role("progressbar", name="Quota of crew")).to_be_visible()

    seen = site.open("rita", "/crew")
    expect(seen.get_by_role("progressbar")).to_be_visible()  # a maintainer sees it
    expect(seen.locator("main form")).to_have_count(0)  # and decides nothing
    rita.get_by_text("Remove", exact=True).click()
    rita.get_by_role("button", name="Remove the role").click()
    expect(rita).to_have_count(0)
    bob = page.get_by_role("listitem").filter(has_text="bob")
    bob.get_by_text("Remove", exact=True).click()
    bob.get_by_role("button", name="Remove the role").click()
    expect(page.get_by_role("alert")).to_have_text("crew needs an owner; make somebody else owner first.")
    page.goto("/bob")
    expect(page.get_by_role("listitem").filter(has_text="crew")).to_contain_text("owner")


def test_a_namespace_shows_each_what_they_may_see(site: Site) -> None:
    site.expected.append("404")
    page = site.open(None, "/alice")
    page.get_by_role("link", name="tiny").click()
    page.wait_for_url(f"**/{NAME}")
    page.goto("/alice")
    expect(page.get_by_role("link", name="Sign in").last).to_be_visible()
    expect(page.get_by_role("heading", name="Members")).to_have_count(0)
    page.goto("/rolf")
    expect(page.get_by_text("rolf has no public model.")).to_be_visible()
    page.goto("/nobody")
    expect(page.get_by_role("alert")).to_have_text("There is no user or organisation nobody.")
    site.community.rules(visibility="private")
    page.goto("/alice")
    expect(page.get_by_text("alice has no public model.")).to_be_visible()
    page = site.open("bob", "/alice")
    expect(page.get_by_text("alice has no model that you may see.")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_count(0)
    page = site.open("chief", "/alice")
    expect(page.get_by_role("link", name="tiny")).to_be_visible()
    expect(page.get_by_role("button", name="Give the role")).to_be_visible()


def test_models_of_a_namespace_come_page_by_page(site: Site) -> None:
    world = site.community.world
    with world.database.write() as session:
        base = site.community.model(session)
        columns = {c.key: getattr(base, c.key) for c in type(base).__table__.columns if c.key not in ("id", "name")}
        session.add_all(type(base)(name=f"more{n:02}", **columns) for n in range(31))
    page = site.open(None, "/alice")
    expect(page.locator(".card")).to_have_count(30)
    page.get_by_role("link", name="Next page").click()
    expect(page.locator(".card")).to_have_count(2)
    expect(page.get_by_role("link", name="tiny")).to_be_visible()


def test_pages_of_accounts_can_be_used_by_everybody(site: Site) -> None:
    with site.community.world.database.write() as session:
        _, ended = create_token(session, "alice", label="x" * 100)
        ended.expires_at = now()
    usable(site, "alice", "/settings/tokens", "/alice")
    usable(site, None, "/alice")
    with site.community.world.database.read() as session:
        assert session.scalars(select(Token).where(Token.label == "x" * 100)).one().revoked_at is None
