"""Pages on which a model is kept: inbox, settings, audit log, webhooks; in a real browser."""

import re

from playwright.sync_api import expect
from sqlalchemy import select

from registry.db.tables import Model, Patch, PatchRevision, WebhookDelivery
from tests.support.browsers import Site
from tests.support.community import NAME
from tests.support.visits import HOSTILE, unharmed, usable

HOOKS = f"/{NAME}/settings/webhooks"


def test_an_inbox_shows_everybody_what_is_theirs_to_do(site: Site) -> None:
    crew = site.community
    crew.push(crew.spares[0], "bob", title=HOSTILE, propose=True)  # 5
    crew.push(crew.spares[1], "rita", title="Of a reviewer", propose=True)  # 6
    crew.post("rita", "/patches/5/reviews", 201, verdict="approve", revision=1)
    page = site.open("carol", f"/{NAME}/inbox")
    expect(page.get_by_text("Nothing waits for you here.")).to_be_visible()
    page = site.open("bob", f"/{NAME}/inbox")
    expect(page.get_by_role("region", name=re.compile("^Your patches"))).to_contain_text(HOSTILE)
    expect(page.get_by_text("Propose it once it is ready")).to_have_count(4)
    unharmed(page)
    page = site.open("rita", f"/{NAME}/inbox")
    expect(page.get_by_role("heading", name="To review")).to_have_count(0)
    expect(page.get_by_text("nobody approves their own")).to_be_visible()
    page = site.open("mary", f"/{NAME}/inbox")
    accept = page.get_by_role("region", name=re.compile("^To accept"))
    expect(accept).to_contain_text(HOSTILE)
    review = page.get_by_role("region", name=re.compile("^To review"))
    expect(review).to_contain_text("Of a reviewer")
    expect(review).not_to_contain_text(HOSTILE)  # what can be decided is named once
    unharmed(page)
    accept.get_by_role("link", name="Decide").click()
    page.wait_for_url(f"**/{NAME}/patches/5")
    page = site.open(None, f"/{NAME}/inbox")
    expect(page).to_have_title("Sign in · Breadcrumb registry")


def test_one_inbox_leads_to_the_models_in_which_something_waits(site: Site) -> None:
    site.community.post("bob", "/patches/1/propose")
    page = site.open("rita", "/")
    page.get_by_role("link", name="Inbox", exact=True).click()
    page.wait_for_url("**/inbox")
    assert "1 proposed by others" in page.inner_text("main")
    expect(page.get_by_role("link", name="Inbox", exact=True)).to_have_attribute("aria-current", "page")
    page.get_by_role("link", name=NAME).click()
    page.wait_for_url(f"**/{NAME}/inbox")
    assert "3 of yours not decided" not in site.open("rita", "/inbox").inner_text("main")
    assert "4 of yours not decided" in site.open("bob", "/inbox").inner_text("main")
    assert "Nothing waits for you" in site.open("carol", "/inbox").inner_text("main")
    usable(site, "rita", "/inbox")


def test_an_inbox_names_releases_and_channels_that_wait(released: Site) -> None:
    crew = released.community
    crew.cut("1.3.0", [1, 2, 3, 4])
    crew.put("mary", "/channels/stable", version="1.1.0", reason="")
    crew.put("alice", "/channels/stable/protection", approvals=2)
    crew.put("mary", "/channels/stable", version="1.2.0", reason="")
    page = released.open("max", f"/{NAME}/inbox")
    expect(page.get_by_role("region", name=re.compile("^To publish"))).to_contain_text("1.3.0")
    asked = page.get_by_role("region", name=re.compile("^Requested channel moves"))
    expect(asked).to_contain_text("stable → 1.2.0")
    expect(asked).to_contain_text("1 of 2 asked for it: mary")
    page = released.open("mary", f"/{NAME}/inbox")
    expect(page.get_by_role("heading", name="Requested channel moves")).to_have_count(0)  # she has
    page = released.open("rita", f"/{NAME}/inbox")
    expect(page.get_by_text("Nothing waits for you here.")).to_be_visible()
    usable(released, "max", f"/{NAME}/inbox")


def test_an_owner_changes_what_a_model_asks_for_and_who_is_what_to_it(site: Site) -> None:
    site.expected.extend(("422", "404", "403"))
    page = site.open("alice", f"/{NAME}/settings")
    page.get_by_label("Evaluations needed").fill("no metric")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("required_evaluations.0")
    page.get_by_label("Evaluations needed").fill(f"{HOSTILE}:accuracy\n\nmmlu:accuracy")
    page.get_by_label("Approvals needed").fill("2")
    page.get_by_label("Licence").fill("mit")
    page.get_by_label("Share of the smallest").fill("0.95")
    page.get_by_label("The shares are of").select_option("row")
    page.get_by_label("Visibility").select_option("private")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".subject").get_by_text("private")).to_be_visible()
    expect(page.get_by_label("Evaluations needed")).to_have_value(f"{HOSTILE}:accuracy\nmmlu:accuracy")
    unharmed(page)
    with site.community.world.database.read() as session:
        model = site.community.model(session)
        assert (model.visibility, model.license, model.min_approvals) == ("private", "mit", 2)
        assert model.required_evaluations == [f"{HOSTILE}:accuracy", "mmlu:accuracy"]
        assert model.mask == {"drop_bottom": "0.95", "granularity": "row"}
    expect(page.get_by_label("Share of the smallest")).to_have_value("0.95")
    page.get_by_label("Share of the smallest").fill("")
    page.get_by_label("The shares are of").select_option("")
    page.get_by_label("Evaluations needed").fill("")
    with page.expect_navigation():
        page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Evaluations needed")).to_have_value("")
    with site.community.world.database.read() as session:
        assert site.community.model(session).mask == {}

    page.get_by_label("User").fill("nobody")
    page.get_by_role("button", name="Give the role").click()
    expect(page.get_by_role("alert")).to_have_text("There is no user nobody.")
    page.get_by_label("User").fill("carol")
    page.get_by_role("combobox", name="Role").select_option("reviewer")
    page.get_by_role("button", name="Give the role").click()
    carol = page.get_by_role("listitem").filter(has_text="carol")
    expect(carol).to_contain_text("reviewer")
    owner = page.get_by_role("listitem").filter(has_text="owner, of all of alice")
    expect(owner.get_by_text("Remove")).to_have_count(0)  # it is held elsewhere
    carol.get_by_text("Remove", exact=True).click()
    carol.get_by_role("button", name="Remove the role").click()
    expect(carol).to_have_count(0)

    seen = site.open("mary", f"/{NAME}/settings")
    expect(seen.get_by_role("alert")).to_contain_text("This needs an owner of alice/tiny")
    expect(seen.get_by_role("link", name="Settings")).to_have_count(0)
    page.goto(f"/{NAME}/audit?action=model.update")
    unharmed(page)
    expect(page.get_by_role("row").nth(1)).to_contain_text("required evaluations")
    expect(page.get_by_role("row").nth(2)).to_contain_text("min approvals 1 → 2")
    expect(page.get_by_role("row").nth(2)).to_contain_text(HOSTILE)


def test_the_log_of_a_model_is_for_its_maintainers_and_comes_page_by_page(site: Site) -> None:
    site.expected.extend(("403", "422"))
    for number in range(60):
        site.community.post("carol", "/patches/1/comments", 201, message=f"{HOSTILE} {number}")
    page = site.open("mary", f"/{NAME}/audit")
    expect(page.locator("tbody tr")).to_have_count(50)
    page.get_by_label("By").fill("carol")
    page.get_by_label("Action").fill("patch.*")
    with page.expect_navigation():
        page.get_by_role("button", name="Find").click()
    page.get_by_role("link", name="Next page").click()
    expect(page.locator("tbody tr")).to_have_count(10)
    expect(page.get_by_text(HOSTILE)).to_have_count(0)  # a comment can be deleted, so the log does not repeat it
    unharmed(page)
    page.goto(f"/{NAME}/audit?action=channel.move")
    expect(page.get_by_text("Nothing in the log matches.")).to_be_visible()
    page.goto(f"/{NAME}/audit?action=nonsense")
    expect(page.get_by_role("alert")).to_contain_text("action:")
    page = site.open("rita", f"/{NAME}/audit")
    expect(page.get_by_role("alert")).to_contain_text("This needs a maintainer")


def test_a_webhook_is_made_tested_turned_off_and_deleted(site: Site) -> None:
    site.expected.extend(("422", "403"))
    page = site.open("alice", HOOKS)
    expect(page.get_by_text("There are no webhooks yet.")).to_be_visible()
    page.get_by_label("Address").fill("https://127.0.0.1/hook")
    page.get_by_role("button", name="Create the webhook").click()
    expect(page.get_by_role("alert")).to_have_text("This registry calls only public addresses.")
    page.get_by_label("Address").fill("https://hooks.example.org/crumbs")
    page.get_by_label("release", exact=True).check()
    page.get_by_label("Single events").fill("patch.accept, channel.move")
    page.get_by_role("button", name="Create the webhook").click()
    expect(page.get_by_role("status")).to_contain_text("shown only once")
    secret = page.locator("main code").first.inner_text()
    assert secret.startswith("whsec_")
    page.get_by_role("link", name="Continue").click()
    expect(page.get_by_text("There are no deliveries yet.")).to_be_visible()
    assert secret not in page.content()
    expect(page.locator("main")).to_contain_text("receives release.* patch.accept channel.move")
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_role("row").nth(1)).to_contain_text("webhook.test")
    with site.community.world.database.write() as session:
        sent = session.scalars(select(WebhookDelivery)).one()
        sent.state, sent.attempts, sent.status, sent.answer = "failed", 8, 500, HOSTILE
    page.reload()
    page.locator("summary").get_by_text("Answer").click()
    expect(page.get_by_text(HOSTILE, exact=True)).to_be_visible()
    expect(page.get_by_role("row").nth(1)).to_contain_text("failed")
    unharmed(page)
    usable(site, "alice", HOOKS, page.url.removeprefix(site.url))
    page.get_by_role("button", name="Send again").click()
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_role("button", name="Turn it off").click()
    expect(page.get_by_role("note")).to_contain_text("This webhook is off.")
    expect(page.get_by_role("button", name="Send again")).to_have_count(0)
    page.get_by_role("button", name="Turn it on").click()
    expect(page.get_by_role("button", name="Send a test")).to_be_visible()
    page.get_by_text("Delete", exact=True).click()
    page.get_by_role("button", name="Delete the webhook").click()
    page.wait_for_url(f"**{HOOKS}")
    expect(page.get_by_text("There are no webhooks yet.")).to_be_visible()
    seen = site.open("mary", HOOKS)
    expect(seen.get_by_role("alert")).to_contain_text("This needs an owner")


def test_pages_of_keeping_a_model_can_be_used_by_everybody(site: Site) -> None:
    site.community.push(site.community.spares[0], "bob", title="x" * 200, propose=True)
    usable(site, "alice", f"/{NAME}/settings", f"/{NAME}/audit", f"/{NAME}/inbox")


def test_an_inbox_of_a_thousand_patches_shows_the_first_of_them(site: Site) -> None:
    crew = site.community
    with crew.world.database.write() as session:
        model, first = crew.model(session), crew.revision(session, 1)
        bob = crew.actor(session, "bob").user_id
        copied = {
            c.key: getattr(first, c.key) for c in PatchRevision.__table__.columns if c.key not in ("id", "patch_id")
        }
        for number in range(5, 1001):
            row = Patch(model_id=model.id, number=number, author_id=bob, state="proposed")
            row.revisions = [PatchRevision(**copied | {"sha256": f"{number:064x}", "title": f"Patch {number}"})]
            session.add(row)
        session.get_one(Model, model.id).min_approvals = 0
    page = site.open("mary", f"/{NAME}/inbox")
    expect(page.get_by_role("region", name=re.compile("^To accept")).get_by_role("listitem")).to_have_count(50)
    page.get_by_role("link", name="More that waits for you").click()
    page.wait_for_url(f"**/{NAME}/inbox?after=*")
    expect(page.get_by_role("region", name=re.compile("^To accept")).get_by_role("listitem")).to_have_count(50)
    assert len(crew.get("/inbox?after=960", "mary")["accept"]) == 40
