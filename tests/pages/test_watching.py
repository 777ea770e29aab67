"""Pages of those who watch over the server, in a real browser."""

from datetime import timedelta

from playwright.sync_api import expect
from sqlalchemy import select

from registry.db.tables import Job, Worker, now
from tests.support.browsers import Site
from tests.support.community import NAME, URL
from tests.support.visits import HOSTILE, unharmed, usable

PAGES = ("", "/reports", "/reports?closed=true", "/quarantine", "/namespaces", "/jobs", "/workers", "/audit")


def report(site: Site, number: int | None, message: str) -> None:
    """Have carol report something."""
    body = {"number": number, "reason": "personal_data", "message": message}
    assert site.community.world.client("carol").post(f"{URL}/reports", json=body).status_code == 201


def test_only_admins_see_the_pages_of_admins(site: Site) -> None:
    site.expected.append("403")
    page = site.open("alice", "/")
    expect(page.get_by_role("link", name="Admin")).to_have_count(0)
    for tail in PAGES:
        page.goto(f"/admin{tail}")
        expect(page.get_by_role("heading", name="Forbidden")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_text("Only an admin of the registry may do this.")
    page = site.open("chief", "/")
    page.get_by_role("link", name="Admin").click()
    page.wait_for_url("**/admin")
    expect(page.get_by_role("listitem").filter(has_text="users")).to_contain_text("8")
    expect(page.get_by_role("listitem").filter(has_text="alive")).to_contain_text("seen today")
    page = site.open(None, "/admin")
    expect(page).to_have_title("Sign in · Breadcrumb registry")


def test_a_report_is_answered_and_its_patch_quarantined_right_there(site: Site) -> None:
    page = site.open("chief", "/admin/reports")
    expect(page.get_by_text("No report is open.")).to_be_visible()
    report(site, 2, f"{HOSTILE}\njavascript:window.pwned=1")
    report(site, None, "The base may not be redistributed.")
    page.goto("/admin")
    page.get_by_role("link", name="open reports").click()
    row = page.get_by_role("listitem").filter(has_text="personal data").filter(has_text=f"{NAME}#2")
    expect(row).to_contain_text(HOSTILE)
    expect(page.get_by_text("Quarantine the patch")).to_have_count(1)  # a model is not a patch
    unharmed(page)
    row.get_by_text("Quarantine the patch").click()
    row.get_by_label("Why").fill(HOSTILE)
    row.get_by_role("button", name="Quarantine", exact=True).click()
    page.wait_for_url("**/admin/quarantine")
    held = page.get_by_role("listitem").filter(has_text=f"{NAME}#2")
    expect(held).to_contain_text(HOSTILE)
    unharmed(page)
    assert site.community.get("/patches/2")["quarantined"] == HOSTILE
    page.goto("/admin/reports")
    row.get_by_text("Close:").click()
    row.get_by_label("Answer").fill(f"Quarantined. {HOSTILE}")
    row.get_by_role("button", name="Close the report").click()
    expect(row).to_have_count(0)
    page.get_by_role("link", name="Closed reports").click()
    expect(page.get_by_role("listitem").filter(has_text="closed by chief")).to_contain_text(f"Quarantined. {HOSTILE}")
    unharmed(page)
    page.goto("/admin/quarantine")
    held.locator("summary").click()
    held.get_by_role("button", name="End the quarantine").click()
    expect(page.get_by_text("No patch is in quarantine.")).to_be_visible()
    assert site.community.get("/patches/2")["quarantined"] is None


def test_reports_come_page_by_page(site: Site) -> None:
    for user in ("bob", "carol", "rita", "rolf", "mary", "max"):
        for number in (1, 2, 3, 4):
            body = {"number": number, "reason": "other", "message": user}
            assert site.community.world.client(user).post(f"{URL}/reports", json=body).status_code == 201
    page = site.open("chief", "/admin/reports")
    expect(page.locator(".thread > li")).to_have_count(20)
    page.get_by_role("link", name="Next page").click()
    expect(page.locator(".thread > li")).to_have_count(4)


def test_a_namespace_is_given_a_quota_and_the_server_s_again(site: Site) -> None:
    site.expected.append("422")
    page = site.open("chief", "/admin/namespaces")
    page.get_by_role("textbox", name="Name").fill("bo")
    page.get_by_role("button", name="Find").click()
    page.wait_for_url("**/admin/namespaces?search=bo")
    bob = page.locator(".rows > li")
    expect(bob).to_have_count(1)
    bob.locator("summary").click()
    bob.get_by_label("GiB at most").fill("1e300")
    bob.get_by_role("button", name="Set the quota", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("like 50 or 0.5, not '1e300'")
    bob.get_by_label("GiB at most").fill("0.000000931322574615478515625")  # 1000 bytes
    bob.get_by_label("Open uploads at most").fill("3")
    bob.get_by_role("button", name="Set the quota", exact=True).click()
    expect(bob).to_contain_text("of 1 kB")
    expect(bob).to_contain_text("of 3 uploads open · with a quota of its own")
    expect(bob.get_by_role("progressbar")).to_have_class("quota full")
    bob.locator("summary").click()
    bob.get_by_label("GiB at most").fill("")
    bob.get_by_label("Open uploads at most").fill("")
    bob.get_by_role("button", name="Set the quota", exact=True).click()
    expect(bob).not_to_contain_text("with a quota of its own")
    page.goto("/admin/namespaces?search=nothing-like-this")
    expect(page.get_by_text("No namespace matches.")).to_be_visible()
    page.goto("/admin/audit?action=namespace.quota&user=chief")
    expect(page.get_by_role("row").nth(2)).to_contain_text("quota bytes nothing → 1,000")


def test_jobs_and_workers_are_shown_with_what_went_wrong(site: Site) -> None:
    world = site.community.world
    with world.database.write() as session:
        failed = session.scalars(select(Job).where(Job.kind == "check")).first()
        assert failed is not None
        failed.state, failed.error, failed.worker = "failed", HOSTILE, HOSTILE
        silent = now() - timedelta(minutes=2)
        session.add(Worker(name=HOSTILE, device="cuda", started_at=silent, seen_at=silent))
        session.flush()
        held = Job(kind="compose", key="held", state="running", model=NAME, subject="0" * 64, payload=failed.payload)
        held.user_id, held.worker, held.progress, held.attempt = failed.user_id, HOSTILE, 0.25, 1
        held.lease_until = now() + timedelta(minutes=1)
        session.add(held)
    page = site.open("chief", "/admin/jobs")
    page.get_by_label("State").select_option("failed")
    page.get_by_role("button", name="Find").click()
    page.wait_for_url("**/admin/jobs?state=failed&kind=")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text(HOSTILE)
    unharmed(page)
    page.get_by_label("Kind").select_option("import")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_text("No job matches.")).to_be_visible()
    page.goto("/admin/workers")
    row = page.get_by_role("listitem").filter(has_text=HOSTILE)
    expect(row).to_contain_text("silent")
    expect(row).to_contain_text(f"compose of {NAME}")
    expect(row.get_by_role("progressbar")).to_have_attribute("value", "0.25")
    expect(page.get_by_role("listitem").filter(has_text="alive").first).to_contain_text("no job")
    unharmed(page)
    usable(site, "chief", "/admin", "/admin/jobs", "/admin/workers")


def test_pages_of_admins_can_be_used_by_everybody(site: Site) -> None:
    report(site, 1, "x" * 3000)
    body = {"reason": "y" * 300}
    assert site.community.world.client("chief").put(f"{URL}/patches/3/quarantine", json=body).status_code == 200
    usable(site, "chief", "/admin/reports", "/admin/quarantine", "/admin/namespaces", "/admin/audit")
