"""The store of a registry: on disk, or in a bucket; and the locks that its machines share."""

from functools import partial
from pathlib import Path

from registry.db import locks
from registry.db.session import Database
from registry.errors import InvalidRequest
from registry.storage.bucket import Bucket
from registry.storage.bucket_store import BucketStore
from registry.storage.store import Store


def open_store(
    database: Database,
    kind: str,
    root: Path,
    reserve: int | None,
    bucket: Bucket | None,
    cache_bytes: int,
    *,
    patience: float | None = None,
) -> Store:
    """Return the store of a registry.

    Args:
        database: Has the rows, and on PostgreSQL the locks of a store that several machines share.
        kind: `disk` or `bucket`.
        root: The data folder.
        reserve: Bytes of its disk that stay free; see `Store`.
        bucket: The bucket, for a store that is one.
        cache_bytes: Most bytes of copies of it in the folder.
        patience: Seconds that a reader waits for such a copy; None for as long as it takes.

    Raises:
        InvalidRequest: The store is to be a bucket, and none is given.
    """
    if kind == "disk":
        return Store(root, reserve)
    if bucket is None:
        raise InvalidRequest("REGISTRY_STORE=bucket needs REGISTRY_BUCKET, like s3://name/prefix.", field="store")
    shared = database.engine.dialect.name == "postgresql"
    lock = partial(locks.holding, database.engine) if shared else None
    return BucketStore(root, reserve, bucket=bucket, most=cache_bytes, lock=lock, patience=patience)
