"""Pages of patches in a real browser: found, looked at, talked about and decided on."""

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.support.browsers import Site
from tests.support.community import NAME
from tests.support.visits import HOSTILE, unharmed, usable

HOME = f"/{NAME}/patches"
MARKDOWN = f"**bold** [a link](javascript:window.pwned=1) {HOSTILE}"


def form(page: Page, name: str) -> Page:
    """Return a form by its accessible name, to be filled in like a page."""
    return page.get_by_role("form", name=name, exact=True)  # type: ignore[return-value]


def test_a_patch_is_proposed_reviewed_accepted_and_yanked_by_those_who_may(site: Site) -> None:
    bob = site.open("bob", f"{HOME}/1")
    expect(bob.get_by_text("It has 0 of 1 approvals of revision 1.")).to_be_visible()
    assert [form(bob, name).count() for name in ("Review revision 1", "Accept", "Withdraw")] == [0, 0, 1]
    form(bob, "Propose").get_by_role("button").click()
    expect(bob.locator(".patch-head")).to_contain_text("proposed")
    rita = site.open("rita", f"{HOME}/1")
    assert form(rita, "Accept").count() == form(rita, "Withdraw").count() == 0
    form(rita, "Review revision 1").get_by_label("Message").fill("Reproduced.")
    rita.get_by_role("button", name="Approve").click()
    expect(rita.get_by_role("listitem").filter(has_text="Reproduced.")).to_contain_text("approved revision 1")
    mary = site.open("mary", f"{HOME}/1")
    form(mary, "Accept").get_by_label("Patches that it supersedes").fill("#2")
    mary.get_by_role("button", name="Accept").click()
    site.expected.append("409")
    expect(form(mary, "Accept").get_by_role("alert")).to_contain_text("is draft; to supersede it, it must be accepted")
    form(mary, "Accept").get_by_label("Patches that it supersedes").fill("")
    mary.get_by_role("button", name="Accept").click()
    expect(mary.locator(".patch-head")).to_contain_text("accepted")
    form(mary, "Yank").get_by_label("Why").fill(HOSTILE)
    mary.get_by_role("button", name="Yank").click()
    expect(mary.get_by_text("This patch was yanked")).to_contain_text(HOSTILE)
    unharmed(mary)
    mary.get_by_role("button", name="Undo the yank").click()
    expect(mary.get_by_text("This patch was yanked")).to_have_count(0)
    assert site.community.patch(1)["state"] == "accepted"
    own = site.community.push(site.community.spares[0], "rita", propose=True)["number"]
    rita.goto(f"{HOME}/{own}")
    expect(form(rita, "Withdraw")).to_be_visible()
    expect(rita.get_by_role("button", name="Approve")).to_have_count(0)  # nobody reviews their own


def test_other_ways_end_with_a_reason_that_everybody_sees(site: Site) -> None:
    for number in (1, 2, 3):
        site.community.post("bob", f"/patches/{number}/propose")
    rita = site.open("rita", f"{HOME}/1")
    rita.get_by_role("button", name="Request changes").click()
    expect(rita.locator(".patch-head")).to_contain_text("changes requested")
    mary = site.open("mary", f"{HOME}/2")
    mary.get_by_role("button", name="Reject").click()  # the reason is required: the browser sends nothing
    form(mary, "Reject").get_by_label("Why").fill("Not reproducible.")
    mary.get_by_role("button", name="Reject").click()
    expect(mary.get_by_text("This patch was rejected: Not reproducible.")).to_be_visible()
    bob = site.open("bob", f"{HOME}/3", java_script_enabled=False)
    form(bob, "Withdraw").get_by_label("Why").fill("A better one follows.")
    bob.get_by_role("button", name="Withdraw").click()
    expect(bob.get_by_text("Its author has withdrawn this patch: A better one follows.")).to_be_visible()
    chief = site.open("chief", f"{HOME}/4")
    form(chief, "Quarantine").get_by_label("Why").fill("It holds personal data.")
    chief.get_by_role("button", name="Quarantine").click()
    expect(chief.get_by_text("This patch is in quarantine: It holds personal data.")).to_be_visible()
    visitor = site.open(None, f"{HOME}/4")
    expect(visitor.get_by_text("This patch is in quarantine")).to_be_visible()
    expect(visitor.get_by_role("link", name="Download the patch")).to_have_count(0)
    assert visitor.request.get(f"{HOME}/4.1/file").status == 403
    chief.get_by_role("button", name="End the quarantine").click()
    expect(chief.get_by_text("This patch is in quarantine")).to_have_count(0)
    visitor.goto(f"{HOME}/4")
    with visitor.expect_download() as begun:
        visitor.get_by_role("link", name="Download the patch").click()
    assert begun.value.suggested_filename == "alice-tiny-4.1.safetensors"
    assert begun.value.path().stat().st_size == site.community.patch(4)["size"]


def test_an_older_revision_says_so_and_cannot_be_decided_on(site: Site) -> None:
    site.community.post("bob", "/patches/1/propose")
    site.community.post("carol", "/patches/1/comments", 201, message="On the first.", revision=1)
    sha256 = site.community.patch(1)["sha256"]
    site.community.revise(1, site.community.spares[0])
    page = site.open("rita", f"{HOME}/1.1")
    expect(page.get_by_text("This is revision 1.")).to_be_visible()
    expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    expect(page.get_by_role("complementary")).to_contain_text(sha256[:12])
    page.get_by_role("link", name="look at revision 2").click()
    page.wait_for_url(f"**{HOME}/1")
    expect(page.get_by_role("button", name="Approve")).to_be_visible()
    site.community.revise(1, site.community.spares[1])  # while rita looks at the second
    site.expected.append("409")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_contain_text("is at revision 3 now, not 2; look at it again.")
    said = page.locator(".thread > li")
    assert [re.sub(r"\s+", " ", text).split(" ·")[0].strip() for text in said.all_inner_texts()] == [
        "bob pushed revision 1",
        "carol on revision 1",
        "bob pushed revision 2",
    ]


def test_whoever_has_signed_in_comments_and_reports_and_others_are_led_to_it(site: Site) -> None:
    page = site.open(None, f"{HOME}/2")
    assert page.locator("main form").count() == 0
    page.get_by_role("main").get_by_role("link", name="Sign in").click()
    page.wait_for_url("**/login?next=*patches*2")
    carol = site.open("carol", f"{HOME}/2")
    assert form(carol, "Propose").count() == 0
    form(carol, "Comment").get_by_label("Comment").fill(MARKDOWN)
    carol.get_by_role("button", name="Comment").click()
    said = carol.locator(".thread > li").filter(has_text="carol")
    expect(said.locator("strong")).to_have_text("bold")
    unharmed(carol)
    carol.get_by_text("Report this patch").click()
    form(carol, "Report this patch").get_by_label("What is wrong").select_option("misleading")
    form(carol, "Report this patch").get_by_label("Explanation").fill("It does not do sums.")
    carol.get_by_role("button", name="Report").click()
    expect(carol.get_by_role("status")).to_have_text(
        "Your report was sent to the admins of this registry. Nobody else sees it."
    )
    [told] = site.community.world.client("chief").get("/api/v1/admin/reports").json()["items"]
    assert (told["number"], told["reason"], told["reporter"]) == (2, "misleading", "carol")


def test_strangers_words_stay_words_and_every_filter_survives_the_next_page(site: Site) -> None:
    site.community.push(
        site.community.spares[0], title=HOSTILE, message=MARKDOWN, task="math/sums", license="apache-2.0"
    )
    page = site.open(None, HOME)
    expect(page.get_by_role("row")).to_have_count(6)
    expect(page.get_by_role("link", name=HOSTILE)).to_be_visible()
    unharmed(page)
    page.get_by_role("link", name=HOSTILE).click()
    expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
    expect(page.get_by_role("article").locator("strong")).to_have_text("bold")
    expect(page.get_by_role("complementary")).to_contain_text("apache-2.0")
    unharmed(page)
    page.goto(HOME)
    for label, words, count in (
        ("Task", "math/sums", 1),
        ("Author", "carol", 0),
        ("Changes a tensor like", "norm.weight", 5),
        ("Density from", "50", 0),
        ("to %", "50", 5),
        ("State", "draft", 5),
    ):
        page.goto(HOME)
        field = page.get_by_role("search", name="Find patches").get_by_label(label)
        field.select_option(words) if label == "State" else field.fill(words)
        page.get_by_role("button", name="Find").click()
        expect(page.locator("tbody tr")).to_have_count(count)
        if not count:
            expect(page.get_by_text("No patch of this model matches.")).to_be_visible()
    page.goto(f"{HOME}?task={HOSTILE[:60]}&author={HOSTILE[:90]}&tensor={HOSTILE[:90]}".replace("#", "%23"))
    expect(page.get_by_label("Task")).to_have_value(HOSTILE[:60])
    unharmed(page)


def test_the_next_page_keeps_the_filters(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.server.pages.curation.patches.PAGE", 2)
    page = site.open(None, f"{HOME}?state=draft&tensor=norm&density_from=&density_to=90.5&task=&author=bob")
    expect(page.locator("tbody th")).to_have_text([re.compile("#4"), re.compile("#3")])
    page.get_by_role("link", name="Next page").click()
    page.wait_for_url("**before=3")
    expect(page.locator("tbody th")).to_have_text([re.compile("#2"), re.compile("#1")])
    assert [
        page.get_by_label(label).input_value() for label in ("State", "Changes a tensor like", "to %", "Author")
    ] == [
        "draft",
        "norm",
        "90.5",
        "bob",
    ]
    expect(page.get_by_role("link", name="Next page")).to_have_count(0)
    page.goto(f"{HOME}?before=1")
    expect(page.get_by_text("There are no older patches.")).to_be_visible()
    site.expected.append("422")
    page.goto(f"{HOME}?density_from=nan")
    expect(page.get_by_role("alert")).to_contain_text("density_from")


def test_everybody_can_use_the_pages_of_patches(released: Site) -> None:
    released.community.post("carol", "/patches/4/comments", 201, message="`code`\n\n| a | b |\n|---|---|\n| 1 | 2 |")
    for ref, value in (("#1", 0.5), ("#4", 12.0)):
        released.community.post(
            "bob", "/evaluations", 201, ref=ref, task="math", dataset="gsm8k", metric="loss", value=value
        )
    usable(released, "mary", HOME, f"{HOME}/1", f"{HOME}/4", f"{HOME}?task=nothing")
    page = released.open(None, f"{HOME}/1")
    uses = page.get_by_role("complementary")
    for version in ("1.2.0", "1.1.0", "1.0.0"):
        expect(uses.get_by_role("link", name=version)).to_be_visible()
    expect(page.get_by_role("cell", name="0.5")).to_be_visible()


def test_pages_with_files_beside_the_weights_are_usable(site: Site) -> None:
    config = json.dumps({f"a_rather_long_key_{place}.{HOSTILE}": "v" * 200 for place in range(50)}).encode()
    files = {"config.json": config, "a/rather/long/path/to/a/file/" + "x" * 100 + ".txt": b"x"}
    number = site.community.push_files(site.community.spares[0], files)["number"]
    site.community.accept(number)
    usable(site, "mary", f"{HOME}/{number}", f"/{NAME}/releases")
    page = site.open("mary", f"{HOME}/{number}")
    unharmed(page)
    page.get_by_text("53 keys differ from the base's file").click()
    expect(page.get_by_text("and 13 more.")).to_be_visible()
    page.goto(f"/{NAME}/releases")
    expect(page.get_by_role("group", name="Files of patches").get_by_role("checkbox")).to_have_count(1)


def test_a_comment_is_previewed_written_beside_a_tensor_quoted_and_edited(site: Site) -> None:
    carol = site.open("carol", f"{HOME}/1")
    comment = form(carol, "Comment")
    comment.get_by_label("Comment").fill(MARKDOWN)
    comment.get_by_label("About tensors").fill("layers.*")
    comment.get_by_role("button", name="Preview").click()
    expect(comment.get_by_role("status", name="Preview").locator("strong")).to_have_text("bold")
    unharmed(carol)
    expect(comment.get_by_label("Comment")).to_have_value(MARKDOWN)
    comment.get_by_role("button", name="Comment").click()
    beside = carol.locator("tr", has=carol.locator("a[href^='#said-']"))
    expect(beside).to_have_count(1)
    expect(beside).to_contain_text("carol")
    unharmed(carol)
    usable(site, "carol", f"{HOME}/1")
    bob = site.open("bob", f"{HOME}/1", java_script_enabled=False)
    bob.get_by_role("link", name="Quote").click()
    quoted = form(bob, "Comment").get_by_label("Comment")
    expect(quoted).to_have_value(re.compile(r"^> \*\*bold\*\*"))
    quoted.fill(f"{quoted.input_value()}Yes.")
    form(bob, "Comment").get_by_role("button", name="Preview").click()
    expect(bob.get_by_label("Preview", exact=True).locator("blockquote strong")).to_have_text("bold")
    bob.get_by_role("button", name="Comment").click()
    expect(bob.locator(".thread blockquote")).to_have_count(1)
    carol.reload()
    carol.get_by_text("Edit", exact=True).click()
    edit = form(carol, "Edit your comment")
    edit.get_by_label("Text").fill("Norms should stay.")
    edit.get_by_role("button", name="Preview").click()
    expect(edit.get_by_role("status", name="Preview")).to_have_text("Norms should stay.")
    edit.get_by_role("button", name="Save").click()
    carol.get_by_role("link", name=re.compile("^edited")).click()
    expect(carol.locator(".thread li")).to_have_count(2)
    expect(carol.locator(".thread li").first).to_contain_text("Norms should stay.")
    usable(site, "carol", carol.url.removeprefix(site.url))
