"""The page of limits and policy, in a real browser, without scripts too."""

from playwright.sync_api import expect

from tests.support.browsers import Site
from tests.support.visits import usable


def test_an_admin_sees_limits_and_changes_the_policy_without_scripts(site: Site) -> None:
    site.expected.append("422")
    page = site.open("chief", "/admin/policy", java_script_enabled=False)
    expect(page.get_by_role("row").filter(has_text="REGISTRY_QUOTA_BYTES")).to_contain_text("4TiB")
    assert "secret" not in page.locator("main").inner_text().lower()
    page.get_by_label("How people join").select_option("closed")
    page.get_by_label("Licences of bases and patches").fill("apache-2.0\nmit\n")
    page.get_by_label("Models of the Hub that may be a base").fill("none")
    page.get_by_label("A patch leaves out at least").fill("0.8")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("How people join")).to_have_value("closed")
    expect(page.get_by_label("Licences of bases and patches")).to_have_value("apache-2.0\nmit")
    expect(page.get_by_label("Models of the Hub that may be a base")).to_have_value("none")
    page.get_by_label("Licences of bases and patches").fill("")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Licences of bases and patches")).to_have_value("")
    page.get_by_label("A patch leaves out at least").fill("much")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("main")).to_contain_text("min_drop_bottom")
    assert len(site.community.events("policy.change")) == 2


def test_the_page_can_be_used_by_everybody_and_refuses_in_place(site: Site) -> None:
    site.expected.append("422")
    usable(site, "chief", "/admin/policy")
    page = site.open("chief", "/admin/policy")
    page.get_by_label("Licences of bases and patches").fill("<b>MIT</b>")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("licenses.0")
    assert page.get_by_label("Licences of bases and patches").input_value() == "<b>MIT</b>"
