"""Files whose bytes are elsewhere, at the Hub that a base is from or in a bucket, are pulled all the same."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi

from tests.support.hub_files import HubFiles
from tests.support.makers import make_checkpoint
from tests.support.processes import Person, Registry, open_registry, person, until
from tests.support.s3_stand_in import S3, open_s3

pytestmark = pytest.mark.slow

REPOSITORY, NAME = "acme/tiny", "alice/tiny"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "base", shards=2)


@pytest.fixture
def hub(base: Path) -> Iterator[HubFiles]:
    with HubFiles() as made:
        made.add(REPOSITORY, base)
        yield made


@pytest.fixture
def s3() -> Iterator[S3]:
    with open_s3() as made:
        yield made


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def pulled(registry: Registry, alice: Person, folder: Path) -> list[dict[str, bytes]]:
    """Pull the base by our client and by the Hub's, both with a token of the registry's."""
    alice.crumb("pull", f"{NAME}@base", "-o", str(folder / "ours"))
    theirs = HfApi(endpoint=registry.url, token=alice.token).snapshot_download(
        NAME, revision="base", cache_dir=folder / "cache"
    )
    return [read(folder / "ours"), read(Path(theirs))]


def test_a_base_by_reference_is_pulled_from_the_hub_that_has_it(hub: HubFiles, base: Path, tmp_path: Path) -> None:
    with open_registry(tmp_path / "registry", hub_endpoint=hub.url, hub_hosts="") as registry:
        registry.serve()
        alice = person(registry, "alice")
        alice.crumb("model", "create", NAME, "--base", f"hf://{REPOSITORY}@main")
        before = len(hub.downloads())
        assert pulled(registry, alice, tmp_path) == [read(base)] * 2
        assert len(hub.downloads()) - before == 4  # two weight files, twice
        assert {asked.token for asked in hub.asked} == {None}, "no token of the registry's goes there"
        assert not any(registry.data.glob("blobs/sha256/*/*/*.safetensors"))
        info = HfApi(endpoint=registry.url, token=False).model_info(NAME, files_metadata=True)
        sizes = {file.rfilename: file.size for file in info.siblings or ()}
        assert sizes == {name: len(data) for name, data in read(base).items()}


def test_what_a_bucket_has_is_pulled_from_there(s3: S3, base: Path, tmp_path: Path) -> None:
    with open_registry(tmp_path / "registry", bucket_least=1000, **s3.settings("blobs")) as registry:
        registry.serve()
        alice = person(registry, "alice")
        alice.crumb("model", "create", NAME, "--base", str(base))
        weights = sorted(path.name for path in base.glob("*.safetensors"))

        def address(name: str) -> httpx2.Response:
            return httpx2.head(f"{registry.url}/{NAME}/resolve/main/{name}")

        until(lambda: all(address(name).status_code == 302 for name in weights))
        found = address(weights[0])
        data = (base / weights[0]).read_bytes()
        assert int(found.headers["x-linked-size"]) == len(data)
        assert len(found.headers["x-linked-etag"].strip('"')) == 64
        assert len(found.headers["x-repo-commit"]) == 40
        part = httpx2.get(found.headers["location"], headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, data[10:20])
        assert address("config.json").status_code == 200  # too small to be worth it
        assert pulled(registry, alice, tmp_path) == [read(base)] * 2
        registry.check()
