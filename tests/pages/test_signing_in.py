"""Signing in by pasting a token, in a real browser; and the pages that anybody sees first."""

from playwright.sync_api import expect
from sqlalchemy import select

from registry.db.tables import SignIn, Token, now
from tests.support.browsers import Site, faults
from tests.support.community import NAME


def test_a_token_signs_in_and_the_way_goes_on_to_where_one_wanted_to_go(site: Site) -> None:
    page = site.open(None, "/settings/tokens")
    expect(page).to_have_title("Sign in · Breadcrumb registry")
    page.get_by_label("Token").fill(site.community.world.token("bob"))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/settings/tokens")
    cookie = page.context.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert site.community.world.token("bob") not in str(page.context.cookies())
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    with site.community.world.database.read() as session:
        assert session.scalars(select(SignIn)).all() == []


def test_a_wrong_token_is_refused_in_the_form_which_stays(site: Site) -> None:
    site.expected.append("401")
    page = site.open(None, "/login")
    page.get_by_label("Token").fill("hf_nonsense")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("The registry does not know this token.")
    assert page.get_by_label("Token").input_value() == "hf_nonsense"


def test_without_scripts_everything_is_an_ordinary_form(site: Site) -> None:
    page = site.open(None, "/login", java_script_enabled=False)
    page.get_by_label("Token").fill(site.community.world.token("bob"))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_a_revoked_token_signs_out_at_once(site: Site) -> None:
    page = site.open("bob", "/")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    with site.community.world.database.write() as session:
        for token in session.scalars(select(Token)):
            token.revoked_at = now()
    page.reload()
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()


def test_the_first_pages_can_be_used_by_everybody(site: Site) -> None:
    for width in (1200, 400):
        for theme in ("light", "dark"):
            for path in ("/", "/login", f"/{NAME}", "/models?q=nothing+like+this"):
                page = site.open(None, path, width=width, color_scheme=theme)
                assert faults(page) == [], path
                assert page.evaluate("document.documentElement.scrollWidth") <= width, path
                page.context.close()


def test_a_model_is_found_by_the_keyboard_alone(site: Site) -> None:
    page = site.open(None, "/")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "q":
            break
    page.keyboard.type("tiny")
    page.keyboard.press("Enter")
    page.wait_for_url("**/models?q=tiny")
    page.get_by_role("link", name=NAME).focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/{NAME}")
    expect(page.get_by_text("crumb pull alice/tiny -o merged")).to_be_visible()
