import json
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import select, update

from registry.db.tables import BaseFile, Blob, Job, Model, now
from registry.errors import InvalidRequest
from registry.outside.hub import Hub, file_url, split
from registry.services.blobs import blobs, damage, garbage
from registry.worker.runner import Stopped
from registry.worker.worker import Worker
from tests.support.hub_files import HubFiles
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.world import World, create_model, digest, open_world, push_patch, upload

NAME, REPOSITORY = "alice/tiny", "acme/tiny"
DAY = timedelta(hours=24)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_checkpoint(tmp_path_factory.mktemp("hub") / "base", shards=2)
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / "a?b.txt").write_text("no path for every system")
    return folder


@pytest.fixture(scope="module")
def patch(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patch")
    make_patch(base, fine_tuned(base, folder / "tuned"), folder / "patch.safetensors")
    return folder / "patch.safetensors"


@pytest.fixture
def hub(base: Path) -> Iterator[HubFiles]:
    with HubFiles() as made:
        made.add(REPOSITORY, base)
        yield made


def opened(folder: Path, url: str, hub: HubFiles, **settings: Any) -> Any:
    return open_world(folder / "data", url, **{"hub_endpoint": hub.url, "hub_hosts": "", **settings})


@pytest.fixture
def world_settings(hub: HubFiles) -> dict[str, Any]:
    return {"hub_endpoint": hub.url, "hub_hosts": ""}


@pytest.fixture
def small(tmp_path: Path, migrated_template: Any, hub: HubFiles) -> Iterator[World]:
    """A registry on SQLite alone."""
    shutil.copyfile(migrated_template("sqlite").removeprefix("sqlite:///"), tmp_path / "registry.db")
    with opened(tmp_path, f"sqlite:///{tmp_path / 'registry.db'}", hub) as made:
        yield made


def ask(world: World, name: str = NAME, source: str = f"hf://{REPOSITORY}@main", **words: Any) -> dict[str, Any]:
    """Ask for a model and let the worker import it; return the model, or the job if it was refused."""
    client = world.client("alice")
    answer = client.post("/api/v1/models", json={"name": name, "source": source, **words})
    assert answer.status_code == 202, answer.text
    world.work()
    found = client.get(f"/api/v1/models/{name}")
    if found.status_code == 200:
        return found.json()
    return client.get(f"/api/v1/jobs/{answer.json()['job']['id']}").json()


def compose(world: World, name: str = NAME, alpha: str = "1") -> dict[str, Any]:
    client, where = world.client("alice"), f"/api/v1/models/{name}/compositions"
    asked = client.post(where, json={"patches": [{"number": 1, "weight": "1"}], "alpha": alpha})
    assert asked.status_code in (200, 202), asked.text
    world.work()
    job = asked.json()["job"]
    ended = client.get(f"/api/v1/jobs/{job['id']}").json() if job else {}
    return client.post(where, json={"patches": [{"number": 1, "weight": "1"}], "alpha": alpha}).json() | {
        "ended": ended
    }


def states(world: World, name: str = NAME) -> dict[str, str]:
    with world.database.read() as session:
        rows = session.execute(
            select(BaseFile.path, Blob.state)
            .join(Blob, Blob.sha256 == BaseFile.sha256)
            .join(Model, Model.id == BaseFile.model_id)
            .where(Model.name == name.partition("/")[2])
        )
        return {row.path: row.state for row in rows}


def weights(base: Path) -> dict[str, bytes]:
    return {digest(path.read_bytes()): path.read_bytes() for path in base.glob("*.safetensors")}


def age(world: World) -> None:
    """Make every blob old enough to be collected."""
    with world.database.write() as session:
        session.execute(update(Blob).values(created_at=now() - 2 * DAY, leased_until=now() - DAY))


def test_a_base_by_reference_is_pinned_and_leaves_its_weights_at_the_hub(world: World, hub: HubFiles) -> None:
    commit = hub.commits[REPOSITORY, "main"]
    made = ask(world)
    assert (made["state"], made["source"], made["by_reference"]) == ("ready", f"hf://{REPOSITORY}@{commit}", True)
    found = states(world)
    assert set(found) == {
        "README.md",
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    assert all((state == "remote") == path.endswith(".safetensors") for path, state in found.items())
    assert made["license"] == "apache-2.0"
    assert list(damage.check(world.database, world.store)) == []


def test_it_composes_to_the_same_weights_as_an_uploaded_and_a_copied_base(
    world: World, hub: HubFiles, base: Path, patch: Path
) -> None:
    plain = world.settings.data / "plain"
    shutil.copytree(base, plain, ignore=shutil.ignore_patterns(".*", "*.bin", "*[?]*"))
    made = [ask(world), create_model(world, "alice/sent", plain), ask(world, "alice/copied", by_reference=False)]
    assert len({model["base"] for model in made}) == len({model["size"] for model in made}) == 1
    assert states(world) == states(world, "alice/copied") == dict.fromkeys(states(world), "live")
    results = []
    for model in made[:2]:
        assert push_patch(world, model["name"], patch)["check"] == "checked"
        results.append(compose(world, model["name"])["weights_digest"])
    assert results[0] is not None
    assert results[0] == results[1]


def test_a_component_that_exists_only_as_pickles_is_named_and_the_base_refused(
    small: World, hub: HubFiles, base: Path, tmp_path: Path
) -> None:
    folder, inner = tmp_path / "parts", tmp_path / "parts" / "2_Dense"
    shutil.copytree(base, folder)
    inner.mkdir()
    (folder / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]')
    (inner / "pytorch_model.bin").write_bytes(b"\x80\x04")
    hub.add("acme/parts", folder)
    refused = ask(small, source="hf://acme/parts@main")
    assert refused["state"] == "failed"
    assert "weights in '2_Dense/pytorch_model.bin' are not safetensors" in refused["error"]
    (inner / "model.safetensors").write_bytes((make_checkpoint(tmp_path / "dense") / "model.safetensors").read_bytes())
    hub.add("acme/whole", folder)
    assert ask(small, "alice/whole", "hf://acme/whole@main")["state"] == "ready"


def test_what_a_base_without_safetensors_is_is_named(small: World, hub: HubFiles, tmp_path: Path) -> None:
    (tmp_path / "quantised").mkdir()
    (tmp_path / "quantised" / "tiny-q4.gguf").write_bytes(b"GGUF")
    hub.add("acme/quantised", tmp_path / "quantised")
    refused = ask(small, source="hf://acme/quantised@main")
    assert "acme/quantised@main holds 'tiny-q4.gguf', a GGUF file, made for inference" in refused["error"]
    files = [{"path": "tiny-q4.gguf", "sha256": upload(small.client("alice"), b"GGUF")}]
    sent = small.client("alice").post("/api/v1/models", json={"name": NAME, "files": files})
    assert sent.status_code == 422 and "This base holds 'tiny-q4.gguf', a GGUF file" in sent.json()["detail"]


@pytest.mark.parametrize("method", ["awq", "bitsandbytes"])
def test_a_quantised_base_is_named_before_its_weights_travel(
    small: World, hub: HubFiles, base: Path, tmp_path: Path, method: str
) -> None:
    shutil.copytree(base, tmp_path / "packed")
    config = {"model_type": "llama", "quantization_config": {"quant_method": method, "bits": 4}}
    (tmp_path / "packed" / "config.json").write_text(json.dumps(config))
    hub.add("acme/packed", tmp_path / "packed")
    refused = ask(small, source="hf://acme/packed@main")
    assert refused["state"] == "failed"
    assert f"is quantised by {'AWQ' if method == 'awq' else method} (quantization_config in its" in refused["error"]
    assert hub.downloads() == []
    (tmp_path / "packed" / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')
    hub.add("acme/eight", tmp_path / "packed")
    assert ask(small, source="hf://acme/eight@main")["state"] == "ready"  # what is not FP8 can be patched


def test_an_empty_cache_is_filled_again_from_where_the_base_is_pinned(
    small: World, hub: HubFiles, patch: Path, tmp_path: Path
) -> None:
    ask(small)
    push_patch(small, NAME, patch)
    assert len(hub.downloads()) == 2  # what was fetched for the import is there
    shutil.rmtree(small.store.root / "cache")
    hub.add(REPOSITORY, make_checkpoint(tmp_path / "other", seed=9))  # main moves on; the pin does not
    assert compose(small)["weights_digest"]
    assert len(hub.downloads()) == 4


def test_asking_again_is_harmless_and_for_another_base_is_a_conflict(small: World, hub: HubFiles) -> None:
    made = ask(small)
    client = small.client("alice")
    body = {"name": NAME, "source": f"hf://{REPOSITORY}"}
    for source in (body["source"], f"hf://{REPOSITORY}@main", made["source"]):
        assert client.post("/api/v1/models", json=body | {"source": source}).json()["base"] == made["base"]
    for other in ({"source": f"hf://{REPOSITORY}@v2"}, {"source": "hf://acme/other"}, {"by_reference": False}):
        assert client.post("/api/v1/models", json=body | other).status_code == 409
    both = client.post("/api/v1/models", json=body | {"files": [{"path": "a.safetensors", "sha256": "0" * 64}]})
    neither = client.post("/api/v1/models", json={"name": NAME})
    assert both.status_code == neither.status_code == 422
    assert "not both" in both.json()["detail"]


@pytest.mark.parametrize(
    ("source", "closed", "said"),
    [
        ("hf://acme/nothing", None, "no acme/nothing"),
        (f"hf://{REPOSITORY}@v9", None, "no revision v9"),
        (f"hf://{REPOSITORY}", (403, "GatedRepo"), "gated"),
        (f"hf://{REPOSITORY}", (418, ""), "status 418"),
    ],
)
def test_what_the_hub_does_not_have_is_refused_with_a_reason(
    small: World, hub: HubFiles, source: str, closed: tuple[int, str] | None, said: str
) -> None:
    hub.closed = closed
    job = ask(small, source=source)
    assert job["state"] == "failed"
    assert said in job["error"]
    assert small.client("alice").get(f"/api/v1/models/{NAME}").status_code == 404


def test_a_base_without_safetensors_or_too_large_is_refused_before_it_is_fetched(
    small: World, hub: HubFiles, base: Path, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"\x80")
    hub.add("acme/old", tmp_path / "old")
    assert "pickles" in ask(small, source="hf://acme/old")["error"]
    for limit, by_reference in (("cache_bytes", True), ("upload_bytes", True), ("quota_bytes", False)):
        small.worker.settings = small.settings.model_copy(update={limit: 3003})
        assert "3003" in ask(small, by_reference=by_reference)["error"]
    assert hub.downloads() == []


def test_a_hub_that_is_down_only_delays(small: World, hub: HubFiles) -> None:
    hub.closed = (503, "")
    assert ask(small)["state"] == "importing"
    hub.closed = None
    with small.database.write() as session:
        session.execute(update(Job).values(lease_until=now() - DAY))
    small.work()
    assert small.client("alice").get(f"/api/v1/models/{NAME}").json()["state"] == "ready"


def test_bytes_that_changed_at_the_hub_are_not_composed(small: World, hub: HubFiles, base: Path, patch: Path) -> None:
    ask(small)
    push_patch(small, NAME, patch)
    shutil.rmtree(small.store.root / "cache")
    forged = small.settings.data / "forged"
    shutil.copytree(base, forged)
    for file in forged.glob("*.safetensors"):
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)
    hub.folders = dict.fromkeys(hub.folders, forged)
    found = compose(small)
    assert found["weights_digest"] is None
    assert "has changed at" in found["ended"]["error"]
    assert not [path for path in (small.store.root / "cache").iterdir() if path.stat().st_size]


def test_a_download_that_breaks_off_goes_on_where_it_was(small: World, hub: HubFiles) -> None:
    hub.cuts = [700]
    assert ask(small)["state"] == "ready"
    assert 700 in [asked.start for asked in hub.downloads()]


def test_another_worker_goes_on_where_a_stopped_one_was(small: World, hub: HubFiles) -> None:
    hub.cuts = [900, *[0] * 100]  # then nothing more comes
    client = small.client("alice")
    assert client.post("/api/v1/models", json={"name": NAME, "source": f"hf://{REPOSITORY}"}).status_code == 202
    first = small.worker

    def stop_it() -> None:
        while not any(asked.start == 900 for asked in hub.downloads()):
            time.sleep(0.01)
        first.stopping.set()

    watcher = threading.Thread(target=stop_it)
    watcher.start()
    with pytest.raises(Stopped):
        first.step()
    watcher.join()
    hub.cuts, hub.asked = [], []
    small.worker = Worker(small.settings, small.database, small.store)
    small.work()
    assert client.get(f"/api/v1/models/{NAME}").json()["state"] == "ready"
    assert hub.downloads()[0].start == 900


def test_redirects_go_where_the_operator_allows_and_without_the_token(small: World, hub: HubFiles) -> None:
    with HubFiles() as other:
        other.folders, hub.sends_on = hub.folders, other.url
        refused = ask(small)
        assert "REGISTRY_HUB_HOSTS" in refused["error"]
        assert other.asked == []
        allowed = {"hub_hosts": f"127.0.0.1:{other.port}", "hub_token": SecretStr("secret")}
        small.worker.settings = small.settings.model_copy(update=allowed)
        assert ask(small)["state"] == "ready"
        assert {asked.token for asked in other.asked} == {None}
        assert hub.asked[-1].token == "Bearer secret"


def test_weights_at_the_hub_go_when_nothing_refers_to_them_and_are_never_missing(small: World, base: Path) -> None:
    ask(small)
    age(small)
    garbage.run(small.database, small.store, DAY)
    assert "remote" in states(small).values()
    with small.database.write() as session:
        session.delete(session.scalars(select(Model)).one())
    shown = garbage.run(small.database, small.store, DAY, dry=True)
    assert shown.deleted.count == 2
    garbage.run(small.database, small.store, DAY)
    with small.database.read() as session:
        assert set(session.scalars(select(Blob.sha256))).isdisjoint(weights(base))
    assert list(damage.check(small.database, small.store)) == []


def test_bytes_that_are_sent_all_the_same_turn_a_blob_live(world: World, base: Path) -> None:
    ask(world)
    client = world.client("bob")
    sha256, data = next(iter(weights(base).items()))
    files = [{"path": "model.safetensors", "sha256": sha256}]
    refused = client.post("/api/v1/models", json={"name": "bob/mine", "files": files})
    assert "upload them first" in refused.json()["detail"]  # that they are at the Hub is no bytes here
    assert upload(client, data) == sha256
    assert sorted(states(world).values()).count("remote") == 1
    assert world.store.exists(sha256)
    assert list(damage.check(world.database, world.store)) == []


def test_a_file_whose_writer_died_before_its_row_was_committed_is_adopted(small: World, base: Path) -> None:
    ask(small)
    sha256, data = next(iter(weights(base).items()))
    small.store.put([data], sha256)
    orphans = blobs.find_orphans(small.database, small.store)
    assert len(blobs.adopt_orphans(small.database.write, small.store, orphans)) == 1
    assert list(states(small).values()).count("remote") == 1


def test_files_that_stay_at_the_hub_count_against_no_quota(small: World, base: Path) -> None:
    client, whole = small.client("alice"), sum(len(data) for data in weights(base).values())
    used = []
    for name, by_reference in ((NAME, True), ("alice/copied", False)):
        size = ask(small, name, by_reference=by_reference)["size"]
        used.append(client.get("/api/v1/namespaces/alice").json()["used_bytes"])
    assert used == [size - whole, size]


def test_where_a_file_is_at_the_hub() -> None:
    pinned = f"hf://acme/tiny@{'a' * 40}"
    assert file_url("https://huggingface.co/", pinned, "a b/c+d.json") == (
        f"https://huggingface.co/acme/tiny/resolve/{'a' * 40}/a%20b/c%2Bd.json"
    )
    for text in ("acme/tiny@main", "hf://acme@main", "hf://acme/tiny@../x", "hf://acme/tiny", "hf://a/b/c@d"):
        with pytest.raises(InvalidRequest):
            split(text)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://huggingface.co/x", True),
        ("https://cdn-lfs.hf.co/x", True),
        ("https://cdn-lfs.hf.co:8443/x", False),
        ("http://cdn-lfs.hf.co/x", False),
        ("https://evilhf.co/x", False),
        ("https://hf.co.evil.org/x", False),
        ("https://me@huggingface.co/x", False),
        ("https://127.0.0.1/x", False),
        ("file:///etc/passwd", False),
    ],
)
def test_only_hosts_that_are_named_are_asked(url: str, allowed: bool) -> None:
    assert Hub("https://huggingface.co", "*.hf.co").allows(httpx2.URL(url)) is allowed
