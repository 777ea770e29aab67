"""`crumb status`, `crumb browse` and `crumb search`: what a folder is, and where things are."""

import pytest

from client.terminal.addresses import page_of
from registry.errors import InvalidRequest
from tests.support.visitors import Crumb, Files, Registry, model_with_patches


@pytest.fixture(scope="module")
def model(registry: Registry, files: Files) -> str:
    return model_with_patches(registry, files, "ana/shown-by-status")


def test_a_pulled_folder_says_what_it_is_and_what_is_newer(here: Registry, model: str, crumb: Crumb) -> None:
    crumb("pull", model, "-o", "it")
    shown = crumb.json("status", "it")
    assert (shown["model"], shown["ref"], shown["complete"], shown["newer"]) == (model, "base", True, [])
    crumb("model", "set", model, "--approvals", "0")
    for number in ("1", "2"):
        crumb("propose", model, number)
        crumb("accept", model, number)
    crumb("release", "cut", model, "1.0.0", "1", "-q")
    crumb("release", "publish", model, "1.0.0", "--recompose", "-q")
    assert crumb.json("status", "it")["newer"] == ["main"]
    assert f"next     crumb pull {model} -o it" in crumb("status", "it")
    crumb("channel", "move", model, "stable", "1.0.0", "-q")
    crumb("pull", model, "-o", "it")
    assert "stable   this release" in crumb("status", "it")
    crumb("release", "cut", model, "1.1.0", "1", "2", "-q")
    crumb("release", "publish", model, "1.1.0", "--recompose", "-q")
    assert crumb.json("status", "it")["newer"] == []  # it is not on the channel yet
    crumb("channel", "move", model, "stable", "1.1.0", "-q")
    shown = crumb.json("status", "it")
    assert (shown["ref"], shown["channels"], shown["newer"]) == ("1.0.0", {"stable": "1.1.0"}, ["stable"])
    assert f"crumb pull {model}@stable -o it" in crumb("status", "it")
    (crumb.cwd / "it" / "config.json").unlink()
    assert "1 files are missing, like config.json" in crumb("status", "it")


def test_without_a_registry_a_folder_still_says_what_it_is(here: Registry, model: str, crumb: Crumb) -> None:
    crumb("pull", f"{model}@base", "-o", "it")
    assert f"{model}@base" in crumb("status", "it", CRUMB_URL="http://127.0.0.1:9")
    assert "What is newer is not known" in crumb.errors
    crumb("status", "nowhere", code=1)
    crumb("status", code=1)
    assert "was not pulled" in crumb.errors


def test_a_page_is_printed_where_no_browser_is(here: Registry, model: str, crumb: Crumb) -> None:
    assert crumb("browse", f"{model}#2") == f"{here.url}/{model}/patches/2\n"
    assert crumb.json("browse") == {"url": f"{here.url}/"}
    assert page_of("a/b@1.0.0") == "/a/b/releases/1.0.0"
    assert page_of("a/b@stable") == "/a/b/channels/stable"
    assert page_of("a/b@0123abcd") == "/a/b/recipes/0123abcd"
    assert page_of("a/b") == page_of("a/b@base") == "/a/b"
    assert page_of("a/b#3.2") == page_of("a/b@refs/pr/3") == "/a/b/patches/3"
    with pytest.raises(InvalidRequest):
        page_of("a")


def test_a_search_finds_names_that_contain_all_words(here: Registry, model: str, crumb: Crumb) -> None:
    assert crumb("search", "status", "shown", "-q").split() == [model]
    assert crumb("search", "status", "elsewhere", "-q") == ""
    assert crumb("search", "shown", "--author", "nobody", "-q") == ""
    crumb("search", code=2)


def test_one_inbox_shows_all_models_in_which_something_waits(here: Registry, files: Files, crumb: Crumb) -> None:
    names = [model_with_patches(here, files, f"ana/waits-{number}") for number in (1, 2)]
    everything = crumb.json("inbox")
    assert [len(everything[name]["mine"]) for name in names] == [2, 2]
    assert f"{names[1]}\n\nYours:\n  #" in crumb("inbox")
    assert f"{names[0]}#1" in crumb("inbox", "-q").split()
    assert crumb("inbox", names[0], "-q").split() == ["#1", "#2"]
