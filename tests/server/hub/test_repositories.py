"""Models as repositories of the Hub: revisions, branches and tags, commits, trees, and who sees which."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from registry.documents.commits import blob_id, pointer, tree_id
from tests.support.community import NAME, Community, open_community
from tests.support.makers import make_checkpoint
from tests.support.world import create_model, open_world

pytestmark = pytest.mark.heavy

API = f"/api/models/{NAME}"
FOLDERS = "alice/folders"
HEX = re.compile(r"[0-9a-f]{40}")
INNER = ("a b/x+y.json", "onnx/config.json", "onnx/deep/er/one.txt", "onnx-2")


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Community]:
    """`lived`, for tests that change nothing, with a model that has folders."""
    folder = tmp_path_factory.mktemp("still")
    with open_community("sqlite", folder, request, released=True) as made:
        made.put("mary", "/channels/stable", version="1.1.0")
        base = make_checkpoint(folder / "folders", shapes={"w": (4, 4)})
        for path in INNER:
            (base / path).parent.mkdir(parents=True, exist_ok=True)
            (base / path).write_text(path)
        create_model(made.world, FOLDERS, base)
        yield made


def get(crew: Community, path: str, user: str | None = None, status: int = 200, **options: Any) -> Any:
    """Send a request to the Hub's API about the model."""
    answer = crew.world.client(user).request(options.pop("method", "GET"), f"{API}{path}", **options)
    assert answer.status_code == status, (path, answer.status_code, answer.text)
    return answer


def sha(crew: Community, rev: str, user: str | None = None) -> str:
    return str(get(crew, f"/revision/{rev}", user).json()["sha"])


def refused(answer: Any, status: int, code: str | None = None) -> str:
    """Hold a refusal to what the Hub's clients read; return its sentence."""
    assert (answer.status_code, answer.headers.get("x-error-code")) == (status, code), answer.text
    told = str(answer.json()["error"])
    assert told.endswith((".", "`"))
    assert answer.headers["x-error-message"] == "".join(c if " " <= c <= "~" else "?" for c in told)
    return told


# what names stand for


def test_main_is_stable_else_the_newest_release_else_the_base(lived: Community) -> None:
    commits = {rev: sha(lived, rev) for rev in ("base", "1.0.0", "1.1.0", "1.2.0")}
    assert len(set(commits.values())) == 4
    assert get(lived, "").json()["sha"] == sha(lived, "main") == sha(lived, "HEAD") == commits["1.2.0"]
    lived.put("mary", "/channels/stable", version="1.0.0")
    assert get(lived, "").json()["sha"] == sha(lived, "main") == commits["1.0.0"] == sha(lived, "refs%2Fheads%2Fmain")
    create_model(lived.world, "alice/bare", make_checkpoint(lived.world.settings.data / "bare"))
    found = lived.world.client(None).get("/api/models/alice/bare/refs").json()
    (main, base) = found["branches"]
    assert (main["name"], base["name"], main["targetCommit"]) == ("main", "base", base["targetCommit"])


def test_a_revision_has_one_commit_by_all_its_names(still: Community) -> None:
    release, base, channel = sha(still, "1.2.0"), sha(still, "base"), sha(still, "stable")
    recipe = still.get("/releases/1.2.0")["recipe"]["digest"]
    composed = sha(still, f"recipe-{recipe}")
    for names, commit in (
        (("1.2.0", "refs%2Ftags%2F1.2.0", release, release[:7], release[:12]), release),
        (("base", "refs%2Fheads%2Fbase", base, base[:7]), base),
        (("stable", "refs%2Fheads%2Fstable", "1.1.0", "main"), channel),
        ((recipe, recipe[:8], f"recipe-{recipe[:8]}", composed, composed[:7], f"sha256:{recipe}"), composed),
    ):
        for name in names:
            assert sha(still, name) == commit, name
    assert all(HEX.fullmatch(commit) for commit in (release, base, channel, composed))
    assert composed != release, "a release has a card and a manifest of its own"


UNKNOWN = (
    *("9.9.9", "nightly", "Main", "0" * 40, "0000000", "abc", "recipe-00000000", "recipe-0000", "refs%2Ftags"),
    *("refs%2Fpr%2F9", "refs%2Fpr%2F0", "refs%2Fpr%2F9999999999", "refs%2Fpr%2F1%2Fhead", "refs%2Fheads%2FHEAD"),
    *("..%2F..%2Fx", "%2E%2E", "a%00b", "1.0.0%00", "1.0.0%0A", "1.0.0%20", "%2B", "%252Fmain", "x" * 900),
    *("weird%20%25%20%23%3F%26%3D%C3%A9", "main%2F", "%2Fmain", "%25"),
)


def test_a_revision_that_nothing_has_is_not_found(lived: Community) -> None:
    for rev in UNKNOWN:
        told = refused(get(lived, f"/revision/{rev}", status=404), 404, "RevisionNotFound")
        assert told.isprintable()
        refused(lived.world.client(None).get(f"/{NAME}/resolve/{rev}/config.json"), 404, "RevisionNotFound")
    long = get(lived, f"/revision/{'x' * 5000}", status=404)
    assert len(long.headers["x-error-message"]) == 1000


def test_a_revision_that_is_no_text_is_refused(still: Community) -> None:
    for rev in ("%FF", "%C3%28", "%ED%A0%80"):
        refused(get(still, f"/revision/{rev}", status=400), 400)
        refused(still.world.client(None).get(f"/{NAME}/resolve/{rev}/config.json"), 400)
        refused(still.world.client(None).get(f"/{NAME}/resolve/main/{rev}"), 400)


# commits are for ever


def test_commits_survive_a_restart_and_everything_that_happens_to_a_model(lived: Community) -> None:
    recipe = lived.get("/releases/1.2.0")["recipe"]["digest"]
    before = {name: sha(lived, name) for name in ("base", "1.0.0", "1.1.0", "1.2.0", f"recipe-{recipe}")}
    trees = {commit: get(lived, f"/tree/{commit}").json() for commit in before.values()}
    lived.publish("1.3.0", [1, 2, 3, 4])
    lived.put("mary", "/channels/stable", version="1.3.0")
    lived.post("mary", "/releases/1.0.0/yank", message="no good")
    assert lived.world.client("alice").patch(f"/api/v1/models/{NAME}", json={"license": "mit"}).status_code == 200
    url = lived.world.database.engine.url.render_as_string(hide_password=False)
    with open_world(lived.world.settings.data, url) as again:
        again.tokens.update(lived.world.tokens)
        after = Community(again, lived.base, [])
        assert {name: sha(after, name) for name in before} == before
        for commit, tree in trees.items():
            assert get(after, f"/revision/{commit}").json()["sha"] == commit
            assert get(after, f"/tree/{commit}").json() == tree
        assert sha(after, "main") == sha(after, "1.3.0") not in before.values()


def test_a_candidate_is_pulled_by_its_version_and_is_no_tag(lived: Community) -> None:
    lived.cut("1.3.0", [1, 2, 3, 4])
    answer = get(lived, "/revision/1.3.0")
    assert "may still change" in answer.headers["x-hf-warning"]
    tags = {tag["name"] for tag in get(lived, "/refs").json()["tags"]}
    assert tags == {"1.0.0", "1.1.0", "1.2.0"}
    early = answer.json()["sha"]
    lived.rebuild()
    lived.post("mary", "/releases/1.3.0/publish")
    assert sha(lived, "1.3.0") != early
    assert get(lived, f"/revision/{early}").json()["sha"] == early


def test_what_waits_for_its_composition_is_not_found_yet(lived: Community) -> None:
    asked = {"version": "1.3.0", "patches": [{"number": number} for number in (1, 2, 3, 4)], "alpha": "0.3"}
    lived.post("mary", "/releases", 202, **asked)
    assert "not composed yet" in refused(get(lived, "/revision/1.3.0", status=404), 404, "RevisionNotFound")
    files = [{"path": one["path"], "sha256": one["sha256"]} for one in lived.get("/revisions/base")["files"]]
    alice = lived.world.client("alice")
    assert alice.post("/api/v1/models", json={"name": "alice/slow", "files": files}).status_code == 202
    for path in ("", "/refs", "/revision/base", "/tree/main"):
        told = refused(alice.get(f"/api/models/alice/slow{path}"), 404, "RevisionNotFound")
        assert "still being checked" in told


# yanked and quarantined


def test_a_yanked_release_is_pulled_by_its_version_with_a_warning_and_is_not_main(lived: Community) -> None:
    commit = sha(lived, "1.2.0")
    reason = "It forgets.\r\nX-Evil: yes\n\u202eé 🙈"
    lived.post("mary", "/releases/1.2.0/yank", message=reason)
    assert sha(lived, "main") == sha(lived, "1.1.0")
    for path in ("/revision/1.2.0", f"/revision/{commit}", "/tree/1.2.0", "/revision/refs%2Ftags%2F1.2.0"):
        answer = get(lived, path)
        warning = answer.headers["x-hf-warning"]
        assert warning.startswith("1.2.0; ")
        assert "It forgets." in warning
        assert warning.isascii()
        assert warning.isprintable()
        assert "x-evil" not in answer.headers
    file = lived.world.client(None).get(f"/{NAME}/resolve/1.2.0/config.json")
    assert (file.status_code, file.headers["x-repo-commit"]) == (200, commit)
    assert "yanked" in file.headers["x-hf-warning"]
    assert "x-hf-warning" not in get(lived, "/revision/1.1.0").headers
    assert "1.2.0" in {tag["name"] for tag in get(lived, "/refs").json()["tags"]}


def test_a_channel_that_points_at_a_yanked_release_warns(lived: Community) -> None:
    lived.put("mary", "/channels/stable", version="1.1.0")
    lived.post("mary", "/releases/1.1.0/yank", message="no good")
    answer = get(lived, "/revision/main")
    assert answer.json()["sha"] == sha(lived, "1.1.0")
    assert answer.headers["x-hf-warning"].startswith("1.1.0; ")


def test_what_holds_a_quarantined_patch_is_served_to_admins_alone(lived: Community) -> None:
    lived.put("mary", "/channels/beta", version="1.1.0")
    lived.put("mary", "/channels/stable", version="1.0.0")
    held = {rev: sha(lived, rev) for rev in ("1.1.0", "1.2.0", "1.0.0")}
    recipe = lived.get("/releases/1.1.0")["recipe"]["digest"]
    composed = sha(lived, recipe)
    lived.put("chief", "/patches/2/quarantine", reason="looks odd")
    for rev in ("1.1.0", "beta", held["1.1.0"], held["1.1.0"][:9], recipe, composed):
        for user in (None, "alice"):
            told = refused(get(lived, f"/revision/{rev}", user, 403), 403)
            assert "patch #2, which is quarantined" in told
            refused(lived.world.client(user).get(f"/{NAME}/resolve/{rev}/config.json"), 403)
        assert "quarantined" in get(lived, f"/revision/{rev}", "chief").headers["x-hf-warning"]
    for user, tags, branches in (
        ("alice", {"1.0.0"}, {"main", "stable", "base"}),
        (None, {"1.0.0"}, {"main", "stable", "base"}),
        ("chief", set(held), {"main", "stable", "beta", "base"}),
    ):
        found = get(lived, "/refs?include_prs=1", user).json()
        assert {tag["name"] for tag in found["tags"]} == tags
        assert {branch["name"] for branch in found["branches"]} == branches
    lived.put("chief", "/patches/2/quarantine", reason=None)
    assert {tag["name"] for tag in get(lived, "/refs").json()["tags"]} == set(held)


def test_without_a_main_that_may_be_served_there_is_none(lived: Community) -> None:
    lived.put("chief", "/patches/1/quarantine", reason="looks odd")
    assert [branch["name"] for branch in get(lived, "/refs").json()["branches"]] == ["base"]
    refused(get(lived, "", status=403), 403)
    assert get(lived, "/revision/base").json()["sha"]


# branches, tags, pull requests, commits


def test_refs_are_branches_tags_and_the_pull_requests_that_were_composed(lived: Community) -> None:
    lived.put("mary", "/channels/beta", version="1.2.0")
    lived.world.client("bob").post(
        f"/api/v1/models/{NAME}/compositions", json={"alpha": "1", "patches": [{"number": 4}]}
    )
    lived.world.work()
    found = get(lived, "/refs").json()
    assert set(found) == {"branches", "converts", "tags"}
    assert found["converts"] == []
    assert [(one["name"], one["ref"]) for one in found["branches"]] == [
        (name, f"refs/heads/{name}") for name in ("main", "beta", "base")
    ]
    assert [(one["name"], one["ref"]) for one in found["tags"]] == [
        (version, f"refs/tags/{version}") for version in ("1.0.0", "1.1.0", "1.2.0")
    ]
    for one in (*found["branches"], *found["tags"]):
        assert sha(lived, one["ref"].replace("/", "%2F")) == sha(lived, one["name"]) == one["targetCommit"]
    pulls = get(lived, "/refs?include_prs=1").json()["pullRequests"]
    assert "refs/pr/4" in {one["ref"] for one in pulls}
    for one in pulls:
        assert one["name"] == one["ref"]
        assert sha(lived, one["ref"].replace("/", "%2F")) == one["targetCommit"]


def test_commits_go_back_to_the_base_by_pages(still: Community) -> None:
    found = get(still, "/commits/1.2.0").json()
    assert [one["id"] for one in found] == [sha(still, rev) for rev in ("1.2.0", "1.1.0", "1.0.0", "base")]
    assert [one["title"] for one in found] == ["Release 1.2.0", "Release 1.1.0", "Release 1.0.0", "Base model"]
    assert "Patch 3" in found[0]["message"]
    assert [person["user"] for person in found[0]["authors"]] == ["mary", "bob"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one["date"]) for one in found)
    recipe = still.get("/releases/1.1.0")["recipe"]["digest"]
    assert [one["title"] for one in get(still, f"/commits/{recipe}").json()] == [
        f"Compose {recipe[:12]}",
        "Base model",
    ]
    assert len(get(still, "/commits/base").json()) == 1
    seen, path = [], f"{API}/commits/1.2.0?limit=3&x=%26"
    while path:
        answer = still.world.client(None).get(path)
        seen += answer.json()
        path = answer.links["next"]["url"] if answer.links else ""
        assert not path or path.startswith(f"http://testserver{API}/commits/1.2.0?limit=3&x=%26&p=")
    assert seen == found
    assert get(still, "/commits/1.2.0?p=9").json() == []
    for query in ("p=-1", "p=x", "limit=0", f"p={10**30}"):
        refused(get(still, f"/commits/1.2.0?{query}", status=400), 400)


# trees


def entries(crew: Community, path: str = "", **params: Any) -> dict[str, dict[str, Any]]:
    answer = crew.world.client(None).get(f"/api/models/{FOLDERS}/tree/main{path}", params=params)
    assert answer.status_code == 200, answer.text
    return {entry["path"]: entry for entry in answer.json()}


def test_a_tree_lists_files_and_folders_with_gits_names(still: Community) -> None:
    top = entries(still)
    assert {path for path, entry in top.items() if entry["type"] == "directory"} == {"a b", "onnx"}
    everything = entries(still, recursive="true")
    assert set(INNER) | {"a b", "onnx", "onnx/deep", "onnx/deep/er", "config.json"} <= set(everything)
    assert list(everything) == sorted(everything)
    file = everything["onnx/config.json"]
    size = len("onnx/config.json")
    raw = pointer(file["lfs"]["oid"], size)
    assert (file["oid"], file["size"], file["lfs"]["size"], file["lfs"]["pointerSize"]) == (
        blob_id(raw),
        size,
        size,
        len(raw),
    )
    er = tree_id([("one.txt", everything["onnx/deep/er/one.txt"]["oid"], False)])
    deep = tree_id([("er", er, True)])
    assert everything["onnx/deep"]["oid"] == deep
    assert (
        everything["onnx"]["oid"]
        == top["onnx"]["oid"]
        == tree_id([("config.json", file["oid"], False), ("deep", deep, True)])
    )


def test_a_folder_is_listed_alone(still: Community) -> None:
    assert set(entries(still, "/onnx")) == {"onnx/config.json", "onnx/deep"}
    assert set(entries(still, "/onnx/")) == {"onnx/config.json", "onnx/deep"}
    assert set(entries(still, "/onnx%2Fdeep", recursive="true")) == {"onnx/deep/er", "onnx/deep/er/one.txt"}
    assert set(entries(still, "/a%20b")) == {"a b/x+y.json"}
    commit = entries(still, "/onnx", expand="true")["onnx/config.json"]["lastCommit"]
    assert commit["title"] == "Base model"
    assert commit["date"].endswith("Z")
    assert HEX.fullmatch(commit["id"])
    for path in ("none", "onn", "onnx%2Fconfig.json", "config.json", "..%2Fonnx", "onnx%00", "a+b"):
        answer = still.world.client(None).get(f"/api/models/{FOLDERS}/tree/main/{path}")
        refused(answer, 404, "EntryNotFound")
        assert answer.headers["x-repo-commit"] == commit["id"]


@pytest.mark.parametrize("query", ["recursive=true", "recursive=false&expand=true", "recursive=true&x=a%26b"])
def test_pages_of_a_tree_are_complete(still: Community, query: str) -> None:
    client, first = still.world.client(None), f"/api/models/{FOLDERS}/tree/main"
    whole = client.get(f"{first}?{query}").json()
    seen, path, pages = [], f"{first}?{query}&limit=2", 0
    while path:
        answer = client.get(path)
        seen += answer.json()
        pages += 1
        path = answer.links["next"]["url"] if answer.links else ""
        assert not path or path.startswith(f"http://testserver{first}?{query}&limit=2&cursor=")
    assert seen == whole
    assert pages == (len(whole) + 1) // 2


def test_paths_are_shown_as_they_are_in_the_tree_and_unknown_ones_left_out(still: Community) -> None:
    everything, url = entries(still, recursive="true"), f"/api/models/{FOLDERS}/paths-info/main"
    client = still.world.client(None)
    asked = ["onnx/config.json", "none", "a b/x+y.json", "onnx", "onnx/config.json", "../x", "", "\0"]
    wanted = [everything[path] for path in ("onnx/config.json", "a b/x+y.json", "onnx")]
    assert client.post(url, data={"paths": asked, "expand": "False"}).json() == wanted
    assert client.post(url, json={"paths": asked}).json() == wanted
    assert client.post(url, json={"paths": "onnx"}).json() == [everything["onnx"]]
    for body in ({"data": {"paths": "onnx", "expand": "True"}}, {"json": {"paths": ["onnx"], "expand": True}}):
        (entry,) = client.post(url, **body).json()
        assert entry["lastCommit"]["title"] == "Base model"
    assert client.post(url).json() == []


def test_what_is_no_list_of_paths_is_refused(still: Community) -> None:
    url, client = f"/api/models/{FOLDERS}/paths-info/main", still.world.client(None)
    typed = {"content-type": "application/json"}
    for body in (
        "[]",
        "{}",
        "null",
        '{"paths": 3}',
        '{"paths": [3]}',
        '{"paths": {}}',
        "{",
        "[" * 5000,
        '{"a":1,"a":2}',
    ):
        refused(client.post(url, content=body, headers=typed), 400)
    refused(client.post(url, content=b"\xff=\xff"), 400)
    refused(client.post(url, data={"paths": ["x"] * 5001}), 400)
    refused(client.post(url, json={"paths": ["x"] * 5001}), 400)
    refused(client.post(url, data={"paths": "x" * 2**20}), 413)
    refused(client.post(url.replace("main", "nightly"), data={"paths": "x"}), 404, "RevisionNotFound")


def test_our_own_api_knows_commits_too(still: Community) -> None:
    """What a person copies from a Hub's client works with `crumb pull NS/NAME@...`, too."""
    for ref in ("base", "1.0.0", "stable"):
        found = still.get(f"/revisions/{ref}")
        again = still.get(f"/revisions/{found['commit']}")
        assert (again["files"], again["commit"]) == (found["files"], found["commit"])
        assert still.get(f"/revisions/{found['commit'][:12]}")["commit"] == found["commit"]
    still.get(f"/revisions/{'0' * 40}", status=404)
