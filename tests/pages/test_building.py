"""The recipe builder and the pages of recipes, in a real browser."""

import re
from typing import Any

from playwright.sync_api import Page, expect
from sqlalchemy import select, update

from registry.db.tables import Job, Model, Patch, PatchRevision
from registry.services.people.tokens import create_token
from registry.services.queue import jobs
from tests.support.browsers import Site, faults
from tests.support.community import NAME
from tests.support.holding import held, held_comparison
from tests.support.visits import HOSTILE, unharmed, usable

NEW = f"/{NAME}/recipes/new"
RECIPE = re.compile(r"/recipes/[0-9a-f]{64}$")


def tick(page: Page, number: int) -> None:
    page.locator(f"input[name=patch][value='{number}']").check()


def preview(page: Page) -> Any:
    return page.locator("#preview")


def test_a_recipe_is_ticked_weighed_compared_and_composed(site: Site) -> None:
    site.community.accept(1, 3)
    page = site.open("bob", NEW)
    expect(page.locator("input[name=patch]")).to_have_count(4)
    assert page.locator("input[name=patch]").evaluate_all("found => found.map(one => one.value)") == [
        "3",
        "1",
        "4",
        "2",
    ]
    expect(preview(page)).to_contain_text("No patch is ticked yet.")
    expect(page.get_by_label("Weight of patch #1", exact=True)).to_be_hidden()
    tick(page, 1)
    expect(preview(page)).to_contain_text("1 patch, alpha 1 (auto)")
    tick(page, 3)
    expect(preview(page)).to_contain_text("2 patches, alpha auto")
    box, slider = (
        page.get_by_label("Weight of patch #3", exact=True),
        page.get_by_label("Weight of patch #3, by a slider"),
    )
    box.fill("0.10")
    expect(slider).to_have_value("0.1")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(box).to_have_value("0.15")
    box.fill("0.30000000000000000001")  # no float holds it
    expect(preview(page)).to_contain_text("0.30000000000000000001")
    page.get_by_label("Alpha", exact=True).fill("0.50")
    expect(preview(page)).to_contain_text("alpha 0.5")
    page.get_by_role("button", name="Analyse conflicts").click()
    expect(preview(page).locator("figcaption")).to_be_visible()
    expect(page.get_by_role("link", name="#1 and #3")).to_have_attribute("href", f"/{NAME}/patches/1.1/compare/3.1")
    assert page.url.endswith("/recipes/new")
    page.get_by_role("button", name="Compose", exact=True).click()
    page.wait_for_url(RECIPE)
    expect(page.get_by_role("heading", name="Use this recipe")).to_be_visible()
    weights = [{"number": 1}, {"number": 3, "weight": "0.30000000000000000001"}]
    made = site.community.post("bob", "/compositions", patches=weights, alpha="0.5")
    assert made["recipe"]["digest"] == page.url.rpartition("/")[2]
    expect(page.get_by_text(made["weights_digest"])).to_be_visible()
    expect(page.get_by_text(f"crumb pull {NAME}@{made['recipe']['digest'][:8]} -o merged")).to_be_visible()
    expect(page.get_by_role("link", name="model.safetensors")).to_be_visible()
    expect(page.locator("figcaption")).to_be_visible()
    page.get_by_role("link", name="Change this recipe").click()
    page.wait_for_url("**/recipes/new?from=*")
    expect(page.get_by_label("Weight of patch #3.1", exact=True)).to_have_value("0.30000000000000000001")
    expect(page.get_by_label("Alpha", exact=True)).to_have_value("0.5")
    expect(preview(page)).to_contain_text("composed already")
    page.get_by_role("link", name="View it").click()
    page.wait_for_url(RECIPE)
    page.goto(f"/{NAME}/recipes/{made['recipe']['digest'][:8]}")
    assert RECIPE.search(page.url)


def test_alpha_auto_waits_until_patches_are_compared_and_then_goes_on_by_itself(site: Site) -> None:
    page = site.open("bob", f"{NEW}?patch=1&patch=3&w3=0.5")
    expect(page.get_by_label("Alpha", exact=True)).to_have_value("auto")
    expect(preview(page)).to_contain_text("1 pair of them is not compared yet; composing them has that done first")
    claim = held_comparison(site.community, 1, 3)
    page.get_by_role("button", name="Compose", exact=True).click()
    expect(page.get_by_role("heading", name="Comparing patches")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("Conflict analysis.")
    assert faults(page) == []
    page.get_by_role("button", name="Go on").click()  # too early
    expect(page.get_by_role("heading", name="Comparing patches")).to_be_visible()
    with site.community.world.database.write() as session:
        jobs.release(session, claim)
    page.wait_for_url(RECIPE)
    expect(page.get_by_role("heading", name="Use this recipe")).to_be_visible()
    expect(page.get_by_label("Facts")).to_contain_text("auto: 0.3 x the root of (norm of the base / (s")
    body = {"patches": [{"number": 1}, {"number": 3, "weight": "0.5"}]}
    recipe = site.community.post("bob", "/compositions", **body)["recipe"]
    assert recipe["digest"] == page.url.rpartition("/")[2]
    page.goto(f"{NEW}?patch=1&patch=3&w3=0.5")
    expect(preview(page)).to_contain_text(f"alpha {recipe['alpha']} (auto)")
    expect(page.get_by_label("Alpha, by a slider")).to_have_value(f"{float(recipe['alpha']):.2f}")


def test_the_preview_shows_alpha_auto_once_the_patches_are_compared(site: Site) -> None:
    page = site.open("bob", f"{NEW}?patch=1&patch=4")
    page.get_by_role("button", name="Analyse conflicts").click()
    expect(preview(page)).to_contain_text("(auto)")
    expect(preview(page)).to_contain_text(
        "auto: 0.3 x the root of (norm of the base / (sum of weights x norm of the sum))"
    )
    expect(page.locator("input[name=patch]:checked")).to_have_count(2)


def test_a_comparison_that_ends_without_numbers_is_not_asked_for_in_a_circle(site: Site) -> None:
    site.expected.append("409")
    page = site.open("bob", f"{NEW}?patch=1&patch=3")
    claim = held_comparison(site.community, 1, 3)
    page.get_by_role("button", name="Compose", exact=True).click()
    expect(page.get_by_role("heading", name="Comparing patches")).to_be_visible()
    with site.community.world.database.write() as session:
        jobs.end(session, claim, "failed", f"{HOSTILE} is unreadable.")
    expect(page.get_by_role("status")).to_contain_text(f"Conflict analysis failed. {HOSTILE} is unreadable.")
    expect(page.get_by_role("alert")).to_contain_text("These patches are still not compared")
    unharmed(page)
    with site.community.world.database.read() as session:
        assert session.query(Job).where(Job.kind == "compose").count() == 0


def test_without_scripts_it_is_an_ordinary_form_that_forgets_nothing(site: Site) -> None:
    page = site.open("bob", f"{NEW}?patch=3&w3=0.5&patch=4", java_script_enabled=False)
    expect(page.locator("input[type=range]").first).to_be_hidden()
    expect(preview(page)).to_contain_text("2 patches, alpha auto")
    page.get_by_label("Weight of patch #4", exact=True).fill("-1.5")
    page.get_by_label("Alpha", exact=True).fill("0.25")
    page.get_by_label("Title, author, task or #number").fill("#2")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("input[name=patch]:checked")).to_have_count(2)
    tick(page, 2)
    page.get_by_role("button", name="Preview").click()
    expect(preview(page)).to_contain_text("3 patches, alpha 0.25")
    expect(preview(page).get_by_role("row", name="#4")).to_contain_text("-1.5")
    assert "csrf" not in page.url
    page.get_by_role("button", name="Analyse conflicts").click()
    expect(preview(page)).to_contain_text("3 patches, alpha 0.25")
    page.get_by_role("button", name="Compose", exact=True).click()
    page.wait_for_url(RECIPE)
    digest = page.url.rpartition("/")[2]
    weights = [{"number": 2}, {"number": 3, "weight": "0.5"}, {"number": 4, "weight": "-1.5"}]
    assert (
        site.community.post("bob", "/compositions", None, patches=weights, alpha="0.25")["recipe"]["digest"] == digest
    )
    claim = held(site.community, 1)
    page.goto(f"/{NAME}/recipes/{claim.subject}")
    with site.community.world.database.write() as session:
        jobs.end(session, claim, "failed", "It overflows.")
    page.get_by_role("link", name="Look again").click()
    expect(page.get_by_text("It overflows.")).to_be_visible()


def test_pages_and_filters_keep_what_is_ticked(site: Site) -> None:
    with site.community.world.database.write() as session:
        like = site.community.revision(session, 1)
        old = session.get_one(Patch, like.patch_id)
        mask = ("base_digest", "license", "size", "nnz", "density")
        session.get_one(Model, old.model_id).patch_count = 49
        for number in range(5, 50):
            patch = Patch(model_id=old.model_id, author_id=old.author_id, number=number, revision=1, state="proposed")
            session.add(patch)
            session.flush()
            same = {name: getattr(like, name) for name in mask}
            session.add(
                PatchRevision(
                    patch_id=patch.id,
                    number=1,
                    state="checked",
                    title=f"Number {number}",
                    message="",
                    sha256=f"{number:064x}",
                    **same,
                )
            )
    site.community.set(7, state="accepted")
    page = site.open(None, NEW)
    seen = page.locator("input[name=patch]").evaluate_all("found => found.map(one => Number(one.value))")
    assert seen == [7, *range(49, 30, -1)]
    tick(page, 7)
    page.get_by_label("Weight of patch #7", exact=True).fill("0.70")
    expect(preview(page)).to_contain_text("0.7")
    page.get_by_role("button", name="More patches").click()
    page.wait_for_url("**before=*")
    expect(page.get_by_label("Weight of patch #7", exact=True)).to_have_value("0.70")
    unticked = page.locator("input[name=patch]:not(:checked)")
    assert unticked.evaluate_all("found => found.map(one => Number(one.value))") == [*range(30, 10, -1)]
    tick(page, 12)
    expect(preview(page)).to_contain_text("2 patches")
    page.get_by_label("Title, author, task or #number").fill("number 4")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=number+4**")
    expect(page.locator("input[name=patch]:checked")).to_have_count(2)
    assert unticked.evaluate_all("found => found.map(one => Number(one.value))") == [*range(49, 39, -1)]
    site.expected.append("cannot be parsed")  # what Chromium says of "much" in a box for numbers
    page.goto(f"{NEW}?q=nothing+like+this")
    expect(page.get_by_text("No other patch matches.")).to_be_visible()
    for query, sentence in (
        ("patch=999", f"There is no patch {NAME}#999."),
        ("patch=x", "A patch must be a number like 12 or 12.2, not 'x'."),
        ("patch=1&w1=1e3", "The weight of patch #1 must be a decimal like 0.5 or -1.25, not '1e3'."),
        ("patch=1&alpha=much", "Alpha must be auto, or a decimal like 0.5 or -1.25, not 'much'."),
        ("&".join(f"patch={n}" for n in range(1, 202)), "at most 200 patches"),
        ("from=9.9.9", f"There is no release {NAME}@9.9.9"),
    ):
        page.goto(f"{NEW}?{query}")
        expect(page.get_by_role("alert")).to_contain_text(sentence)


def test_everybody_may_look_and_some_may_compose_and_cut(site: Site) -> None:
    site.expected += ["422", "403", "401"]
    page = site.open(None, f"{NEW}?patch=1&w1=0.5")
    expect(preview(page)).to_contain_text("1 patch")
    expect(page.get_by_role("button", name="Compose")).to_have_count(0)
    tick(page, 2)
    expect(preview(page)).to_contain_text("2 patches")
    page.get_by_role("link", name="Sign in", exact=True).last.click()
    page.get_by_label("Token").fill(site.community.world.token("carol"))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/recipes/new?patch=1**")
    expect(page.locator("input[name=patch]:checked")).to_have_count(2)
    page.get_by_role("button", name="Compose", exact=True).click()
    page.wait_for_url(RECIPE)
    expect(page.get_by_role("heading", name="Use this recipe")).to_be_visible()
    expect(page.get_by_role("button", name="Cut the release")).to_have_count(0)
    recipe = page.url.removeprefix(site.url)
    with site.community.world.database.write() as session:
        site.community.world.tokens["reader"], _ = create_token(session, "reader", scopes=["read"])
    page = site.open("reader", f"{NEW}?patch=1")
    expect(preview(page)).to_contain_text("Your token lacks the scope “push”")
    expect(page.get_by_role("button", name="Compose")).to_have_count(0)
    page = site.open("mary", recipe)
    page.get_by_label("Version").fill("0.9.0")
    page.get_by_role("button", name="Cut the release").click()
    page.wait_for_url("**/releases/0.9.0")
    assert len(site.community.get("/releases/0.9.0")["recipe"]["patches"]) == 2
    page.goto(recipe)
    page.get_by_label("Version").fill("0.8.0")
    page.evaluate("document.querySelector('form[action$=release] input[name=csrf]').value = 'planted'")
    page.get_by_role("button", name="Cut the release").click()
    expect(page.get_by_role("alert")).to_contain_text("This form is out of date")


def test_a_yanked_patch_is_composed_only_by_who_says_so(site: Site) -> None:
    site.expected.append("422")
    site.community.set(2, state="yanked", reason=HOSTILE)
    page = site.open("bob", f"{NEW}?patch=2")
    expect(preview(page)).to_contain_text(HOSTILE)
    unharmed(page)
    page.get_by_role("button", name="Compose", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text(f"{NAME}#2 was yanked ({HOSTILE})")
    expect(page.locator("input[name=patch]:checked")).to_have_count(1)
    page.get_by_label("Allow yanked patches").check()
    expect(preview(page)).to_contain_text("was yanked:")
    page.get_by_role("button", name="Compose", exact=True).click()
    page.wait_for_url(RECIPE)
    expect(page.get_by_role("heading", name="Use this recipe")).to_be_visible()
    expect(page.get_by_role("note")).to_contain_text(HOSTILE)
    unharmed(page)


def test_a_composition_that_was_given_up_is_asked_for_again(site: Site) -> None:
    claim = held(site.community, 1)
    page = site.open("bob", f"/{NAME}/recipes/{claim.subject}")
    expect(page.get_by_text("Composing.")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)  # once is enough
    other = site.open("carol", f"/{NAME}/recipes/{claim.subject}")
    expect(other.get_by_role("button", name="Cancel")).to_have_count(0)
    with site.community.world.database.write() as session:
        assert jobs.hold(session, claim).cancel_requested
        jobs.end(session, claim, "cancelled")
    expect(page.get_by_text("Composing was cancelled.")).to_be_visible()
    page.get_by_role("button", name="Compose again").click()
    expect(page.get_by_role("heading", name="Use this recipe")).to_be_visible()
    claim = held(site.community, 2)
    page.goto(f"/{NAME}/recipes/{claim.subject}")
    with site.community.world.database.write() as session:
        jobs.end(session, claim, "failed", f"{HOSTILE} overflows.")
    expect(page.get_by_text(f"Composing failed. {HOSTILE} overflows.")).to_be_visible()
    expect(page.get_by_role("button", name="Compose again")).to_be_visible()
    unharmed(page)
    site.expected.append("404")
    page.goto(f"/{NAME}/recipes/{'0' * 64}")
    expect(page.get_by_role("alert")).to_contain_text("Nobody has composed the recipe 000000000000")


def test_strangers_words_stay_words_and_all_pages_can_be_used(site: Site) -> None:
    with site.community.world.database.write() as session:
        session.execute(update(PatchRevision).values(title=HOSTILE))
    made = site.community.post("bob", "/compositions", 202, patches=[{"number": 1}, {"number": 2}], alpha="0.3")
    recipe = f"/{NAME}/recipes/{made['recipe']['digest']}"
    page = site.open("mary", recipe)
    expect(page.get_by_role("heading", name="Use this recipe")).to_be_visible()
    page.get_by_role("button", name="Analyse conflicts").click()
    expect(page.locator("figcaption")).to_be_visible()
    with site.community.world.database.read() as session:
        job = session.scalars(select(Job).where(Job.kind == "conflicts")).one()
    hostile = f"q={HOSTILE}".replace("#", "%23").replace("&", "%26").replace("+", "%2B")
    for path in (f"{NEW}?patch=1&patch=2&{hostile}", NEW, recipe, f"/jobs/{job.id}"):
        page.goto(path)
        if "jobs" not in path:
            expect(page.get_by_text(HOSTILE).first).to_be_visible()
        unharmed(page)
    usable(site, "mary", f"{NEW}?patch=1&patch=2", NEW, recipe, f"/jobs/{job.id}")


def test_a_composition_is_deleted_by_who_may_unless_a_release_holds_it(site: Site) -> None:
    site.community.accept(1, 3)
    world = site.community.world
    made = {}
    for number in (1, 3):
        asked = world.client("bob").post(f"/api/v1/models/{NAME}/compositions", json={"patches": [{"number": number}]})
        made[number] = asked.json()["recipe"]["digest"]
    expect(site.open("bob", f"/{NAME}/recipes/{made[1]}").get_by_text("Use this recipe")).to_be_visible()
    body = {"version": "1.0.0", "from_ref": made[1]}
    assert world.client("mary").post(f"/api/v1/models/{NAME}/releases", json=body).status_code in (201, 202)
    held = site.open("mary", f"/{NAME}/recipes/{made[1]}")
    expect(held.get_by_text("@1.0.0 holds this composition; it stays as long as the release.")).to_be_visible()
    assert held.get_by_text("Delete the composition").count() == 0
    expect(site.open("bob", f"/{NAME}/recipes/{made[3]}").get_by_text("Use this recipe")).to_be_visible()
    for user in (None, "carol"):
        assert site.open(user, f"/{NAME}/recipes/{made[3]}").get_by_text("Delete this composition").count() == 0
    page = site.open("bob", f"/{NAME}/recipes/{made[3]}")
    page.get_by_label("Delete: the composition").click()
    page.get_by_role("button", name="Delete the composition").click()
    expect(page).to_have_url(re.compile(rf"/{NAME}$"))
    gone = world.client("bob").get(f"/api/v1/models/{NAME}/revisions/{made[3]}")
    assert gone.status_code == 404, gone.text
