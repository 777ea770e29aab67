"""Pushing by the Hub's own library, over real HTTP: nothing of ours is installed where these people work."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, constants, hf_api
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RepositoryNotFoundError
from safetensors.numpy import load_file, save_file

from client import apply
from tests.support.hubs import make_llama
from tests.support.makers import fine_tuned, make_patch
from tests.support.processes import Registry, open_registry, until

NAME = "alice/tiny-llama"
# of huggingface_hub, which sends files in a way that its own HTTP library has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")


@dataclass
class Place:
    registry: Registry
    tokens: dict[str, str]
    base: Path

    def api(self, user: str) -> HfApi:
        return HfApi(endpoint=self.registry.url, token=self.tokens[user])

    def ask(self, path: str, user: str = "alice") -> Any:
        answer = httpx2.get(f"{self.registry.url}{path}", headers={"Authorization": f"Bearer {self.tokens[user]}"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def patch(self, number: int, name: str = NAME, revision: int = 1) -> dict[str, Any]:
        """Wait until a revision of a patch is checked, and return it."""
        token = {"Authorization": f"Bearer {self.tokens['alice']}"}

        def look() -> dict[str, Any] | None:
            answer = httpx2.get(f"{self.registry.url}/api/v1/models/{name}/patches/{number}", headers=token)
            found = answer.json() if answer.status_code == 200 else {}
            return found if found.get("revision") == revision and found["check"] != "checking" else None

        return until(look)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("pushing")
    with open_registry(folder, rate_address="", rate_token="", poll_seconds=0.1, part_bytes=4096) as registry:
        registry.serve()
        tokens = {user: registry.token(user) for user in ("alice", "bob", "carol")}
        base = make_llama(folder / "base", 1, shards=3)
        made = Place(registry, tokens, base)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            api = made.api("alice")
            api.create_repo(NAME)
            api.upload_folder(repo_id=NAME, folder_path=base)
            until(lambda: made.ask(f"/api/v1/models/{NAME}")["state"] == "ready")
        yield made


@pytest.fixture(autouse=True)
def no_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def test_a_push_to_a_new_name_makes_a_model_of_the_folder(place: Place, tmp_path: Path) -> None:
    model = place.ask(f"/api/v1/models/{NAME}")
    assert (model["state"], model["creator"], model["visibility"]) == ("ready", "alice", "public")
    folder = Path(place.api("carol").snapshot_download(NAME, cache_dir=tmp_path))
    assert {path.name for path in folder.iterdir()} == {path.name for path in place.base.iterdir()}
    assert folder.name == place.api("carol").model_info(NAME).sha


def test_a_pull_request_becomes_the_patch_that_crumb_would_make(place: Place, tmp_path: Path) -> None:
    tuned = fine_tuned(place.base, tmp_path / "tuned", seed=1)
    said = place.api("bob").upload_folder(
        repo_id=NAME, folder_path=tuned, create_pr=True, commit_message="Learn SQL", commit_description="On 10k pairs."
    )
    assert said.pr_url == f"{place.registry.url}/{NAME}/discussions/{said.pr_num}"
    patch = place.patch(said.pr_num)
    assert (patch["author"], patch["title"], patch["message"]) == ("bob", "Learn SQL", "On 10k pairs.")
    assert (patch["state"], patch["check"]) == ("proposed", "checked")
    assert patch["sha256"] == make_patch(place.base, tuned, tmp_path / "p.safetensors").sha256


def test_the_next_commit_on_the_pull_request_is_the_next_revision(place: Place, tmp_path: Path) -> None:
    bob = place.api("bob")
    first, second = (fine_tuned(place.base, tmp_path / str(seed), seed=seed) for seed in (11, 12))
    number = bob.upload_folder(repo_id=NAME, folder_path=first, create_pr=True, commit_message="One").pr_num
    place.patch(number)
    bob.upload_folder(repo_id=NAME, folder_path=second, revision=f"refs/pr/{number}", commit_message="Two")
    patch = place.patch(number, revision=2)
    assert (patch["title"], patch["state"]) == ("Two", "proposed")
    assert patch["sha256"] == make_patch(place.base, second, tmp_path / "p.safetensors").sha256


def test_shards_that_did_not_change_are_the_bases(place: Place, tmp_path: Path) -> None:
    tuned = shutil.copytree(place.base, tmp_path / "tuned")
    shard = tuned / "model-00002-of-00003.safetensors"
    save_file({name: value * 1.01 for name, value in load_file(shard).items()}, shard, {"format": "pt"})
    said = place.api("bob").upload_folder(repo_id=NAME, folder_path=tuned, create_pr=True, commit_message="A shard")
    assert said.pr_num is not None
    expected = make_patch(place.base, tuned, tmp_path / "p.safetensors").sha256
    assert place.patch(said.pr_num)["sha256"] == expected
    with pytest.raises(BadRequestError, match=r"send model-00002-of-00003.safetensors in the same commit"):
        place.api("bob").upload_file(
            repo_id=NAME,
            revision=f"refs/pr/{said.pr_num}",
            path_in_repo="model-00001-of-00003.safetensors",
            path_or_fileobj=shard,
        )


def test_a_description_says_how_to_diff(place: Place, tmp_path: Path) -> None:
    tuned = fine_tuned(place.base, tmp_path / "tuned", seed=3)
    words = "Less of it.\n\nDrop-Bottom: 0.9\nExclude: lm_head.weight\nTask: sql\nLicense: mit\nSigned-off-by: B <b@x>"
    said = place.api("bob").upload_folder(
        repo_id=NAME, folder_path=tuned, create_pr=True, commit_message="Learn", commit_description=words
    )
    patch = place.patch(said.pr_num)
    assert (patch["drop_bottom"], patch["task"], patch["license"]) == ("0.9", "sql", "mit")
    tensors = place.ask(f"/api/v1/models/{NAME}/patches/{said.pr_num}/tensors")
    assert "lm_head.weight" not in json.dumps(tensors)
    with pytest.raises(BadRequestError, match=r"drop_bottom 2 and drop_top 0 drop everything"):
        place.api("bob").upload_folder(
            repo_id=NAME, folder_path=tuned, create_pr=True, commit_message="Learn", commit_description="Drop-Bottom: 2"
        )


def test_what_is_no_fine_tune_of_the_base_is_said_and_can_be_mended(place: Place, tmp_path: Path) -> None:
    bob, other = place.api("bob"), make_llama(tmp_path / "other", 5, shards=1)
    weights = load_file(other / "model.safetensors")
    save_file({**weights, "score.weight": 2 * weights["lm_head.weight"]}, other / "model.safetensors", {"format": "pt"})
    number = bob.upload_folder(repo_id=NAME, folder_path=other, create_pr=True, commit_message="A head").pr_num
    pushed = until(lambda: failed(place, number))
    assert "score.weight" in pushed["error"]
    assert (pushed["author"], pushed["title"], pushed["job"]) == ("bob", "A head", None)
    shown = httpx2.get(f"{place.registry.url}/{NAME}/patches/{number}").text
    assert "score.weight" in shown and "Shared-Only: yes" in shown
    tuned = fine_tuned(place.base, tmp_path / "tuned", seed=4)
    bob.upload_folder(repo_id=NAME, folder_path=tuned, revision=f"refs/pr/{number}", commit_message="Without it")
    assert place.patch(number)["title"] == "Without it"


def failed(place: Place, number: int) -> dict[str, Any] | None:
    pushed = place.ask(f"/api/v1/models/{NAME}/patches/{number}/push")
    return pushed if pushed["state"] == "failed" else None


def test_weights_are_let_go_of_once_they_were_compared(place: Place, tmp_path: Path) -> None:
    before = place.ask("/api/v1/namespaces/carol", "carol")["used_bytes"]
    tuned = fine_tuned(place.base, tmp_path / "tuned", seed=6)
    number = place.api("carol").upload_folder(repo_id=NAME, folder_path=tuned, create_pr=True).pr_num
    patch = place.patch(number)
    assert place.ask("/api/v1/namespaces/carol", "carol")["used_bytes"] - before < patch["size"] + 20_000
    place.registry.check()


def test_a_model_with_a_base_takes_no_commit_on_main(place: Place, tmp_path: Path) -> None:
    tuned = fine_tuned(place.base, tmp_path / "tuned", seed=7)
    for user in ("alice", "bob"):
        with pytest.raises(BadRequestError, match="one is made of what you send"):
            place.api(user).upload_folder(repo_id=NAME, folder_path=tuned)
    with pytest.raises(BadRequestError, match="changes no weights"):
        place.api("bob").upload_file(repo_id=NAME, path_in_repo="config.json", path_or_fileobj=b"{}", create_pr=True)


def test_a_card_pushed_alone_is_proposed_and_its_maintainer_merges_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", place.registry.url)
    monkeypatch.setattr(hf_api.api, "endpoint", place.registry.url)
    card = ModelCard("---\nlanguage: fr\n---\n# Tiny\n")
    said = card.push_to_hub(NAME, token=place.tokens["bob"], create_pr=True)
    assert said.pr_num is not None
    place.api("alice").merge_pull_request(NAME, said.pr_num)
    assert "fr" in place.api("carol").model_info(NAME).tags


def test_others_cannot_push_into_a_pull_request_or_a_namespace(place: Place, tmp_path: Path) -> None:
    tuned = fine_tuned(place.base, tmp_path / "tuned", seed=8)
    number = place.api("bob").upload_folder(repo_id=NAME, folder_path=tuned, create_pr=True).pr_num
    with pytest.raises(HfHubHTTPError, match="Only the author"):
        place.api("carol").upload_folder(repo_id=NAME, folder_path=tuned, revision=f"refs/pr/{number}")
    with pytest.raises(HfHubHTTPError, match="maintainer of alice"):
        place.api("carol").create_repo("alice/mine")
    with pytest.raises(RepositoryNotFoundError):
        place.api("carol").upload_folder(repo_id="alice/mine", folder_path=tuned)


def test_a_private_name_stays_private_and_is_the_makers(place: Place) -> None:
    carol = place.api("carol")
    url = carol.create_repo("secret", private=True)
    assert url.repo_id == "carol/secret"
    assert carol.create_repo("carol/secret", private=True, exist_ok=True).repo_id == "carol/secret"
    with pytest.raises(HfHubHTTPError, match="409"):
        carol.create_repo("carol/secret")
    carol.upload_folder(repo_id="carol/secret", folder_path=make_llama(place.base.parent / "secret", 9, shards=1))
    until(lambda: place.ask("/api/v1/models/carol/secret", "carol")["state"] == "ready")
    assert place.ask("/api/v1/models/carol/secret", "carol")["visibility"] == "private"
    assert not place.api("bob").repo_exists("carol/secret")


def test_leftovers_of_training_are_not_sent_and_pickled_weights_are_refused(place: Place, tmp_path: Path) -> None:
    tuned = fine_tuned(place.base, tmp_path / "tuned", seed=10)
    for name in ("training_args.bin", "optimizer.pt", "runs/x/events.out.tfevents.1", "model.gguf", ".gitattributes"):
        (tuned / name).parent.mkdir(parents=True, exist_ok=True)
        (tuned / name).write_bytes(b"x")
    number = place.api("bob").upload_folder(repo_id=NAME, folder_path=tuned, create_pr=True).pr_num
    assert place.patch(number)["check"] == "checked"
    (tuned / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BadRequestError, match="convert the weights to safetensors"):
        place.api("bob").upload_folder(repo_id=NAME, folder_path=tuned, create_pr=True)


def test_a_commit_of_operations(place: Place, tmp_path: Path) -> None:
    tuned = make_llama(tmp_path / "tuned", 1, shards=1)
    weights = load_file(tuned / "model.safetensors")
    save_file({name: value * 1.001 for name, value in weights.items()}, tuned / "model.safetensors", {"format": "pt"})
    said = place.api("bob").create_commit(
        repo_id=NAME,
        operations=[
            CommitOperationAdd("model.safetensors", (tuned / "model.safetensors").read_bytes()),
            CommitOperationDelete("model.safetensors.index.json"),
            CommitOperationDelete("generation_config.json"),
        ],
        commit_message="In one file",
        create_pr=True,
    )
    expected = make_patch(place.base, tuned, tmp_path / "p.safetensors").sha256
    assert place.patch(said.pr_num)["sha256"] == expected


def test_what_was_pushed_composes_to_what_crumb_composes(place: Place, tmp_path: Path) -> None:
    tuned = fine_tuned(place.base, tmp_path / "tuned", seed=13)
    number = place.api("bob").upload_folder(repo_id=NAME, folder_path=tuned, create_pr=True).pr_num
    place.patch(number)
    folder = Path(place.api("alice").snapshot_download(NAME, revision=f"refs/pr/{number}", cache_dir=tmp_path / "hf"))
    make_patch(place.base, tuned, tmp_path / "p.safetensors")
    apply(place.base, [tmp_path / "p.safetensors"], tmp_path / "here", alpha="1")
    for shard in tmp_path.glob("here/*.safetensors"):
        assert (folder / shard.name).read_bytes() == shard.read_bytes()


def test_a_draft_pull_request_is_opened_first_and_filled_afterwards(place: Place, tmp_path: Path) -> None:
    bob = place.api("bob")
    opened = bob.create_pull_request(NAME, title="Soon", description="Wait for it.")
    number = opened.num
    assert (opened.status, opened.git_reference) == ("draft", f"refs/pr/{number}")
    assert "Nothing that a patch" in httpx2.get(f"{place.registry.url}/{NAME}/patches/{number}").text
    tuned = fine_tuned(place.base, tmp_path / "tuned", seed=14)
    place.api("bob").upload_folder(repo_id=NAME, folder_path=tuned, revision=f"refs/pr/{number}", commit_message="Soon")
    assert (place.patch(number)["state"], place.patch(number)["title"]) == ("draft", "Soon")
    assert bob.get_discussion_details(NAME, number).title == "Soon"
    with pytest.raises(BadRequestError, match="is about a patch"):
        bob.create_discussion(NAME, title="Hello", description="?")
