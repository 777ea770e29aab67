from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from registry.breadcrumbs.checking.check import check_patch
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.db.tables import PatchRevision, PatchTensor
from registry.services.blobs import damage, garbage
from registry.services.catalog import choices
from registry.services.people import paging
from tests.support.community import URL, Community
from tests.support.makers import changed, fine_tuned, make_checkpoint, make_patch
from tests.support.prepared import Fill, add_tiny
from tests.support.world import World, create_model, digest, push_patch, upload

pytestmark = pytest.mark.heavy

SANDBOXED = "tests.support.sandboxed"


@pytest.fixture
def world_filling(request: pytest.FixtureRequest) -> Fill | None:
    return add_tiny if "base" in request.fixturenames else None


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder of alice/tiny."""
    return tmp_path / "base"


def patch_file(tmp_path: Path, base: Path, seed: int) -> Path:
    out = tmp_path / f"patch{seed}.safetensors"
    make_patch(base, fine_tuned(base, tmp_path / f"tuned{seed}", seed=seed), out)
    return out


def test_a_checked_patch_has_the_statistics_that_its_bytes_have(world: World, base: Path, tmp_path: Path) -> None:
    file = patch_file(tmp_path, base, 1)
    patch = push_patch(world, "alice/tiny", file, title="Add", message="Two digits.", task="arithmetic")
    with open_checkpoint(base) as checkpoint:
        report = check_patch(file, patch["base"], checkpoint.tensors)
    assert (patch["number"], patch["revision"], patch["check"]) == (1, 1, "checked")
    assert (patch["author"], patch["title"], patch["message"], patch["task"]) == (
        "bob",
        "Add",
        "Two digits.",
        "arithmetic",
    )
    assert (patch["sha256"], patch["size"]) == (digest(file.read_bytes()), file.stat().st_size)
    assert (patch["nnz"], patch["density"]) == (report.nnz, report.density)
    assert (patch["drop_bottom"], patch["drop_top"], patch["granularity"]) == ("0.85", "0.007", "tensor")
    tensors = world.client(None).get("/api/v1/models/alice/tiny/patches/1/tensors").json()
    assert [(t["name"], t["nnz"], t["l2"]) for t in tensors] == [(t.name, t.nnz, t.l2) for t in report.tensors]
    raw = file.read_bytes()
    with world.database.read() as session:
        row = session.scalars(select(PatchRevision)).one()
        assert row.header_size is not None and row.header_sha256 == digest(raw[: row.header_size])
        extents = [extent for tensor in session.scalars(select(PatchTensor)) for extent in tensor.extents or ()]
    assert [sha256 for _, _, sha256 in extents] == [digest(raw[start:stop]) for start, stop, _ in extents]
    assert row.header_size + sum(stop - start for start, stop, _ in extents) == len(raw)
    assert world.client(None).get("/api/v1/models/alice/tiny/patches/1/file").content == file.read_bytes()


def test_numbers_count_per_model_and_the_log_is_newest_first(world: World, base: Path, tmp_path: Path) -> None:
    create_model(world, "alice/other", base)
    files = [patch_file(tmp_path, base, seed) for seed in range(4)]
    for number, file in enumerate(files, 1):
        user, task = ("bob", "even") if number % 2 == 0 else ("carol", "odd")
        assert push_patch(world, "alice/tiny", file, user, task=task)["number"] == number
    assert push_patch(world, "alice/other", files[0])["number"] == 1
    client = world.client(None)

    def numbers(**params: object) -> list[int]:
        page = client.get("/api/v1/models/alice/tiny/patches", params=params).json()
        return [patch["number"] for patch in page["items"]]

    assert numbers() == [4, 3, 2, 1]
    assert numbers(task="even") == [4, 2]
    assert numbers(author="carol") == [3, 1]
    assert client.get("/api/v1/models/alice/tiny/patches?limit=3").json()["next"] == 2
    assert numbers(limit=3, before=2) == [1]
    assert client.get("/api/v1/models/alice/tiny").json()["patches"] == 4


def test_patches_are_found_by_their_density_and_by_what_they_change(world: World, base: Path, tmp_path: Path) -> None:
    dense, sparse, narrow = (tmp_path / name for name in ("dense", "sparse", "narrow"))
    tuned = fine_tuned(base, tmp_path / "tuned")
    make_patch(base, tuned, dense, drop_bottom="0.5")
    make_patch(base, tuned, sparse, drop_bottom="0.95")
    one = changed(base, tmp_path / "one", lambda name, tensor: tensor + 1 if "norm" in name else tensor)
    make_patch(base, one, narrow)
    found = [push_patch(world, "alice/tiny", file)["density"] for file in (dense, sparse, narrow)]
    client = world.client(None)

    def numbers(**params: object) -> list[int]:
        answer = client.get("/api/v1/models/alice/tiny/patches", params=params)
        assert answer.status_code == 200, answer.text
        return [patch["number"] for patch in answer.json()["items"]]

    assert numbers(density_min=found[0]) == [1]
    assert numbers(density_max=found[1]) == [3, 2]
    assert numbers(density_min=found[1], density_max=found[1]) == [2]
    assert numbers(tensor="Norm.W") == [3, 2, 1]
    assert numbers(tensor="embed", density_max=found[1]) == [2]
    assert numbers(tensor="%") == numbers(tensor="positions") == []  # no pattern; and what nobody changes
    with world.database.write() as session:
        for row in session.scalars(select(PatchTensor).where(PatchTensor.name == "embed.weight")):
            row.nnz = 0  # a file may list a tensor and change none of it
    assert numbers(tensor="embed") == []
    for wrong in ("density_min=1.5", "density_max=nan", "density_min=x", "tensor=%00"):
        assert client.get(f"/api/v1/models/alice/tiny/patches?{wrong}").status_code == 422, wrong


def test_the_same_patch_twice_is_one_patch(world: World, base: Path, tmp_path: Path) -> None:
    file = patch_file(tmp_path, base, 1)
    assert push_patch(world, "alice/tiny", file)["number"] == 1
    again = world.client("bob").post(
        "/api/v1/models/alice/tiny/patches", json={"sha256": digest(file.read_bytes()), "title": "again"}
    )
    assert (again.status_code, again.json()["number"], again.json()["title"]) == (200, 1, "a patch")
    other = world.client("carol")
    body = {"sha256": upload(other, file.read_bytes()), "title": "mine"}
    taken = other.post("/api/v1/models/alice/tiny/patches", json=body)
    assert taken.status_code == 409
    assert "#1 by bob" in taken.json()["detail"]


def test_a_patch_for_another_base_is_refused_with_both_named(world: World, base: Path, tmp_path: Path) -> None:
    elsewhere = make_checkpoint(tmp_path / "elsewhere", seed=9)
    refused = push_patch(world, "alice/tiny", patch_file(tmp_path, elsewhere, 1))
    assert refused["check"] == "refused"
    assert world.client(None).get("/api/v1/models/alice/tiny").json()["base"] in refused["refusal"]


def test_a_refused_file_is_let_go_and_never_served_or_composed(world: World, base: Path, tmp_path: Path) -> None:
    file = tmp_path / "hostile.safetensors"
    raw = bytearray(patch_file(tmp_path, base, 1).read_bytes())
    raw[-1] ^= 0xFF
    raw[-3:] = b"\x00\xff\x7f"
    file.write_bytes(raw + b"trailing")
    refused = push_patch(world, "alice/tiny", file)
    assert (refused["check"], refused["nnz"]) == ("refused", None)
    assert refused["refusal"]
    client = world.client("bob")
    assert client.get("/api/v1/models/alice/tiny/patches/1/file").status_code == 409
    composed = client.post("/api/v1/models/alice/tiny/compositions", json={"patches": [{"number": 1}]})
    assert (composed.status_code, composed.json()["field"]) == (422, "patches")
    with world.database.read() as session:
        held = select(func.count()).select_from(PatchRevision).where(PatchRevision.blob_sha256.is_not(None))
        assert session.scalar(held) == 0
        assert list(damage.check(world.database, world.store)) == []


def test_only_a_ready_model_takes_patches(world: World, tmp_path: Path) -> None:
    client = world.client("alice")
    folder = make_checkpoint(tmp_path / "base")
    files = [{"path": path.name, "sha256": upload(client, path.read_bytes())} for path in folder.iterdir()]
    client.post("/api/v1/models", json={"name": "alice/tiny", "files": files})
    body = {"sha256": files[0]["sha256"], "title": "t"}
    assert client.post("/api/v1/models/alice/tiny/patches", json=body).status_code == 409
    assert client.post("/api/v1/models/alice/absent/patches", json=body).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"title": ""},
        {"title": "   "},
        {"title": "x" * 201},
        {"title": "nul\x00"},
        {"title": "t", "task": "Upper"},
        {"title": "t", "task": ""},
        {"title": "t", "message": "x" * 65537},
        {"title": "t", "extra": 1},
        {},
    ],
)
def test_words_of_a_patch_are_bounded(world: World, base: Path, body: dict[str, object]) -> None:
    client = world.client("bob")
    sha256 = upload(client, b"x")
    assert client.post("/api/v1/models/alice/tiny/patches", json={"sha256": sha256, **body}).status_code == 422
    assert client.get("/api/v1/models/alice/tiny").json()["patches"] == 0


def test_a_crash_of_the_check_refuses_the_patch_and_harms_nothing_else(
    world: World, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = world.worker.in_sandbox
    monkeypatch.setattr(world.worker, "in_sandbox", lambda claim, _function, **_: run(claim, f"{SANDBOXED}:crash"))
    refused = push_patch(world, "alice/tiny", patch_file(tmp_path, base, 1))
    assert refused["check"] == "refused"
    assert "SIGSEGV" in refused["refusal"]
    monkeypatch.undo()
    assert push_patch(world, "alice/tiny", patch_file(tmp_path, base, 2))["check"] == "checked"


def test_a_push_after_a_refusal_gets_a_new_number(
    world: World, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = patch_file(tmp_path, base, 1)
    run = world.worker.in_sandbox
    monkeypatch.setattr(world.worker, "in_sandbox", lambda claim, _function, **_: run(claim, f"{SANDBOXED}:be_killed"))
    assert push_patch(world, "alice/tiny", file)["check"] == "refused"
    monkeypatch.undo()
    again = push_patch(world, "alice/tiny", file)
    assert (again["number"], again["check"]) == (2, "checked")


def test_bytes_in_use_outlive_the_sweep(world: World, base: Path, tmp_path: Path) -> None:
    file = patch_file(tmp_path, base, 1)
    push_patch(world, "alice/tiny", file)
    with world.database.write() as session:
        session.connection().exec_driver_sql("DELETE FROM upload_sessions")
    assert garbage.run(world.database, world.store, timedelta(0)).deleted.count == 0
    assert world.client(None).get("/api/v1/models/alice/tiny/patches/1/file").content == file.read_bytes()


def test_pages_of_a_search_go_through_a_bounded_number_of_patches(
    crew: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every match is found, though some pages are empty."""
    monkeypatch.setattr(paging, "WINDOW", 1)
    url = f"{URL}/patches?tensor=norm&limit=10"
    client, pages, before = crew.world.client(), [], ""
    while before is not None:
        page = client.get(f"{url}{before}").json()
        pages.append([patch["number"] for patch in page["items"]])
        before = f"&before={page['next']}" if page["next"] else None
    assert pages == [[4], [3], [2], [1]]
    with crew.world.database.read() as session:
        model, given, cursor = crew.model(session), [], None
        while True:
            rows, cursor = choices.page(session, model, words="patch 2", without=[], before=cursor, limit=5)
            given.append([row.patch.number for row in rows])
            if cursor is None:
                break
    assert [number for numbers in given for number in numbers] == [2]
    assert len(given) > 1
