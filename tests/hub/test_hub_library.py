"""What huggingface_hub makes of the registry, over real HTTP: the version that is pinned, as people use it."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, HfFileSystem, ModelCard
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.support.hubs import BIG, NAME, Hub, sha256
from tests.support.processes import Cutter


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


def as_user(hub: Hub, user: str) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.tokens[user])


def test_a_snapshot_is_the_files_that_were_released(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    folder = Path(api.snapshot_download(NAME, revision="base", cache_dir=tmp_path))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == hub.files
    assert folder.name == hub.commits["base"]
    released = Path(api.snapshot_download(NAME, revision="1.1.0", cache_dir=tmp_path))
    assert released.name == hub.commits["1.1.0"]
    assert {path.name for path in released.iterdir()} == set(hub.files)
    assert (released / "config.json").read_bytes() == hub.files["config.json"]
    assert "1.1.0" in ModelCard.load(released / "README.md").content


def test_main_is_the_stable_channel_and_a_commit_needs_no_question(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    assert api.model_info(NAME).sha == hub.commits["stable"] == hub.commits["1.0.0"]
    path = api.hf_hub_download(NAME, "config.json", cache_dir=tmp_path)
    assert Path(path).parent.name == hub.commits["stable"]
    gone = HfApi(endpoint="http://127.0.0.1:9", token=False)
    assert gone.hf_hub_download(NAME, "config.json", revision=hub.commits["stable"], cache_dir=tmp_path) == path


@pytest.mark.parametrize(
    "revision", ["main", "stable", "1.0.0", "refs/heads/stable", "refs/tags/1.0.0", "the commit", "a short commit"]
)
def test_every_name_of_a_release_is_the_release(hub: Hub, api: HfApi, tmp_path: Path, revision: str) -> None:
    commit = hub.commits["1.0.0"]
    name = {"the commit": commit, "a short commit": commit[:7]}.get(revision, revision)
    assert api.model_info(NAME, revision=name).sha == commit
    assert Path(api.hf_hub_download(NAME, "config.json", revision=name, cache_dir=tmp_path)).parent.name == commit
    assert {file.path for file in api.list_repo_tree(NAME, revision=name)} == set(hub.files)
    assert [file.path for file in api.get_paths_info(NAME, ["config.json"], revision=name)] == ["config.json"]
    assert api.list_repo_commits(NAME, revision=name)[0].commit_id == commit


def test_references_and_history_are_those_of_releases_and_channels(hub: Hub, api: HfApi) -> None:
    refs = api.list_repo_refs(NAME, include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {
        "main": hub.commits["stable"],
        "stable": hub.commits["stable"],
        "base": hub.commits["base"],
    }
    assert {ref.ref: ref.target_commit for ref in refs.tags} == {
        "refs/tags/1.0.0": hub.commits["1.0.0"],
        "refs/tags/1.1.0": hub.commits["1.1.0"],
    }
    history = api.list_repo_commits(NAME, revision="1.1.0")
    assert [step.commit_id for step in history] == [hub.commits[name] for name in ("1.1.0", "1.0.0", "base")]
    assert history[0].title == "Release 1.1.0"
    assert history[0].authors == ["alice", "bob"]


def test_model_info_says_what_the_model_is(hub: Hub, api: HfApi) -> None:
    info = api.model_info(NAME, revision="1.0.0", files_metadata=True)
    assert (info.id, info.author, info.private, info.gated) == (NAME, "acme", False, False)
    assert (info.library_name, info.pipeline_tag) == ("transformers", "text-generation")
    assert info.card_data is not None
    assert info.card_data["license"] == "apache-2.0"
    assert info.card_data["base_model_relation"] == "merge"
    assert {"merge", "breadcrumbs", "llama", "safetensors", "license:apache-2.0"} <= set(info.tags or ())
    assert info.safetensors is not None
    found = api.get_safetensors_metadata(NAME, revision="1.0.0")
    assert info.safetensors.parameters == found.parameter_count
    assert info.safetensors.total == sum(found.parameter_count.values())
    for file in info.siblings or ():
        assert file.lfs is not None
        if file.rfilename in ("config.json", "tokenizer.json"):
            assert (file.size, file.lfs.sha256) == (
                len(hub.files[file.rfilename]),
                sha256(hub.files[file.rfilename]),
            )


def test_models_are_found_by_words_tags_and_authors(hub: Hub, api: HfApi) -> None:
    def found(**asked: Any) -> list[str]:
        return [model.id for model in api.list_models(**asked)]

    assert found(search="llama") == found(author="acme") == found(filter="text-generation") == [NAME]
    assert found(pipeline_tag="text-generation", filter=["license:apache-2.0", "en"]) == [NAME]
    assert found(filter="license:mit") == found(author="nobody") == []
    by_age = found(sort="created_at")
    assert by_age == ["alice/large", NAME]  # newest first, and nothing private
    one_by_one = [model.id for model in api.list_models(sort="created_at", limit=1)]
    assert one_by_one == by_age[:1]
    mine = {model.id for model in as_user(hub, "alice").list_models(full=True)}
    assert mine == {"alice/large", NAME, "alice/secret"}


def test_who_may_not_see_a_model_finds_none(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    for stranger in (api, as_user(hub, "carol"), HfApi(endpoint=hub.url, token="hf_" + "x" * 34)):
        assert not stranger.repo_exists("alice/secret")
        with pytest.raises(RepositoryNotFoundError):
            stranger.model_info("alice/secret")
        with pytest.raises(RepositoryNotFoundError):
            stranger.hf_hub_download("alice/secret", "config.json", cache_dir=tmp_path)
        with pytest.raises(RepositoryNotFoundError):
            stranger.auth_check("alice/secret")
    alice = as_user(hub, "alice")
    alice.auth_check("alice/secret")
    alice.auth_check("alice/secret", write=True)
    assert alice.model_info("alice/secret").private
    assert Path(alice.snapshot_download("alice/secret", cache_dir=tmp_path)).is_dir()


def test_a_token_that_only_the_hub_knows_reads_what_is_public(hub: Hub, tmp_path: Path) -> None:
    theirs = HfApi(endpoint=hub.url, token="hf_" + "x" * 34)
    assert Path(theirs.snapshot_download(NAME, cache_dir=tmp_path)).is_dir()
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        theirs.whoami()
    who = as_user(hub, "alice").whoami()
    assert (who["name"], who["auth"]["accessToken"]["role"]) == ("alice", "write")
    assert [organisation["name"] for organisation in who["orgs"]] == ["acme"]


def test_what_is_not_there_is_told_in_the_hubs_own_errors(api: HfApi, tmp_path: Path) -> None:
    assert not api.repo_exists("acme/none")
    assert not api.revision_exists(NAME, "9.9.9")
    assert not api.file_exists(NAME, "model.bin")
    assert api.file_exists(NAME, "config.json")
    with pytest.raises(RevisionNotFoundError, match="crumb release list"):
        api.model_info(NAME, revision="9.9.9")
    with pytest.raises(EntryNotFoundError) as missing:
        api.hf_hub_download(NAME, "model.bin", cache_dir=tmp_path)
    assert not isinstance(missing.value, LocalEntryNotFoundError)
    assert [path.name for path in tmp_path.rglob(".no_exist/*/*")] == ["model.bin"]  # the miss is remembered
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(NAME, "folder"))


def test_a_patch_alone_is_composed_for_whoever_may_ask(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    with pytest.raises(RevisionNotFoundError, match="crumb compose acme/tiny-llama 3"):
        api.model_info(NAME, revision="refs/pr/3")
    folder = as_user(hub, "carol").snapshot_download(NAME, revision="refs/pr/3", cache_dir=tmp_path)
    assert api.model_info(NAME, revision="refs/pr/3").sha == Path(folder).name
    pulls = api.list_repo_refs(NAME, include_pull_requests=True).pull_requests
    assert ("refs/pr/3", Path(folder).name) in [(ref.ref, ref.target_commit) for ref in pulls or ()]


def test_a_file_system_reads_ranges(hub: Hub) -> None:
    files = HfFileSystem(endpoint=hub.url, token=False)
    assert {Path(path).name for path in files.ls(f"{NAME}@1.0.0", detail=False)} == set(hub.files)
    with files.open(f"{NAME}@base/tokenizer.json", block_size=64) as file:
        file.seek(40)
        assert file.read(25) == hub.files["tokenizer.json"][40:65]
    with files.open("alice/large/model.safetensors", "rb") as file:
        file.seek(BIG // 2)
        part = file.read(4096)
        assert len(part) == 4096


def test_one_tensor_is_read_of_a_model_that_is_on_no_disk(hub: Hub, tmp_path: Path) -> None:
    api = as_user(hub, "alice")
    whole = api.hf_hub_download("alice/large", "model.safetensors", revision="refs/pr/1", cache_dir=tmp_path)
    sha256 = Path(whole).resolve().name
    assert not (hub.data / "blobs" / "sha256" / sha256[:2] / sha256[2:4] / sha256).exists()
    with HfFileSystem(endpoint=hub.url, token=False).open(
        "alice/large@refs/pr/1/model.safetensors", "rb", block_size=2**16
    ) as file:
        length = int.from_bytes(file.read(8), "little")
        start, stop = json.loads(file.read(length))["w"]["data_offsets"]
        file.seek(8 + length + start + 4000)
        assert file.read(400) == Path(whole).read_bytes()[8 + length + 4000 : 8 + length + 4400]
        assert stop == BIG


def test_a_cache_is_verified_by_what_the_registry_says(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    folder = Path(api.snapshot_download(NAME, revision="1.0.0", cache_dir=tmp_path))
    sound = api.verify_repo_checksums(NAME, revision="1.0.0", cache_dir=tmp_path)
    assert (sound.checked_count, sound.mismatches, sound.missing_paths) == (len(hub.files), [], [])
    blob = (folder / "tokenizer.json").resolve()
    blob.write_bytes(blob.read_bytes().replace(b"w1", b"w9"))
    damaged = api.verify_repo_checksums(NAME, revision="1.0.0", cache_dir=tmp_path)
    assert [found["path"] for found in damaged.mismatches] == ["tokenizer.json"]


@pytest.mark.parametrize("revision", ["base", "refs/pr/1"])
def test_a_download_that_is_cut_goes_on_where_it_was(hub: Hub, tmp_path: Path, revision: str) -> None:
    """A file on disk, and one that is composed while it is sent."""
    with Cutter(hub.url, after=BIG - 2**20) as proxy:
        found = HfApi(endpoint=proxy.url, token=False).hf_hub_download(
            "alice/large", "model.safetensors", revision=revision, cache_dir=tmp_path
        )
        assert proxy.cut.is_set()
    whole = Path(found).read_bytes()
    assert sha256(whole) == Path(found).resolve().name
    assert proxy.ranges == [None, 20 * 2**20]  # what has reached the disk, ten MiB at a time


def test_downloads_are_counted(hub: Hub, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.url, token=False)
    before = api.model_info("alice/large", expand=["downloads", "downloadsAllTime"])
    api.snapshot_download("alice/large", cache_dir=tmp_path)
    api.snapshot_download("alice/large", cache_dir=tmp_path)  # nothing is fetched
    after = api.model_info("alice/large")
    assert (after.downloads or 0) - (before.downloads or 0) == 1


def test_eight_at_a_time_get_the_same(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    found: list[Path] = []

    def pull(place: int) -> None:
        found.append(Path(api.snapshot_download(NAME, revision="1.1.0", cache_dir=tmp_path / str(place))))

    threads = [threading.Thread(target=pull, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [{path.name: sha256(path.read_bytes()) for path in folder.iterdir()} for folder in found]
    assert len(seen) == 8
    assert all(one == seen[0] for one in seen)
