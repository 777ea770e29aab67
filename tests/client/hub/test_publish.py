"""A release on the Hub: whole, once, resumed, and nothing that is private by accident; on a stand-in over real HTTP."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest

from client import Client
from client.actions.jobs import wait
from client.actions.models import create
from client.actions.pulling.pull import pull
from client.actions.push import push
from client.actions.transfers import download_snapshot
from client.actions.verify import recompose
from client.hub import repos as hub_repos
from registry.schemas import Snapshot
from tests.support import makers
from tests.support.hub_stand_in import TOKEN, Blob, HubStandIn, Repo, open_hub
from tests.support.visitors import Crumb, Registry

MODEL = "ana/published"
REPO = "hubert/published"
ONE = f"{MODEL}@1.0.0"
TO = f"hf://{REPO}"
# Of httpx2, about how the Hub's own library sends a file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
ALONE = 1000  # bytes: the weight files of a small model are sent one by one, too


@pytest.fixture(scope="module")
def released(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with 1.0.0 published, 1.1.0 yanked, and 1.2.0 a candidate."""
    folder = tmp_path_factory.mktemp("published")
    shapes = {"a.weight": (128, 64), "z.weight": (128, 64)}
    base = makers.make_checkpoint(folder / "base", shards=2, shapes=shapes)
    with registry.client() as client:
        create(client, MODEL, base)
        client.update_model(MODEL, min_approvals=0)
        patch = folder / "patch.safetensors"
        makers.make_patch(base, makers.fine_tuned(base, folder / "tuned"), patch)
        push(client, patch, MODEL, "a patch", propose=True)
        client.accept(MODEL, 1)
        for version, weight in (("1.0.0", "1"), ("1.1.0", "2"), ("1.2.0", "3")):
            made = client.cut_release(MODEL, version, [(1, weight)])
            if made.job is not None:
                wait(client, made.job)
            if version == "1.0.0":
                client.add_evaluation(MODEL, version, task="t", dataset="d", metric="m", value=0.5)
            if version != "1.2.0":
                recompose(client, MODEL, version)
                client.publish_release(MODEL, version)
        client.yank_release(MODEL, "1.1.0", "It forgets.")
    return MODEL


@pytest.fixture
def stand_in(
    tmp_path: Path, registry: Registry, released: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubStandIn]:
    """An empty Hub, with everything set to use it and the registry."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(hub_repos, "ALONE", ALONE)
    monkeypatch.setenv("CRUMB_URL", registry.url)
    monkeypatch.setenv("CRUMB_TOKEN", registry.token("ana"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with open_hub(tmp_path / "hub") as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        yield made


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which files were asked for at the registry."""
    paths: list[str] = []
    seen = paths

    def download(client: Client, snapshot: Snapshot, folder: Path, *, paths: Sequence[str], **how: Any) -> None:
        seen.extend(paths)
        download_snapshot(client, snapshot, folder, paths=paths, **how)

    for module in ("client.hub.publish", "client.actions.pulling.pull"):
        monkeypatch.setattr(f"{module}.download_snapshot", download)
    return paths


def publish(crumb: Crumb, *more: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(crumb("publish", ONE, TO, "--json", *more))
    return found


def writes(hub: HubStandIn) -> list[str]:
    """What was asked that changes a repository of a Hub."""
    return [path for _, path in hub.asked if any(f"/{word}" in path for word in ("create", "commit/", "tag/"))]


def read(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {path: raw for path, raw in found.items() if not path.startswith(".")}


def test_what_the_hub_has_is_the_release_and_says_where_it_is_from(
    stand_in: HubStandIn, registry: Registry, crumb: Crumb, tmp_path: Path
) -> None:
    done = publish(crumb, "--base-model", "meta/tiny")
    assert (done["url"], done["tag"]) == (f"{stand_in.url}/{REPO}", "v1.0.0")
    assert stand_in.repos[REPO].tags == {"v1.0.0": done["commit"]}
    there, mine = tmp_path / "there", tmp_path / "mine"
    huggingface_hub.snapshot_download(
        REPO, revision="v1.0.0", local_dir=there, endpoint=stand_in.url, token=TOKEN, cache_dir=tmp_path / "cache"
    )
    with registry.client() as client:
        revision = pull(client, MODEL, "1.0.0", mine)
        release = client.release(MODEL, "1.0.0")
    large = [path for path in there.rglob("*.*") if ".cache" not in path.parts and path.stat().st_size >= ALONE]
    assert stand_in.asked.count(("POST", f"/api/models/{REPO}/preupload/main")) == 1 + len(large)
    found, expected = read(there), read(mine)
    card, record = found.pop("README.md").decode(), json.loads(found.pop("breadcrumbs.json"))
    old_card = expected.pop("README.md").decode()
    assert found == expected
    assert sorted(done["sent"]) == sorted([*found, "README.md", "breadcrumbs.json"])
    assert card == old_card.replace(f"base_model:\n- {MODEL}\n", "base_model:\n- meta/tiny\n") != old_card
    assert huggingface_hub.ModelCard(card).data.eval_results[0].metric_value == 0.5
    assert (record["model"], record["version"], record["registry"]) == (MODEL, "1.0.0", registry.url)
    assert record["manifest"] == release.manifest_digest
    assert record["weights_digest"] == revision.snapshot.weights_digest
    assert (record["recipe"], record["base"]) == (release.recipe.digest, release.recipe.base)
    assert [patch["sha256"] for patch in record["patches"]] == [item.sha256 for item in release.recipe.patches]
    assert json.loads(crumb("verify", there, ONE, "--json"))["ok"] is True


def test_a_second_run_changes_nothing_and_fetches_no_weights(
    stand_in: HubStandIn, crumb: Crumb, fetched: list[str], home: Path
) -> None:
    first = publish(crumb)
    assert any(path.endswith(".safetensors") for path in fetched)
    assert not list((home / "cache" / "releases").iterdir())
    stand_in.asked.clear(), fetched.clear()
    again = publish(crumb)
    assert again == {**first, "sent": [], "unchanged": sorted(first["sent"])}
    assert (stand_in.puts(), writes(stand_in)) == ([], [])
    assert fetched and not any(path.endswith(".safetensors") for path in fetched)
    repo = stand_in.repos[REPO]
    repo.commit({**repo.commits[repo.head], "later": Blob(b"x")}, "Another release.")
    repo.commits[first["commit"]]["breadcrumbs.json"] = Blob(b"{}")  # as from the registry's other address
    assert publish(crumb)["commit"] == first["commit"]
    assert crumb("publish", ONE, TO, "-q", "--keep", "kept") == f"{first['commit']}\n"
    assert {"config.json", "model-00002-of-00002.safetensors"} <= read(crumb.cwd / "kept").keys()


def test_a_killed_run_goes_on_where_it_was(stand_in: HubStandIn, crumb: Crumb, fetched: list[str]) -> None:
    reached, killed = threading.Event(), threading.Event()

    def hold(_sha256: str, count: int) -> bool:
        if len(stand_in.puts()) < 2 or count < 2**14 or killed.is_set():
            return False
        reached.set()
        return killed.wait(60)

    stand_in.stall = hold
    code = f"import client.hub.repos as it; it.ALONE = {ALONE}; from client.cli import main; main()"
    command = [sys.executable, "-c", code, "publish", ONE, TO]
    with subprocess.Popen(command, env={**os.environ, "HF_HUB_DISABLE_XET": "1"}) as process:
        assert reached.wait(60)
        process.kill()
    killed.set()
    first, second = stand_in.puts()
    assert [path.name for path in stand_in.folder.iterdir()] == [first]
    done = publish(crumb)
    assert stand_in.puts() == [first, second, second]
    assert fetched == []
    assert stand_in.repos[REPO].tags == {"v1.0.0": done["commit"]}
    assert len(stand_in.repos[REPO].commits) == 2


def test_after_a_commit_that_failed_no_large_file_is_sent_again(stand_in: HubStandIn, crumb: Crumb) -> None:
    stand_in.fail = lambda _method, path: 503 if "/commit/" in path else None
    crumb("publish", ONE, TO, code=1)
    assert "out of order" in crumb.errors and "it resumes" in crumb.errors
    stand_in.fail = lambda _method, path: 500 if "/tag/" in path else None
    crumb("publish", ONE, TO, code=1)
    stand_in.fail = lambda _method, _path: None
    done = publish(crumb)
    assert done["sent"] == [] and len(stand_in.puts()) == 2
    assert stand_in.repos[REPO].tags == {"v1.0.0": done["commit"]}
    assert stand_in.repos[REPO].titles == ["initial commit", f"{MODEL} 1.0.0"]


def test_a_connection_that_breaks_is_tried_again(stand_in: HubStandIn, crumb: Crumb, no_pauses: list[float]) -> None:
    stand_in.stall = lambda _sha256, count: count > 2**14 and len(stand_in.puts()) == 1
    publish(crumb)
    assert len(stand_in.puts()) == 3
    assert no_pauses


def test_what_somebody_commits_meanwhile_is_not_overwritten(stand_in: HubStandIn, crumb: Crumb) -> None:
    repo = stand_in.repos[REPO] = Repo()
    repo.commit({".gitattributes": Blob(b"* x\n")}, "old")
    theirs = {"theirs": Blob(b"x")}

    def meanwhile(_sha256: str, _count: int) -> bool:
        if len(repo.commits) == 1:
            repo.commit(theirs, "theirs")
        return False

    stand_in.stall = meanwhile
    crumb("publish", ONE, TO, code=1)
    assert "run the command again" in crumb.errors
    assert (repo.commits[repo.head], repo.tags) == (theirs, {})
    assert publish(crumb, "--replace")["removed"] == ["theirs"]


def test_a_commit_that_is_not_what_was_sent_gets_no_tag(stand_in: HubStandIn, crumb: Crumb) -> None:
    def change(_method: str, path: str) -> None:
        repo = stand_in.repos.get(REPO)
        if "/tree/" in path and repo is not None and len(repo.commits) == 2:
            repo.commits[repo.head]["config.json"] = Blob(b"{}")

    stand_in.fail = change
    crumb("publish", ONE, TO, code=3)
    assert "is not what was sent" in crumb.errors
    assert stand_in.repos[REPO].tags == {}


def test_what_is_not_of_the_release_goes_in_the_same_commit(stand_in: HubStandIn, crumb: Crumb) -> None:
    repo = stand_in.repos[REPO] = Repo()
    repo.commit({".gitattributes": Blob(b"* x\n"), ".gitignore": Blob(b"config.json\n"), "old/a": Blob(b"a")}, "old")
    crumb("publish", ONE, TO, code=1)
    assert "--replace" in crumb.errors
    assert len(repo.commits) == 1
    done = publish(crumb, "--no-tag", "--replace")
    assert done["removed"] == [".gitignore", "old/a"]
    tree = repo.commits[repo.head]
    assert tree[".gitattributes"] == Blob(b"* x\n")
    assert set(tree) == {".gitattributes", *done["sent"]}
    assert "config.json" in tree
    assert (done["tag"], repo.tags, len(repo.commits)) == (None, {}, 2)


def test_a_tag_that_is_something_else_is_refused_before_anything_is_sent(stand_in: HubStandIn, crumb: Crumb) -> None:
    repo = stand_in.repos[REPO] = Repo()
    repo.tags["v1.0.0"] = repo.commit({"config.json": Blob(b"{}")}, "old")
    crumb("publish", ONE, TO, code=1)
    assert "The tag v1.0.0" in crumb.errors and "--tag" in crumb.errors
    assert (writes(stand_in), stand_in.puts()) == ([], [])
    crumb("publish", ONE, TO, "--tag", "main", code=1)
    assert "branch main" in crumb.errors
    assert publish(crumb, "--tag", "crumb-1.0.0")["tag"] == "crumb-1.0.0"


def test_the_card_never_names_a_strangers_repository_as_its_base(
    stand_in: HubStandIn, crumb: Crumb, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(crumb, "--no-tag")
    repo = stand_in.repos[REPO]
    front = huggingface_hub.ModelCard(repo.commits[repo.head]["README.md"].raw.decode()).data
    assert front.get("base_model") is None and front["tags"] == ["merge", "breadcrumbs"]
    source = f"hf://meta/tiny@{'0' * 40}"
    about = Client.model
    monkeypatch.setattr(Client, "model", lambda *given: SimpleNamespace(**{**dict(about(*given)), "source": source}))
    done = publish(crumb, "--no-tag")
    assert done["sent"] == ["README.md", "breadcrumbs.json"]
    tree = repo.commits[repo.head]
    assert huggingface_hub.ModelCard(tree["README.md"].raw.decode()).data["base_model"] == ["meta/tiny"]
    assert json.loads(tree["breadcrumbs.json"].raw)["base_source"] == source


@pytest.mark.parametrize(
    ("release", "words"),
    [
        (f"{MODEL}@1.1.0", "It forgets"),
        (f"{MODEL}@1.2.0", "crumb release publish"),
        (f"{MODEL}@base", "not a release"),
        (f"{MODEL}@9.9.9", "There is no release"),
    ],
)
def test_only_published_releases_leave(release: str, words: str, stand_in: HubStandIn, crumb: Crumb) -> None:
    crumb("publish", release, TO, code=1)
    assert words in crumb.errors
    assert stand_in.asked == []


def test_a_private_model_leaves_only_when_that_is_said(stand_in: HubStandIn, registry: Registry, crumb: Crumb) -> None:
    with registry.client() as client:
        client.update_model(MODEL, visibility="private")
        try:
            crumb("publish", ONE, TO, code=1)
            assert "--private, or --public" in crumb.errors
            assert stand_in.repos == {}
            publish(crumb, "--private")
            assert stand_in.repos[REPO].private
            assert publish(crumb)["sent"] == []  # it is private there already
            stand_in.repos[REPO].private = False
            for flags in ([], ["--private"]):
                crumb("publish", ONE, TO, "--tag", "other", *flags, code=1)
                assert "public" in crumb.errors
            assert publish(crumb, "--public", "--tag", "other")["tag"] == "other"
        finally:
            client.update_model(MODEL, visibility="public")


def test_no_token_but_the_hubs_own_is_sent_and_not_to_the_registry(
    stand_in: HubStandIn, registry: Registry, crumb: Crumb
) -> None:
    for token, words in (("", "no token"), (registry.token("ana"), "not sent elsewhere"), ("hf_x", "hf auth login")):
        crumb("publish", ONE, TO, code=1, HF_TOKEN=token)
        assert words in crumb.errors
    assert {path for _, path in stand_in.asked} == {"/api/whoami-v2"}  # by hf_x alone
    crumb("publish", ONE, TO, code=1, HF_ENDPOINT=f"{registry.url}/")
    assert "takes no uploads" in crumb.errors


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([MODEL, TO], 2),
        ([ONE, TO, "--tag", "x", "--no-tag"], 2),
        ([ONE, REPO], 1),
        ([ONE, f"{TO}/x"], 1),
        ([ONE, TO, "--tag", "a..b"], 1),
        ([ONE, TO, "--tag", "0" * 40], 1),
        ([ONE, TO, "--base-model", "x"], 1),
        ([ONE, TO, "--private", "--public"], 1),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    arguments: list[str], code: int, stand_in: HubStandIn, crumb: Crumb
) -> None:
    crumb("publish", *arguments, code=code)
    assert crumb.errors.count("\n") == 1
    assert stand_in.asked == []
