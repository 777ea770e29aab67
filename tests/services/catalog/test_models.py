import json
from pathlib import Path

import pytest
from sqlalchemy import select

from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.formats.header import TensorSpec
from registry.db.tables import BaseFile, BaseTensor
from tests.support.makers import make_checkpoint
from tests.support.world import World, create_model, digest, upload

pytestmark = pytest.mark.heavy


def request(files: dict[str, str], name: str = "alice/tiny") -> dict[str, object]:
    return {"name": name, "files": [{"path": path, "sha256": sha256} for path, sha256 in files.items()]}


@pytest.mark.parametrize("shards", [1, 3])
def test_a_model_is_pinned_to_what_its_files_are(world: World, tmp_path: Path, shards: int) -> None:
    folder = make_checkpoint(tmp_path / "base", shards=shards)
    model = create_model(world, "alice/tiny", folder)
    with open_checkpoint(folder) as checkpoint:
        assert model["base"] == digest_checkpoint(checkpoint)
        assert model["parameters"] == sum(spec.numel for spec in checkpoint.tensors.values())
    assert (model["state"], model["creator"], model["patches"], model["job"]) == ("ready", "alice", 0, None)
    assert model["card"] == (folder / "README.md").read_text()
    files = world.client(None).get("/api/v1/models/alice/tiny/revisions/base").json()["files"]
    assert {file["path"]: file["sha256"] for file in files} == {
        path.name: digest(path.read_bytes()) for path in folder.iterdir()
    }
    with world.database.read() as session:
        for file in session.scalars(select(BaseFile).where(BaseFile.path.endswith(".safetensors"))):
            raw = (folder / file.path).read_bytes()
            assert file.header_size is not None and file.header_sha256 == digest(raw[: file.header_size])
        for tensor in session.scalars(select(BaseTensor)):
            assert tensor.path is not None and tensor.start is not None
            spec = TensorSpec(tensor.dtype, tuple(tensor.shape))
            raw = (folder / tensor.path).read_bytes()
            assert tensor.sha256 == digest(raw[tensor.start : tensor.start + spec.bytes])


def test_the_same_creation_again_is_the_same_model_and_another_is_a_conflict(world: World, tmp_path: Path) -> None:
    client = world.client("alice")
    folder = make_checkpoint(tmp_path / "base")
    files = {path.name: upload(client, path.read_bytes()) for path in folder.iterdir()}
    first = client.post("/api/v1/models", json=request(files)).json()
    again = client.post("/api/v1/models", json=request(files))
    assert again.status_code == 202
    assert again.json()["job"]["id"] == first["job"]["id"]
    world.work()
    assert client.post("/api/v1/models", json=request(files)).json()["state"] == "ready"
    del files["README.md"]
    assert client.post("/api/v1/models", json=request(files)).status_code == 409


def test_a_namespace_is_its_users_alone(world: World, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "base")
    world.token("alice")
    for user, admin, status in (("bob", False, 403), ("root", True, 202)):
        client = world.client(user, admin=admin)
        files = {path.name: upload(client, path.read_bytes()) for path in folder.iterdir()}
        assert client.post("/api/v1/models", json=request(files)).status_code == status


@pytest.mark.parametrize("broken", ["truncated", "not safetensors", "nothing in it", "index disagrees"])
def test_files_that_are_not_a_base_free_the_name_and_the_job_says_why(
    world: World, tmp_path: Path, broken: str
) -> None:
    folder = make_checkpoint(tmp_path / "base", shards=2 if broken == "index disagrees" else 1)
    if broken == "index disagrees":
        index = folder / "model.safetensors.index.json"
        table = json.loads(index.read_text())
        table["weight_map"].popitem()
        index.write_text(json.dumps(table))
    else:
        weights = folder / "model.safetensors"
        raw = weights.read_bytes()
        weights.write_bytes(
            {"truncated": raw[:-5], "not safetensors": b"PK\x03\x04" * 99, "nothing in it": b"x"}[broken]
        )
    client = world.client("alice")
    files = {path.name: upload(client, path.read_bytes()) for path in folder.iterdir()}
    job = client.post("/api/v1/models", json=request(files)).json()["job"]
    world.work()
    ended = client.get(f"/api/v1/jobs/{job['id']}").json()
    assert ended["state"] == "failed"
    assert "safetensors" in ended["error"] or "tensor" in ended["error"]
    assert client.get("/api/v1/models/alice/tiny").status_code == 404
    create_model(world, "alice/tiny", make_checkpoint(tmp_path / "sound"))


@pytest.mark.parametrize(
    "path",
    [
        "../model.safetensors",
        "/etc/passwd",
        "a//b.json",
        "a/../b.json",
        "./a.json",
        ".gitattributes",
        "a/.hidden",
        "a\\b.json",
        "c:a.json",
        "a\x00b",
        "a\u202eb.json",
        "a .json/ b",
        "pytorch_model.bin",
        "optimizer.PT",
        "MODEL.SAFETENSORS",
        "model.safetensors/inside.json",
        "ends.",
        "a%2fb",
        "x" * 256,
        "",
    ],
)
def test_a_path_that_could_do_harm_is_named_and_refused(calm: World, path: str) -> None:
    client = calm.client("alice")
    sha256 = upload(client, b"x")
    answer = client.post("/api/v1/models", json=request({"model.safetensors": sha256, path: sha256}))
    assert answer.status_code == 422, answer.text
    assert client.get("/api/v1/models/alice/tiny").status_code == 404


@pytest.mark.parametrize("name", ["alice", "alice/", "alice/A", "alice/a--b", "alice/a..b", "alice/.a", "alice/a.git",
                                  "alice/api", "alice/a/b", "alice/" + "a" * 97, "alice/а"])  # fmt: skip
def test_a_name_that_could_mislead_is_refused(calm: World, name: str) -> None:
    client = calm.client("alice")
    sha256 = upload(client, b"x")
    assert client.post("/api/v1/models", json=request({"model.safetensors": sha256}, name)).status_code == 422


def test_a_base_needs_weights_and_bytes_that_are_here(world: World) -> None:
    client = world.client("alice")
    sha256 = upload(client, b"x")
    no_weights = client.post("/api/v1/models", json=request({"config.json": sha256}))
    assert (no_weights.status_code, no_weights.json()["field"]) == (422, "files")
    foreign = upload(world.client("bob"), b"bob's")
    for unknown in (foreign, digest(b"never sent")):
        answer = client.post("/api/v1/models", json=request({"model.safetensors": unknown}))
        assert (answer.status_code, answer.json()["field"]) == (422, "model.safetensors")


def test_models_are_listed_by_name_in_pages(world: World, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "base")
    names = [f"alice/m{number}" for number in range(5)]
    for name in reversed(names):
        create_model(world, name, folder)
    client, found, after = world.client(None), [], None
    while True:
        page = client.get("/api/v1/models", params={"limit": 2, **({"after": after} if after else {})}).json()
        found += [model["name"] for model in page["items"]]
        if (after := page["next"]) is None:
            break
    assert found == names
    assert [m["name"] for m in client.get("/api/v1/models?search=M3").json()["items"]] == ["alice/m3"]
    assert client.get("/api/v1/models?search=%25").json()["items"] == []
    assert client.get("/api/v1/models?author=bob").json()["items"] == []


def test_a_file_is_served_whole_in_ranges_and_not_again(world: World, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", folder)
    raw = (folder / "model.safetensors").read_bytes()
    client, url = world.client(None), "/api/v1/models/alice/tiny/revisions/base/files/model.safetensors"
    whole = client.get(url)
    assert whole.content == raw
    assert whole.headers["etag"] == f'"{digest(raw)}"'
    assert whole.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert whole.headers["repr-digest"].startswith("sha-256=:")
    assert whole.headers["content-disposition"].startswith("attachment")
    for given, part in (
        ("bytes=0-9", raw[:10]),
        ("bytes=10-", raw[10:]),
        ("bytes=-7", raw[-7:]),
        ("bytes=5-5", raw[5:6]),
    ):
        answer = client.get(url, headers={"Range": given})
        assert (answer.status_code, answer.content) == (206, part)
    for ignored in ("bytes=0-1,5-6", "bytes=9-3", "lines=1-2", "bytes=a-b", "bytes=-"):
        answer = client.get(url, headers={"Range": ignored})
        assert (answer.status_code, answer.content) == (200, raw), ignored
    assert client.get(url, headers={"Range": f"bytes={len(raw)}-"}).status_code == 416
    assert client.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).content == raw
    head = client.head(url)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(raw)), b"")
    assert client.get(url.replace("model.safetensors", "absent")).status_code == 404


@pytest.mark.parametrize("ref", ["mine", "abc", "recipe-", "0" * 7, "g" * 8, "../base", "%00"])
def test_an_invalid_ref_is_refused_with_the_valid_kinds(world: World, tmp_path: Path, ref: str) -> None:
    create_model(world, "alice/tiny", make_checkpoint(tmp_path / "base"))
    assert world.client(None).get(f"/api/v1/models/alice/tiny/revisions/{ref}").status_code in (404, 422)
