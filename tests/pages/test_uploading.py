"""Files sent by a browser: a model made of a folder, a patch of a fine-tuned one, a patch file; by clicking alone."""

import json
import re
from pathlib import Path

from playwright.sync_api import Page, Route, expect

from tests.support.browsers import Site
from tests.support.community import NAME, SHAPES
from tests.support.makers import fine_tuned, make_checkpoint
from tests.support.visits import usable

HOME = f"/{NAME}"


def form(page: Page, name: str) -> Page:
    """Return a form by its accessible name, to be filled in like a page."""
    return page.get_by_role("form", name=name, exact=True)  # type: ignore[return-value]


def leave(folder: Path) -> None:
    """Leave in a folder what training leaves there."""
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "model.safetensors").write_bytes(b"not sent")
    (folder / "optimizer.pt").write_bytes(b"not sent")
    (folder / ".cache").write_bytes(b"not sent")


def test_a_model_is_made_of_a_folder_by_clicking(site: Site, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "mine", seed=7, shapes=SHAPES)
    leave(folder)
    page = site.open("bob")
    page.get_by_role("link", name="New model").click()
    make = form(page, "New model")
    make.get_by_label("Name", exact=True).fill("mine")
    site.expected.append("422")
    make.get_by_role("button", name="Create the model").click()
    expect(make.get_by_role("alert")).to_contain_text("Choose files first.")
    page.set_input_files("#folder", folder)
    expect(make.get_by_text("3 left out (hidden, left of training, or pickled)")).to_be_visible()
    make.get_by_role("button", name="Create the model").click()
    page.wait_for_url("**/bob/mine")
    expect(page.get_by_role("heading", name="Use this model")).to_be_visible(timeout=60_000)
    sent = site.community.world.client("bob").get("/api/v1/models/bob/mine/revisions/base").json()["files"]
    kept = {
        str(path.relative_to(folder)) for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".md")
    }
    assert {file["path"] for file in sent} == kept and len(kept) > 2
    usable(site, "bob", "/new", f"{HOME}/contribute", f"{HOME}/patches/1/revise")


def test_a_fine_tuned_folder_becomes_a_patch_by_clicking(site: Site, tmp_path: Path) -> None:
    folder = fine_tuned(site.community.base, tmp_path / "tuned", seed=70)
    leave(folder)
    page = site.open("carol", f"{HOME}/patches")
    page.get_by_role("link", name="Contribute a patch").click()
    page.set_input_files("#folder", folder)
    page.get_by_label("What it does, in one line").fill("Sums, by clicking")
    page.get_by_label("Task").fill("math/sums")
    page.get_by_role("button", name="Contribute").click()
    page.wait_for_url(f"**{HOME}/patches/5")
    expect(page.locator(".patch-head")).to_contain_text("proposed", timeout=60_000)
    expect(page.get_by_text("What it changes")).to_be_visible(timeout=60_000)
    made = site.community.patch(5)
    assert (made["title"], made["task"], made["author"], made["revision"]) == (
        "Sums, by clicking",
        "math/sums",
        "carol",
        1,
    )
    again = fine_tuned(site.community.base, tmp_path / "again", seed=71)
    page.goto(f"{HOME}/patches/5/revise")
    page.set_input_files("#folder", again)
    page.get_by_role("button", name="Send the revision").click()
    page.wait_for_url(f"**{HOME}/patches/5")
    expect(page.locator(".patch-head")).to_contain_text("revision 2", timeout=60_000)


def test_a_patch_file_is_sent_and_what_has_arrived_is_not_sent_twice(site: Site) -> None:
    sent: list[str] = []
    page = site.open("carol", f"{HOME}/contribute")

    def cut(route: Route) -> None:
        sent.append(route.request.url)
        if len(sent) == 2:
            route.fulfill(status=409, body=json.dumps({"detail": "The line was cut"}))
        else:
            route.continue_()

    page.route(re.compile("/api/lfs/"), cut)
    page.get_by_label("A patch file").check()
    page.set_input_files("#single", site.community.spares[0])
    page.get_by_label("What it does, in one line").fill("From a file")
    page.get_by_label("Propose it for review at once").uncheck()
    site.expected.append("409")
    page.get_by_role("button", name="Contribute").click()
    expect(page.get_by_role("alert")).to_contain_text("The line was cut. Send the form again")
    page.get_by_role("button", name="Contribute").click()
    page.wait_for_url(f"**{HOME}/patches/5")
    parts = -(-site.community.spares[0].stat().st_size // 1000)
    assert len(set(sent)) == parts > 1 and len(sent) == parts + 1
    assert site.community.patch(5)["state"] == "draft"


def test_without_scripts_the_page_says_what_to_do(site: Site) -> None:
    site.expected.append("422")
    page = site.open("carol", f"{HOME}/contribute", java_script_enabled=False)
    page.get_by_label("What it does, in one line").fill("Nothing")
    page.get_by_role("button", name="Contribute").click()
    expect(page.get_by_text("use the command below")).to_be_visible()
