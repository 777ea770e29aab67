"""Releases that take the files that came with their patches: in the candidate, the release, its manifest and commit."""

import json
from typing import Any

import pytest
from sqlalchemy import select

from registry.db.tables import Release, ReleaseFile
from registry.documents.commits import commit_id
from registry.documents.manifest import read_manifest
from registry.server.pages.frame.cookies import COOKIE, csrf_of
from registry.services.people import sign_ins
from tests.support.community import NAME, URL, Community
from tests.support.makers import changed, make_patch
from tests.support.world import digest

pytestmark = pytest.mark.heavy

CONFIG = json.dumps({"model_type": "tiny", "rope_theta": 1e6}).encode()
FILES = {"config.json": CONFIG, "chat_template.jinja": b"{{ messages }}"}


def offer(crew: Community, files: dict[str, bytes] = FILES, spare: int = 0) -> int:
    """Have an accepted patch with files."""
    number: int = crew.push_files(crew.spares[spare], files)["number"]
    crew.accept(number)
    return number


def files_of(crew: Community, ref: str, user: str | None = None) -> dict[str, str]:
    return {file["path"]: file["sha256"] for file in crew.get(f"/revisions/{ref}", user)["files"]}


def patches(*numbers: int) -> dict[str, Any]:
    return {"patches": [{"number": number} for number in numbers], "alpha": "0.3"}


def taken(release: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {file["path"]: (file["patch"], file["revision"]) for file in release["taken_files"]}


def test_a_release_has_the_files_of_a_patch_in_place_of_the_bases(crew: Community) -> None:
    number = offer(crew)
    crew.accept(1)
    plain = crew.publish("1.0.0", [1, number])
    before = files_of(crew, "1.0.0")
    cut = crew.cut("1.0.1", [1, number], 201, files_of=[number])
    candidate = crew.get("/releases/1.0.1")
    assert taken(cut) == taken(candidate) == dict.fromkeys(FILES, (number, 1))
    digests = {path: digest(raw) for path, raw in FILES.items()}
    assert files_of(crew, "1.0.1") == {**files_of(crew, plain["recipe"]["digest"]), **digests}, "the candidate has them"
    commit = crew.get("/revisions/1.0.1")["commit"]
    assert commit == commit_id(files_of(crew, "1.0.1"))
    assert files_of(crew, commit) == files_of(crew, "1.0.1"), "the Hub's tools ask for the candidate by its commit"
    history = crew.world.client(None).get(f"/api/models/{NAME}/commits/1.0.1").json()
    assert history[0]["id"] == commit
    assert f"- `config.json` of \\#{number}" in candidate["changelog"]
    assert "Files" not in plain["changelog"]

    release = crew.publish("1.0.1", [1, number], status=201, files_of=[number])
    after = files_of(crew, "1.0.1")
    assert after == {**before, **digests, "README.md": after["README.md"]}
    assert release["weights_digest"] == plain["weights_digest"]
    assert taken(release) == dict.fromkeys(FILES, (number, 1))
    snapshot = crew.get("/revisions/1.0.1")
    assert snapshot["commit"] == commit_id(after) != crew.get("/revisions/1.0.0")["commit"]
    manifest = read_manifest(crew.world.client(None).get(f"{URL}/releases/1.0.1/manifest").content)
    assert {file.path: file.sha256 for file in manifest.files} == after
    for revision in ("1.0.1", snapshot["commit"]):
        served = crew.world.client(None).get(f"/{NAME}/resolve/{revision}/config.json")
        assert served.content == CONFIG
    assert files_of(crew, "1.0.0") == before, "what was published stays"
    compared = crew.get("/compare?before=1.0.0&after=1.0.1")
    assert (compared["bump"], compared["added"]) == ("none", [])
    assert compared["files"] == [
        {"path": path, "before": before.get(path), "after": digests[path]} for path in sorted(FILES)
    ]
    http = crew.world.client(None)
    page = http.get(f"/{NAME}/releases/compare?before=1.0.0&after=1.0.1").text
    assert 'chat_template.jinja</code> <span class="facts">added' in page
    assert files_of(crew, plain["recipe"]["digest"])["config.json"] == before["config.json"]
    (event,) = crew.events("release.cut")[-1:]
    assert event.after["files"]["config.json"] == {"patch": number, "sha256": digest(CONFIG)}


def test_a_release_that_takes_nothing_is_as_it_was(crew: Community) -> None:
    number = offer(crew)
    release = crew.publish("1.0.0", [number])
    composed = files_of(crew, release["recipe"]["digest"])
    released = files_of(crew, "1.0.0")
    assert released == {**composed, "README.md": released["README.md"]}
    assert release["taken_files"] == []
    with crew.world.database.read() as session:
        assert set(session.scalars(select(ReleaseFile.revision_id))) == {None}


def test_two_patches_with_different_files_of_one_name_are_refused_and_named(crew: Community) -> None:
    first = offer(crew)
    second = offer(crew, {"config.json": b"{}", "more.txt": b"x"}, 1)
    third = offer(crew, {"config.json": CONFIG}, 2)
    refused = crew.post("mary", "/releases", 422, version="1.0.0", files_of=[first, second], **patches(first, second))
    assert f"#{first} and #{second} have different files config.json" in refused["detail"]
    crew.get("/releases/1.0.0", status=404)
    cut = crew.cut("1.0.0", [first, second, third], files_of=[first, third])
    assert sorted(taken(cut)) == sorted(FILES), "the same bytes are no conflict"
    both = crew.cut("1.1.0", [first, second], files_of=[second])
    assert taken(both) == {"config.json": (second, 1), "more.txt": (second, 1)}


def test_files_are_taken_of_patches_of_the_release_that_have_some(crew: Community) -> None:
    number = offer(crew)
    crew.accept(1)
    said = crew.post("mary", "/releases", 422, version="1.0.0", files_of=[number], **patches(1))["detail"]
    assert f"#{number} is not in this release" in said
    said = crew.post("mary", "/releases", 422, version="1.0.0", files_of=[1], **patches(1))["detail"]
    assert "No files came with #1.1" in said
    crew.post("rita", "/releases", 403, version="1.0.0", files_of=[number], **patches(number))


def test_the_next_release_keeps_the_files_as_long_as_it_holds_the_patch(crew: Community) -> None:
    number = offer(crew)
    crew.accept(1)
    crew.publish("1.0.0", [number], files_of=[number])
    kept = crew.cut("1.1.0", from_ref="1.0.0", add=[{"number": 1}])
    assert taken(kept) == dict.fromkeys(FILES, (number, 1))
    more: dict[str, Any] = {"add": [{"number": 1}]}
    assert taken(crew.cut("1.1.0", status=201, from_ref="1.0.0", files_of=[], **more)) == {}
    assert taken(crew.cut("1.1.0", from_ref="main", without=[number], **more)) == {}
    assert taken(crew.cut("1.1.0", [1, number], 201)) == {}, "it starts from no release"


def test_cutting_again_replaces_what_a_candidate_takes(crew: Community) -> None:
    number = offer(crew)
    crew.cut("1.0.0", [number])
    composed = crew.get("/revisions/1.0.0")["commit"]
    crew.cut("1.0.0", [number], 201, files_of=[number])
    with_files = crew.get("/revisions/1.0.0")
    assert with_files["commit"] != composed
    assert files_of(crew, with_files["commit"]) == files_of(crew, "1.0.0")
    crew.accept(1)
    crew.post("mary", "/releases", 202, version="1.0.0", files_of=[number], **patches(1, number))
    crew.get(f"/revisions/{with_files['commit']}", status=404)
    crew.cut("1.0.0", [number], 201, files_of=[number])
    events = crew.count_events()
    crew.cut("1.0.0", [number], 201, files_of=[number])
    assert crew.count_events() == events, "the same again changes nothing"
    crew.cut("1.0.0", [number], 201)
    assert crew.get("/revisions/1.0.0")["commit"] == composed
    with crew.world.database.read() as session:
        assert session.scalars(select(ReleaseFile)).all() == []
        assert session.scalars(select(Release.commit)).all() == [None]


def test_files_of_a_patch_that_is_not_accepted_keep_a_release_from_being_published(crew: Community) -> None:
    number = crew.push_files(crew.spares[0], FILES)["number"]
    crew.cut("1.0.0", [number], files_of=[number])
    crew.rebuild()
    refused = crew.post("mary", "/releases/1.0.0/publish", 409)
    assert f"Patch #{number} is draft, not accepted." in refused["detail"]


def test_files_of_a_quarantined_patch_are_served_to_admins_alone(crew: Community) -> None:
    number = offer(crew)
    crew.publish("1.0.0", [number], files_of=[number])
    crew.put("chief", f"/patches/{number}/quarantine", reason="bad")
    crew.get("/revisions/1.0.0", status=403)
    crew.get("/revisions/1.0.0/files/config.json", "mary", status=403)
    assert crew.get("/revisions/1.0.0/files/config.json", "chief").content == CONFIG


def test_the_files_are_those_of_the_revision_that_the_release_holds(crew: Community, tmp_path: Any) -> None:
    number: int = crew.push_files(crew.spares[0], FILES)["number"]
    tuned = changed(crew.base, tmp_path / "tuned", lambda name, it: it + 0.01 if it.is_floating_point() else it)
    make_patch(crew.base, tuned, tmp_path / "patch")
    crew.revise(number, tmp_path / "patch")
    crew.accept(number)
    refused = crew.post("mary", "/releases", 422, version="1.0.0", files_of=[number], **patches(number))
    assert f"No files came with #{number}.2" in refused["detail"]
    older = {"patches": [{"number": number, "revision": 1}], "alpha": "0.3"}
    assert taken(crew.post("mary", "/releases", 202, version="1.0.0", files_of=[number], **older)) == dict.fromkeys(
        FILES, (number, 1)
    )


def test_a_pull_request_has_its_patchs_files_in_place_of_the_bases(crew: Community) -> None:
    number = crew.push_files(crew.spares[0], FILES)["number"]
    http = crew.world.client("mary")
    crew.post("mary", "/compositions", 202, patches=[{"number": number}], alpha="1")
    crew.world.work()
    pull = f"refs%2Fpr%2F{number}"
    shown = http.get(f"/api/models/{NAME}/revision/{pull}").json()
    assert http.get(f"/{NAME}/resolve/{pull}/config.json").content == CONFIG
    recipe = crew.get(f"/patches/{number}")["sha256"]
    composed = crew.post("mary", "/compositions", 200, patches=[{"number": number}], alpha="1")["recipe"]["digest"]
    plain = files_of(crew, composed)
    assert {item["sha256"] for item in crew.get(f"/revisions/{composed}")["recipe"]["patches"]} == {recipe}
    assert shown["sha"] == commit_id({**plain, **{path: digest(raw) for path, raw in FILES.items()}})
    assert {file["rfilename"] for file in shown["siblings"]} == {*plain, *FILES}
    assert http.get(f"/{NAME}/resolve/{shown['sha']}/config.json").content == CONFIG, "clients fetch by the commit"
    assert http.get(f"/{NAME}/resolve/{shown['sha'][:8]}/chat_template.jinja").content == FILES["chat_template.jinja"]
    assert http.get(f"/api/models/{NAME}/commits/{pull}").json()[0]["id"] == shown["sha"]
    pulls = http.get(f"/api/models/{NAME}/refs?include_prs=1").json()["pullRequests"]
    assert [one["targetCommit"] for one in pulls if one["ref"] == f"refs/pr/{number}"] == [shown["sha"]]
    assert http.get(f"/{NAME}/resolve/recipe-{composed}/config.json").content != CONFIG, "a recipe has the base's"
    assert plain["config.json"] == files_of(crew, "base")["config.json"]
    crew.put("chief", f"/patches/{number}/quarantine", reason="bad")
    for revision in (pull, shown["sha"]):
        assert http.get(f"/{NAME}/resolve/{revision}/config.json").status_code in (403, 404)


def test_the_page_of_a_recipe_offers_the_files_of_its_own_patches(crew: Community) -> None:
    number, other = offer(crew), offer(crew, {"more.txt": b"x"}, 1)
    composed = crew.post("mary", "/compositions", 202, patches=[{"number": number}], alpha="0.3")
    crew.world.work()
    http = crew.world.browser()
    with crew.world.database.write() as session:
        cookie = sign_ins.start(session, crew.world.token("mary"))
    http.cookies.set(COOKIE, cookie)
    where = f"/{NAME}/recipes/{composed['recipe']['digest']}"
    page = http.get(where).text
    assert f'name="files_of" value="{number}"' in page and f'name="files_of" value="{other}"' not in page
    fields = {"csrf": csrf_of(cookie), "version": "1.0.0", "files_of": str(number)}
    assert http.post(f"{where}/release", data=fields).status_code == 303
    assert taken(crew.get("/releases/1.0.0")) == dict.fromkeys(FILES, (number, 1))
    assert "files_of" not in crew.world.client(None).get(where).text
