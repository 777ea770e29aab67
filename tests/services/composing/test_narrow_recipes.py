"""Recipes that do not apply a patch to all tensors: a worker fetches of its file what they need, and verifies that."""

import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select, update

from registry.db.tables import BaseFile, BaseTensor, Blob, Job, PatchRevision, PatchTensor
from registry.services.operating import identity
from registry.storage.bucket_store import BucketStore
from tests.support.makers import changed, fine_tuned, make_checkpoint, make_patch
from tests.support.s3_stand_in import S3
from tests.support.world import World, create_model, push_patch

pytestmark = pytest.mark.heavy

SHAPES = {"embed.weight": (400, 160), "layers.0.weight": (160, 160), "layers.1.weight": (160, 160), "norm": (160,)}
URL = "/api/v1/models/alice/tiny"
NARROW = [["layers.1.*", "1"], ["*", "0"]]


@pytest.fixture
def world_settings(s3: S3) -> dict[str, Any]:
    """Its blobs are in a bucket."""
    return {"store": "bucket", **s3.settings("blobs")}


@pytest.fixture
def patches(world: World, tmp_path: Path) -> list[str]:
    """The digests of two patches of a model, of which this machine has no copies."""
    identity.claim(world.database, world.store)
    base = make_checkpoint(tmp_path / "base", shapes=SHAPES)
    create_model(world, "alice/tiny", base)
    digests = []
    for seed in (1, 2):
        file = tmp_path / f"{seed}.safetensors"
        make_patch(base, fine_tuned(base, tmp_path / f"tuned{seed}", seed=seed), file)
        digests.append(push_patch(world, "alice/tiny", file)["sha256"])
    shutil.rmtree(world.store.root / "cache")
    return digests


def compose(world: World, where: list[list[str]], alpha: str = "0.5") -> str:
    """Compose both patches, the first one not everywhere; return the weights digest, or the error of the job."""
    body = {"alpha": alpha, "patches": [{"number": 1, "where": where}, {"number": 2}]}
    answer = world.client("bob").post(f"{URL}/compositions", json=body)
    assert answer.status_code == 202, answer.text
    world.work()
    with world.database.read() as session:
        job = session.get_one(Job, uuid.UUID(answer.json()["job"]["id"]))
        if job.state != "done":
            return str(job.error)
    return str(world.client("bob").post(f"{URL}/compositions", json=body).json()["weights_digest"])


def needed(world: World, sha256: str, *names: str) -> int:
    """Return how many bytes of a patch file some tensors take, with the header."""
    with world.database.read() as session:
        revision = session.scalars(select(PatchRevision).where(PatchRevision.sha256 == sha256)).one()
        rows = select(PatchTensor).where(PatchTensor.revision_id == revision.id, PatchTensor.name.in_(names))
        extents = [extent for row in session.scalars(rows) for extent in row.extents or ()]
        return (revision.header_size or 0) + sum(stop - start for start, stop, _ in extents)


def test_of_a_patch_only_what_a_recipe_needs_is_fetched(world: World, s3: S3, patches: list[str]) -> None:
    first, second = (f"blobs/{sha256}" for sha256 in patches)
    s3.sent.clear()
    digest_of_part = compose(world, NARROW)
    least = needed(world, patches[0], "layers.1.weight")
    assert least <= s3.sent[first] <= 1.02 * least < len(s3.objects[first]) / 3
    assert s3.sent[second] == len(s3.objects[second])
    with world.database.write() as session:  # as patches of before parts were hashed
        session.execute(update(PatchTensor).values(extents=None))
    shutil.rmtree(world.store.root / "cache")
    s3.sent.clear()
    same = [["embed.*", "0"], ["layers.0.*", "0"], ["lm_head.*", "0"], ["norm", "0"]]
    assert compose(world, same) == digest_of_part, "another recipe of the same weights"
    assert s3.sent[first] == len(s3.objects[first])


def test_of_the_base_a_check_fetches_what_the_patch_touches(
    world: World, s3: S3, patches: list[str], tmp_path: Path
) -> None:
    def move(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + 0.01 * torch.randn(tensor.shape) if name == "layers.1.weight" else tensor

    make_patch(tmp_path / "base", changed(tmp_path / "base", tmp_path / "some", move), tmp_path / "some.safetensors")
    with world.database.read() as session:
        file = session.scalars(select(BaseFile).where(BaseFile.path == "model.safetensors")).one()
        least = (file.header_size or 0) + 4 * 160 * 160
    name = f"blobs/{file.sha256}"
    s3.sent.clear()
    pushed = push_patch(world, "alice/tiny", tmp_path / "some.safetensors")
    assert pushed["check"] == "checked"
    assert least <= s3.sent[name] <= 1.02 * least < len(s3.objects[name]) / 3
    assert not world.worker.can_now().bases, "the base is not at hand"
    (tmp_path / "none.safetensors").write_bytes(b"not a patch")
    s3.sent.clear()
    assert push_patch(world, "alice/tiny", tmp_path / "none.safetensors")["check"] == "refused"
    assert s3.sent.get(name, 0) == 0
    with world.database.write() as session:  # as bases of before places were kept
        session.execute(update(BaseTensor).values(path=None, start=None))
    shutil.rmtree(world.store.root / "cache")
    make_patch(tmp_path / "base", changed(tmp_path / "base", tmp_path / "more", move), tmp_path / "more.safetensors")
    assert push_patch(world, "alice/tiny", tmp_path / "more.safetensors")["check"] == "checked"
    assert s3.sent[name] == len(s3.objects[name])


def test_a_part_that_goes_bad_is_found_by_the_job_and_fetched_again(
    world: World, s3: S3, patches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, hold = world.store, BucketStore.hold_excerpt
    assert isinstance(store, BucketStore)

    def spoil(self: BucketStore, *args: Any) -> Path:
        path = hold(self, *args)
        with path.open("r+b") as file:
            file.seek(args[1].extents[-1].start)
            file.write(b"\x01\x02\x03")
        return path

    with monkeypatch.context() as spoiled:
        spoiled.setattr(BucketStore, "hold_excerpt", spoil)
        assert f"The blob {patches[0]} is damaged in bytes" in compose(world, NARROW)
    with world.database.read() as session:
        assert session.get_one(Blob, patches[0]).damaged_at is None, "the bucket has it whole"
    assert compose(world, NARROW).startswith("sha256:")
    wrong = bytearray(s3.objects[f"blobs/{patches[0]}"])
    wrong[-1] ^= 1
    s3.keep(f"blobs/{patches[0]}", bytes(wrong))
    shutil.rmtree(store.root / "cache")
    assert compose(world, NARROW, "0.25").startswith("sha256:"), "the byte that is wrong is not needed"
    assert "damaged" in compose(world, [["layers.*", "0"]])
    with world.database.read() as session:
        assert session.get_one(Blob, patches[0]).damaged_at is not None
