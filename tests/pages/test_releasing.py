"""Releases and channels in a real browser: cut, edited, published, compared and yanked; moved and rolled back."""

from playwright.sync_api import Page, expect
from sqlalchemy import select

from registry.db.tables import Evaluation, PatchRevision, Release
from tests.support.browsers import Site, faults
from tests.support.community import NAME

HOME = f"/{NAME}"
PAYLOADS = (
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=window.pwned=1>',
    "[x](javascript:window.pwned=1)</title></textarea><svg onload=window.pwned=1>",
)


def press(page: Page, name: str, button: str, **fields: str) -> None:
    """Fill in a form by the labels of its fields, and send it."""
    form = page.get_by_role("form", name=name)
    for label, value in fields.items():
        form.get_by_label(label.replace("_", " "), exact=True).fill(value)
    form.get_by_role("button", name=button).click()


def measure(site: Site, ref: str, metric: str, value: float, user: str = "bob", *, higher: bool = True) -> None:
    words = {"task": "sums", "dataset": "gsm8k", "metric": metric, "higher_is_better": higher}
    site.community.post(user, "/evaluations", 201, ref=ref, value=value, **words)


def usable(site: Site, user: str | None, *paths: str) -> None:
    """Look at pages in both widths and themes."""
    for width, theme in ((1200, "light"), (1200, "dark"), (400, "light"), (400, "dark")):
        page = site.open(user, width=width, color_scheme=theme)
        for path in paths:
            page.goto(HOME + path)
            assert faults(page) == [], (path, width, theme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert page.evaluate("window.pwned") is None, path
        page.context.close()


def test_a_release_is_cut_edited_published_put_on_a_channel_and_yanked_by_clicking(released: Site) -> None:
    released.expected += ["422", "409", "401"]
    page = released.open("mary", f"{HOME}/releases")
    press(page, "Cut a release", "Cut", Version="1.2.1", Add="4:0.5")
    expect(page.get_by_role("alert")).to_contain_text("Version 1.2.1 does not fit after 1.2.0: it adds or strengthens")
    assert page.get_by_label("Version").input_value() == "1.2.1"
    press(page, "Cut a release", "Cut", Add="four")
    expect(page.get_by_role("alert")).to_contain_text("'four' is not a patch; write its number")
    press(page, "Cut a release", "Cut", Version="1.3.0", Add="4:0.5", Leave_out="2")
    page.wait_for_url(f"**{HOME}/releases/1.3.0")
    expect(page.get_by_role("heading", name="Release 1.3.0")).to_be_visible()
    expect(page.get_by_role("row", name="#4 Patch 4")).to_contain_text("0.15")
    expect(page.get_by_text("The release can be published")).to_be_visible(timeout=40_000)  # two have composed it
    page.get_by_text("Edit the changelog").click()
    press(page, "Edit the changelog", "Save", **{"Changelog, in Markdown": "In *my* words."})
    expect(page.locator(".sunk em").first).to_have_text("my")
    page.get_by_text("Edit the card").click()
    assert page.get_by_label("Card, in Markdown").input_value().startswith("---\n")
    with page.expect_navigation():
        press(page, "Edit the card", "Save", **{"Card, in Markdown with YAML front matter": "# Mine\n\nOne\nTwo"})
    page.get_by_text("The card among the files").click()
    expect(page.get_by_role("heading", name="Mine")).to_be_visible()
    assert released.community.get("/releases/1.3.0")["card"] == "# Mine\n\nOne\nTwo"
    page.get_by_role("button", name="Publish").click()
    expect(page.locator(".state-published").first).to_be_visible()
    expect(page.get_by_text("2 builders independently composed the same bits.")).to_be_visible()
    expect(page.get_by_text(f"crumb pull {NAME}@1.3.0 -o merged")).to_be_visible()
    press(page, "Point a channel at this release", "Point it here", Channel="latest")
    expect(page.get_by_role("alert")).to_contain_text("'latest' is not a valid channel name")
    press(page, "Point a channel at this release", "Point it here", Channel="stable", Why="Good.")
    page.wait_for_url(f"**{HOME}/channels/stable")
    expect(page.locator(".points")).to_contain_text("Points at 1.3.0")
    page.goto(f"{HOME}/releases/1.3.0")
    press(page, "Yank this release", "Yank", What_is_wrong_with_it="It forgets.")
    expect(page.locator(".notice.bad")).to_contain_text("This release was yanked just now: It forgets.")
    expect(page.get_by_role("button", name="Yank")).to_have_count(0)
    page.goto(f"{HOME}/releases")
    expect(page.get_by_role("row", name="1.3.0")).to_contain_text("It forgets.")


def test_what_is_missing_is_said_before_and_after_one_tries(released: Site) -> None:
    released.expected += ["409", "422"]
    released.community.rules(required_evaluations=["gsm8k:accuracy"])
    released.community.set(4, state="draft")
    released.community.post("mary", "/releases", 202, version="2.0.0", patches=[{"number": 4}])
    page = released.open("mary", f"{HOME}/releases/2.0.0")
    expect(page.get_by_role("button", name="Publish")).to_be_visible(timeout=40_000)
    expect(page.locator(".missing")).to_contain_text("Patch #4 is draft, not accepted.")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("alert")).to_contain_text("The evaluation gsm8k:accuracy is missing.")
    with released.community.world.database.write() as session:
        for number, licence in ((1, "gpl-3.0"), (2, "cc-by-nc-4.0")):
            session.execute(
                PatchRevision.__table__.update()
                .where(PatchRevision.id == released.community.revision(session, number).id)
                .values(license=licence)
            )
    page.goto(f"{HOME}/releases")
    press(page, "Cut a release", "Cut", Version="3.0.0")
    expect(page.get_by_role("alert")).to_contain_text("cannot be in one release")


def test_a_channel_is_moved_asked_for_protected_and_rolled_back(released: Site) -> None:
    released.expected += ["403", "409"]
    page = released.open("mary", f"{HOME}/releases")
    form = page.get_by_role("form", name="Create or move a channel")
    form.get_by_label("Release").select_option("1.0.0")
    press(page, "Create or move a channel", "Point it there", Channel="beta", Why="The first.")
    page.wait_for_url(f"**{HOME}/channels/beta")
    expect(page.get_by_text(f"crumb pull {NAME}@beta -o merged")).to_be_visible()
    expect(page.get_by_role("button", name="Roll back")).to_have_count(0)
    page.get_by_label("Release").select_option("1.2.0")
    press(page, "Move the channel", "Move", Why="Better.")
    expect(page.locator(".points")).to_contain_text("1.2.0")
    press(page, "Roll the channel back", "Roll back to 1.0.0", Why_the_rollback="It forgets.")
    expect(page.locator(".points")).to_contain_text("1.0.0")
    expect(page.locator(".thread li").first).to_contain_text("mary rolled it back to 1.0.0, just now")
    expect(page.locator(".thread li")).to_have_count(3)

    page = released.open("alice", f"{HOME}/channels/beta")
    page.get_by_text("Change the rule").click()
    page.get_by_label("Allow releases with yanked patches").check()
    press(page, "Change the rule", "Save the rule", People_who_must_ask="2")
    expect(page.get_by_text("2 must ask for the same release")).to_be_visible()
    page.get_by_text("Change the rule").click()
    page.get_by_label("Allow releases with yanked patches").uncheck()
    page.get_by_role("button", name="Save the rule").click()
    expect(page.get_by_text("no release with yanked patches")).to_be_visible()
    page.get_by_label("Release", exact=True).select_option("1.1.0")
    press(page, "Move the channel", "Ask for the move", Why="Please.")
    expect(page.get_by_text("to 1.1.0 by alice: 1 of 2")).to_be_visible()
    mary = released.open("mary", f"{HOME}/channels/beta")
    expect(mary.get_by_text("Change the rule")).to_have_count(0)
    mary.get_by_label("Release", exact=True).select_option("1.1.0")
    page.get_by_text("Change the rule").click()
    page.get_by_label("Minimum role").select_option("owner")
    page.get_by_role("button", name="Save the rule").click()
    expect(page.get_by_role("definition").first).to_have_text("owner")
    press(mary, "Move the channel", "Ask for the move")
    expect(mary.get_by_role("alert")).to_have_text(f"The channel {NAME}@beta is protected; moving it needs an owner.")


def test_two_releases_are_compared_and_who_may_not_is_shown_no_form(released: Site) -> None:
    for ref, accuracy, loss in (("base", 0.3, 2.5), ("1.1.0", 0.5, 1.9), ("1.2.0", 0.625, 2.0)):
        measure(released, ref, "accuracy", accuracy)
        measure(released, ref, "loss", loss, "rita", higher=False)
    for user in (None, "carol", "rita"):
        page = released.open(user, f"{HOME}/releases/1.2.0")
        expect(page.locator("main form")).to_have_count(0)
        page.goto(f"{HOME}/releases")
        expect(page.locator("main form")).to_have_count(0)
    page.get_by_role("link", name="Compare two releases").click()
    expect(page.get_by_text("raises at least the middle number")).to_be_visible()
    expect(page.get_by_role("row", name="#3 Patch 3")).to_contain_text("bob")
    expect(page.get_by_role("row", name="gsm8k · accuracy sums").last).to_contain_text("+0.125 better")
    expect(page.get_by_role("row", name="gsm8k · loss sums").last).to_contain_text("+0.1 worse")
    page.get_by_label("Before").select_option("1.2.0")
    page.get_by_label("After").select_option("base")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", name="Removed")).to_be_visible()
    page.goto(f"{HOME}/releases/1.2.0")
    expect(page.get_by_role("row", name="gsm8k · accuracy sums").last).to_contain_text("+0.125 better")
    page.get_by_text("The manifest").click()
    expect(page.get_by_role("region", name="Manifest")).to_contain_text('"schema": 1')
    page.get_by_text("Provenance, as an in-toto statement").click()
    expect(page.get_by_text("urn:breadcrumb:composition:v1")).to_be_visible()
    page.get_by_role("link", name="Compose a variation").click()
    page.wait_for_url(f"**{HOME}/recipes/new?from=1.2.0")


def test_words_of_strangers_stay_words_and_all_can_be_used_by_everybody(released: Site) -> None:
    crew = released.community
    every = " ".join(PAYLOADS)
    crew.put("mary", "/channels/stable", 200, version="1.0.0", reason=every)
    crew.put("mary", "/channels/stable", 200, version="1.1.0", reason=every)
    crew.post("mary", "/releases/1.0.0/yank", message=every)
    crew.set(1, state="yanked", reason=every)
    measure(released, "1.2.0", every[:100], 1.0)
    with crew.world.database.write() as session:
        for row in session.scalars(select(Evaluation)):
            row.task = row.dataset = every[:90]
        session.execute(PatchRevision.__table__.update().values(title=every[:190], license=every[:60]))
        session.execute(
            Release.__table__.update().where(Release.version == "1.1.0").values(changelog=every, card=every)
        )
    page = released.open("mary", f"{HOME}/releases/1.1.0")
    expect(
        page.get_by_role("cell", name=PAYLOADS[0]).or_(page.get_by_role("rowheader", name=PAYLOADS[0])).first
    ).to_be_visible()
    assert page.locator("main script, main img, main svg[onload], main a[href^='javascript']").count() == 0
    expect(page.get_by_text("Patch #1 was yanked: <script>window.pwned=1</script>").first).to_be_visible()
    page.goto(f"{HOME}/channels/stable")
    expect(page.locator(".thread li").first).to_contain_text(every)
    page.goto(f"{HOME}/releases/1.0.0")
    expect(page.locator(".notice.bad")).to_contain_text(PAYLOADS[1])
    paths = ("/releases", "/releases/1.0.0", "/releases/1.2.0", "/releases/compare?before=1.1.0&after=1.2.0")
    usable(released, "alice", *paths, "/channels/stable")


def test_without_releases_and_without_scripts_one_is_told_what_to_do(site: Site) -> None:
    site.expected.append("404")
    page = site.open(None, f"{HOME}/releases", java_script_enabled=False)
    expect(page.get_by_text("There is no release yet.")).to_be_visible()
    page.goto(f"{HOME}/releases/compare")
    expect(page.get_by_text("Choose two releases")).to_be_visible()
    page.goto(f"{HOME}/releases/9.9.9")
    expect(page.get_by_role("alert")).to_contain_text(f"There is no release {NAME}@9.9.9")
    page.goto(f"{HOME}/channels/nightly")
    expect(page.get_by_role("alert")).to_contain_text("has no channel 'nightly'")
    page = site.open("mary", f"{HOME}/releases", java_script_enabled=False)
    page.get_by_label("Version").fill("1.0.0")
    page.get_by_label("Add").fill("1 2:0.5")
    page.get_by_role("button", name="Cut").click()
    expect(page.get_by_role("heading", name="Comparing patches")).to_be_visible()
    while (button := page.get_by_role("button", name="Go on")).count():
        button.click()
    page.wait_for_url(f"**{HOME}/releases/1.0.0")
    alpha = site.community.get("/releases/1.0.0")["recipe"]["alpha"]
    expect(page.get_by_role("row", name="#2 Patch 2")).to_contain_text(f"{float(alpha) / 2:g}")
    expect(page.get_by_label("Facts")).to_contain_text("auto: 0.3 x the root of (norm of the base / (s")
    usable(site, "mary", "/releases/1.0.0")


def test_evaluations_are_compared_by_ticking_and_read_by_everybody(released: Site) -> None:
    """With long and hostile names, wide and narrow, in the light and in the dark."""
    usable(released, None, "/evaluations")
    for ref, value in (("base", 0.25), ("#1", 0.75), ("#2", 0.5), ("1.0.0", 0.625), ("1.1.0", 0.7)):
        for payload in PAYLOADS:
            words = {"task": payload, "dataset": payload + "d" * 90, "metric": "m" * 90}
            released.community.post("bob", "/evaluations", 201, ref=ref, value=value, stderr=0.125, **words)
    usable(released, None, "/evaluations", "/evaluations?with=1.0.0", "/evaluations?with=%231&with=%232")
    page = released.open(None, f"{HOME}/releases/1.1.0")
    page.get_by_role("link", name="Compare with its patches alone").click()
    heads = page.get_by_role("table").last.get_by_role("columnheader")
    expect(heads).to_have_text(["Task and metric", "base", "#1.1", "#2.1", "1.1.0"])
    page.get_by_text("Choose what is compared with the base").click()
    page.get_by_role("checkbox", name="#1.1").uncheck()
    page.get_by_role("checkbox", name="1.0.0").check()
    page.get_by_role("button", name="Compare").click()
    expect(heads).to_have_text(["Task and metric", "base", "1.1.0", "1.0.0", "#2.1"])
