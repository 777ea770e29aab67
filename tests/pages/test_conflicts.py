"""Pages of conflict analysis, in a real browser: asked for, waited for, looked at."""

import re

from playwright.sync_api import expect

from tests.support.browsers import Site
from tests.support.community import NAME
from tests.support.visits import HOSTILE, unharmed, usable

HOME = f"/{NAME}"


def known(site: Site, *numbers: int) -> None:
    """Have patches compared, and wait until they are."""
    page = site.open("carol", f"{HOME}/conflicts?{'&'.join(f'patch={number}' for number in numbers)}")
    page.get_by_role("button", name=f"Analyse conflicts of all {len(numbers)}").click()
    expect(page.get_by_role("heading", name="How many patches touch a weight")).to_be_visible()
    page.context.close()


def test_a_pair_is_asked_for_waited_for_and_shown_without_a_reload(site: Site) -> None:
    visitor = site.open(None, f"{HOME}/patches/1/compare/2.1")
    expect(visitor.get_by_text("The conflicts of these two patches have not been analysed yet.")).to_be_visible()
    expect(visitor.get_by_role("button", name="Analyse conflicts")).to_have_count(0)
    expect(visitor.get_by_role("main").get_by_role("link", name="Sign in")).to_have_attribute(
        "href", re.compile("next=.*compare")
    )
    page = site.open("carol", f"{HOME}/patches/1/compare/2")
    page.get_by_role("button", name="Analyse conflicts").click()
    expect(page.get_by_role("heading", name="Layer by layer")).to_be_visible()
    found = site.community.get("/conflicts/1/2")["whole"]
    cards = page.locator(".measures")
    expect(cards.get_by_role("listitem").filter(has_text="Opposed")).to_contain_text(
        f"{100 * found['sign_conflict']:.3g} %"
    )
    expect(cards.get_by_role("listitem").filter(has_text="Cosine")).to_contain_text(f"{found['cosine']:.3f}")
    expect(page.get_by_role("row").filter(has_text="embed.weight").last).to_be_visible()
    for metric in ("Overlap against chance", "Cosine", "Cancellation", "Opposed signs"):
        page.get_by_role("navigation", name="Metric").get_by_role("link", name=metric).click()
        expect(page.get_by_role("figure")).to_contain_text(f"{metric} by layer and projection")
    visitor.reload()
    expect(visitor.get_by_role("heading", name="Layer by layer")).to_be_visible()
    site.expected += ["404", "422"]
    for tail in ("1/compare/99", "1/compare/1", "1/compare/2?measure=nonsense"):
        visitor.goto(f"{HOME}/patches/{tail}")
        expect(visitor.get_by_role("alert")).to_be_visible()


def test_a_set_is_chosen_compared_and_each_pair_is_a_click_away(site: Site) -> None:
    page = site.open("carol", f"{HOME}/conflicts")
    expect(page.get_by_text("Conflict analysis needs two patches.")).to_be_visible()
    for number in (1, 2, 4):
        page.get_by_label(f"#{number} Patch {number}").check()
    page.get_by_role("button", name="Show these").click()
    expect(page.get_by_text("3 of 3 pairs have not been analysed yet.")).to_be_visible()
    expect(page.get_by_role("heading", name="Share of each patch")).to_be_visible()  # which is known already
    page.get_by_role("button", name="Analyse conflicts of all 3").click()
    expect(page.get_by_role("heading", name="How many patches touch a weight")).to_be_visible()
    told = site.community.get("/conflicts?patch=1&patch=2&patch=4")
    row = page.get_by_role("region", name="Weights by how many patches touch them").get_by_role("row")
    expect(row.filter(has_text="no patch")).to_contain_text(f"{told['census'][0]:,}")
    pairs = page.get_by_role("region", name="Pairs that lose most")
    expect(pairs.locator("tbody tr")).to_have_count(3)
    page.locator("#chart-pairs a[href*='/compare/']").first.click()
    page.wait_for_url(re.compile(r"/patches/4\.1/compare/2\.1$"))
    page.go_back()
    pairs.get_by_role("link", name=re.compile("#1 and #4|#4 and #1")).click()
    page.wait_for_url(re.compile(r"/patches/[14]\.1/compare/[14]\.1$"))


def test_without_scripts_one_asks_and_looks_again(site: Site) -> None:
    page = site.open("carol", f"{HOME}/conflicts?patch=3&patch=4", java_script_enabled=False)
    page.get_by_role("button", name="Analyse conflicts").click()
    page.wait_for_url("**/compare/4.1*")
    for _ in range(50):
        if page.get_by_role("heading", name="Layer by layer").count():
            break
        page.reload()
    expect(page.get_by_role("heading", name="Layer by layer")).to_be_visible()


def test_a_patch_is_compared_with_the_newest_release(released: Site) -> None:
    page = released.open("carol", f"{HOME}/conflicts")
    expect(page.get_by_text("The patches of release 1.2.0: #1, #2, #3.")).to_be_visible()
    page.goto(f"{HOME}/patches/4")
    expect(page.get_by_text("Its conflicts with other patches have not been analysed yet.")).to_be_visible()
    page.get_by_role("button", name="Analyse its conflicts with the newest release").click()
    page.wait_for_url("**/conflicts?patch=4.1&patch=1.1*")
    expect(page.get_by_role("heading", name="How many patches touch a weight")).to_be_visible()
    page.goto(f"{HOME}/patches/4")
    page.get_by_role("link", name="#2 Patch 2").click()
    page.wait_for_url("**/patches/4.1/compare/2.1")
    visitor = released.open(None, f"{HOME}/patches/4")
    expect(visitor.get_by_role("link", name="#2 Patch 2")).to_be_visible()
    assert visitor.locator("main form").count() == 0


def test_everybody_can_use_them_and_strangers_words_do_nothing(site: Site) -> None:
    number = site.community.push(site.community.spares[0], title=HOSTILE)["number"]
    known(site, 1, 2, number)
    chosen = f"{HOME}/conflicts?patch=1&patch=2&patch={number}"
    usable(site, "carol", chosen, f"{HOME}/patches/1/compare/{number}?measure=cosine", f"{HOME}/conflicts")
    page = site.open("carol", chosen)
    page.get_by_text("Choose the patches").click()
    expect(page.get_by_label(HOSTILE)).to_be_checked()
    unharmed(page)
    page.goto(f"{HOME}/patches/1/compare/{number}")
    expect(page.get_by_role("link", name=HOSTILE)).to_be_visible()
    unharmed(page)
