"""Registries whose files are in a bucket."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.storage.bucket_store import BucketStore
from tests.support.s3_stand_in import S3
from tests.support.world import World, open_world


@contextmanager
def another_machine(world: World, folder: Path) -> Iterator[World]:
    """A server and a worker of the same registry, with a folder of their own."""
    settings = world.settings.model_dump(exclude={"data", "database_url"})
    with open_world(folder, world.settings.database, **settings) as other:
        other.tokens.update(world.tokens)
        yield other


def store_of(world: World) -> BucketStore:
    assert isinstance(world.store, BucketStore)
    return world.store


def in_bucket(s3: S3) -> dict[str, bytes]:
    """Return the blobs of the bucket."""
    return {key.removeprefix("blobs/"): data for key, data in s3.objects.items() if len(key) == 70}


def parts_in(s3: S3) -> list[str]:
    return sorted(key for key in s3.objects if key.startswith("blobs/uploads/"))
