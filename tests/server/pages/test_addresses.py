"""Addresses of the Hub's pages lead to ours, and none of ours is lost to them."""

from sqlalchemy import update

from registry.db.tables import Model
from tests.support.community import NAME, Community

REVISIONS = {
    "main": "",
    "refs%2Fheads%2Fmain": "",
    "base": "",
    "1.1.0": "/releases/1.1.0",
    "refs%2Ftags%2F1.0.0": "/releases/1.0.0",
    "stable": "/channels/stable",
    "refs%2Fpr%2F3": "/patches/3",
}


def leads_to(crew: Community, path: str) -> str:
    """Return where an address of a model leads, which is a page that there is."""
    browser = crew.world.browser()
    answer = browser.get(f"/{NAME}{path}")
    assert answer.status_code == 302, (path, answer.text)
    found = answer.headers["location"]
    assert browser.get(found).status_code == 200, found
    return str(found).removeprefix(f"/{NAME}")


def test_the_page_of_a_revision_is_the_page_of_what_it_is_here(lived: Community) -> None:
    lived.put("mary", "/channels/stable", version="1.1.0")
    for rev, page in REVISIONS.items():
        assert leads_to(lived, f"/tree/{rev}") == page, rev
        assert leads_to(lived, f"/tree/{rev}/folder/deep") == page, rev
    for version in ("1.0.0", "1.2.0"):
        commit = lived.world.client(None).get(f"/api/models/{NAME}/revision/{version}").json()["sha"]
        assert leads_to(lived, f"/commit/{commit}") == f"/releases/{version}"
    recipe = lived.get("/releases/1.2.0")["recipe"]["digest"]
    assert leads_to(lived, f"/tree/recipe-{recipe[:12]}") == f"/recipes/{recipe}"
    assert leads_to(lived, "/commits/main") == "/releases"
    assert leads_to(lived, "/blob/1.0.0/config.json") == "/resolve/1.0.0/config.json"
    assert leads_to(lived, "/discussions") == "/patches"
    assert leads_to(lived, "/discussions/2") == "/patches/2"


def test_a_file_with_an_odd_name_keeps_it(sqlite_crew: Community) -> None:
    browser = sqlite_crew.world.browser()
    answer = browser.get(f"/{NAME}/blob/refs%2Fpr%2F1/a%20b/x%2By%3F.json")
    assert answer.headers["location"] == f"/{NAME}/resolve/refs%2Fpr%2F1/a%20b/x%2By%3F.json"


def test_a_revision_that_there_is_not_has_a_page_that_says_so(sqlite_crew: Community) -> None:
    browser = sqlite_crew.world.browser()
    for path in ("/tree/9.9.9", f"/commit/{'0' * 40}", "/tree/nightly"):
        answer = browser.get(f"/{NAME}{path}")
        assert answer.status_code == 404, path
        assert NAME in answer.text


def test_a_private_model_is_as_missing_as_one_that_nobody_has(sqlite_crew: Community) -> None:
    with sqlite_crew.world.database.write() as session:
        session.execute(update(Model).values(visibility="private"))
    browser = sqlite_crew.world.browser()
    for path in ("/tree/main", "/blob/main/config.json", "/commits/main", "/discussions", "/discussions/1", "/tree/x"):
        hidden, absent = (browser.get(f"/{name}{path}") for name in (NAME, "alice/none"))
        assert hidden.status_code == absent.status_code == 404, path
        assert hidden.text.replace("tiny", "none") == absent.text, path
