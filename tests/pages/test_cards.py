"""Pages of a model's card in a real browser: changed, proposed, compared, decided on."""

import re

from playwright.sync_api import Page, expect

from tests.support.browsers import Site
from tests.support.community import NAME
from tests.support.visits import HOSTILE, unharmed, usable

HOME = f"/{NAME}"
CARD = f"---\nlanguage: de\n---\n# Tiny\n\nIt **adds**. {HOSTILE}\n"


def form(page: Page, name: str) -> Page:
    """Return a form by its accessible name, to be filled in like a page."""
    return page.get_by_role("form", name=name, exact=True)  # type: ignore[return-value]


def test_a_card_is_proposed_compared_talked_about_and_accepted(site: Site) -> None:
    old = site.community.get("")["card"]
    bob = site.open("bob", HOME)
    bob.get_by_role("link", name="Change the card").click()
    expect(bob.get_by_label("README.md")).to_have_value(old)
    expect(bob.get_by_role("button", name="Change it at once")).to_have_count(0)
    bob.get_by_label("README.md").fill(CARD)
    bob.get_by_label("What you changed, in one line").fill("Say more")
    form(bob, "Change the card").get_by_label("Why").fill("It was **short**.")
    bob.get_by_role("button", name="Propose it").click()
    bob.wait_for_url(f"**{HOME}/patches/5")
    expect(bob.locator(".diff ins").filter(has_text="It **adds**.")).to_be_visible()
    expect(bob.locator(".diff del").first).to_be_visible()
    unharmed(bob)
    assert form(bob, "Accept").count() == form(bob, "Reject").count() == 0
    bob.get_by_role("link", name="Edit it").click()
    expect(bob.get_by_label("README.md")).to_have_value(CARD)
    bob.get_by_label("README.md").fill(f"{CARD}Mind the carry.\n")
    bob.get_by_role("button", name="Change the proposal").click()
    expect(bob.locator(".diff ins").filter(has_text="Mind the carry.")).to_be_visible()
    carol = site.open("carol", f"{HOME}/patches")
    carol.get_by_role("link", name="Say more").click()
    form(carol, "Comment").get_by_label("Comment").fill("Which carry?")
    carol.get_by_role("button", name="Comment").click()
    expect(carol.locator(".thread > li").filter(has_text="Which carry?")).to_be_visible()
    mary = site.open("mary", f"{HOME}/inbox")
    usable(site, "mary", f"{HOME}/inbox", f"{HOME}/patches/5", f"{HOME}/patches", f"{HOME}/card")
    mary.get_by_role("link", name="Say more").click()
    bob.get_by_role("link", name="Edit it").click()
    bob.get_by_label("README.md").fill(CARD)  # while mary looks at what it was
    bob.get_by_role("button", name="Change the proposal").click()
    expect(bob.locator(".diff ins").filter(has_text="Mind the carry.")).to_have_count(0)
    site.expected.append("409")
    mary.get_by_role("button", name="Accept").click()
    expect(form(mary, "Accept").get_by_role("alert")).to_contain_text("has another text by now")
    mary.reload()
    mary.get_by_role("button", name="Accept").click()
    mary.wait_for_url(f"**{HOME}")
    expect(mary.get_by_role("article").locator("strong")).to_have_text("adds")
    unharmed(mary)
    assert site.community.get("")["card"] == CARD
    bob.reload()
    expect(bob.get_by_text("This became the card of the model.")).to_be_visible()
    expect(bob.locator(".diff ins").filter(has_text="It **adds**.")).to_be_visible()


def test_a_maintainer_changes_it_at_once_and_others_end_with_a_reason(site: Site) -> None:
    site.community.post("bob", "/cards", 201, card="# One\n", title="One")
    site.community.post("bob", "/cards", 201, card="# Two\n", title="Two")
    mary = site.open("mary", f"{HOME}/patches/5")
    form(mary, "Reject").get_by_label("Why").fill("Too short.")
    mary.get_by_role("button", name="Reject").click()
    expect(mary.get_by_text("This card was rejected: Too short.")).to_be_visible()
    bob = site.open("bob", f"{HOME}/patches/6", java_script_enabled=False)
    form(bob, "Withdraw").get_by_label("Why").fill("No need.")
    bob.get_by_role("button", name="Withdraw").click()
    expect(bob.get_by_text("Its author has withdrawn this card: No need.")).to_be_visible()
    mary.goto(f"{HOME}/card")
    expect(mary.get_by_role("listitem").filter(has_text="Two")).to_contain_text("withdrawn")
    mary.get_by_label("README.md").fill("---\nlicense: mit\n---\n# Three")
    mary.get_by_label("What you changed, in one line").fill("Three")
    mary.get_by_role("button", name="Change it at once").click()
    mary.wait_for_url(f"**{HOME}")
    assert site.community.get("")["card"] == "---\nlicense: mit\n---\n# Three\n"
    mary.goto(f"{HOME}/patches/7")
    expect(mary.get_by_text("It names the licence mit.")).to_be_visible()
    usable(site, None, f"{HOME}/patches/7", f"{HOME}/patches/5", HOME)
    visitor = site.open(None, f"{HOME}/patches/7")
    assert visitor.locator("main form").count() == 0
    visitor.goto(f"{HOME}/card")
    expect(visitor).to_have_url(re.compile(r"/login\?next=.*/card$"))
