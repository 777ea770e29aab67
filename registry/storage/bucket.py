"""A bucket that speaks S3, from which people download: put, head, read, delete, list, and signed addresses.

    s3://BUCKET/PREFIX/<64 hex>      a blob, never changed
    s3://BUCKET/PREFIX/registry-id   the id of the registry that all this belongs to

Where the store is on disk, a blob is stored there first, and everything in the bucket can be copied again; else the
bucket is the truth (bucket_store.py). Bytes are hashed while they are sent, so that a damaged file never gets its name
in the bucket, and every part carries its own sha256, which the S3 server checks.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote

from registry.errors import InvalidRequest, NotFound, StorageFailed
from registry.files.names import HEX256
from registry.storage.multipart import TYPE, discard_unfinished, send_parts
from registry.storage.pieces import CHUNK, checksum, encode, read_whole
from registry.storage.s3 import MANY, S3Place, parse_place, reaching, status_of
from registry.storage.store import MARK, MOST_MARK

_HEX256 = re.compile(HEX256)
PATIENCE = {"parts": (120.0, MANY), "quick": (5.0, 2), "once": (5.0, 1), "public": (5.0, 1)}
"""Seconds that an answer may take, and how often it is asked for. A transaction may wait for what is quick, or once."""
EXISTS = (409, 412)  # statuses of a conditional write to a name that is taken


class Unranged(Exception):
    """The server of the bucket does not honour Range: it sends objects whole alone."""


@dataclass(frozen=True)
class StoredObject:
    """An object: the blob that it is a copy of, its size in bytes, and when it was put."""

    sha256: str
    size: int
    put_at: datetime


class Bucket:
    """The objects under one prefix of a bucket.

    Args:
        address: `s3://bucket` or `s3://bucket/prefix`.
        access: How to reach it, as `parse_place` takes it.

    Attributes:
        belongs_to: The id of the registry that the bucket has to belong to, empty if it has none yet; None if that does
            not matter.

    Raises:
        InvalidRequest: A setting is missing or malformed.
    """

    def __init__(self, address: str, **access: str) -> None:
        self.place: S3Place = parse_place(address, **access)
        self.name, self.prefix = self.place.bucket, self.place.prefix
        self.belongs_to: str | None = None
        self._clients: dict[str, Any] = {}
        self._lock = Lock()

    @property
    def where(self) -> str:
        """The address of the objects."""
        return f"s3://{self.name}/{self.prefix}"

    def _client(self, kind: str) -> Any:
        """Return the client of a kind in PATIENCE, made when first needed; `public` ones sign addresses."""
        with self._lock:
            if kind not in self._clients:
                self._clients[kind] = self.place.connect(*PATIENCE[kind], public=kind == "public")
            return self._clients[kind]

    def _named(self, name: str) -> dict[str, str]:
        return {"Bucket": self.name, "Key": self.prefix + name}

    # Whose it is -------------------------------------------------------------------------------------------------

    def owner(self) -> str | None:
        """Return the id of the registry that the bucket belongs to; None if it has none.

        Raises:
            StorageFailed: The bucket did not answer.
        """
        from botocore.exceptions import ClientError

        with reaching("send", MARK):
            try:
                body = self._client("quick").get_object(**self._named(MARK))["Body"]
            except ClientError as error:
                if status_of(error) == 404 and error.response["Error"]["Code"] != "NoSuchBucket":
                    return None
                raise
            with closing(body):
                return bytes(body.read(MOST_MARK)).decode(errors="replace").strip()

    def own(self, registry_id: str) -> bool:
        """Mark the bucket as that of a registry, unless it has a mark; return whether that was done.

        Raises:
            InvalidRequest: The server does not know conditional writes.
            StorageFailed: The bucket did not take the mark.
        """
        from botocore.exceptions import ClientError

        body = f"{registry_id}\n".encode()
        with reaching("take", MARK):
            try:
                self._client("quick").put_object(
                    **self._named(MARK), Body=body, ContentType="text/plain", IfNoneMatch="*", **checksum(body)
                )
            except ClientError as error:
                if status_of(error) == 501:
                    raise unconditional() from None
                if status_of(error) not in EXISTS:
                    raise
                return False
        return True

    def claim(self, registry_id: str) -> None:
        """Mark the bucket as that of a registry; refuse one that belongs to another, or whose server overwrites.

        Raises:
            InvalidRequest: The server does not know conditional writes.
            StorageFailed: The bucket belongs to another registry, or did not answer.
        """
        self.belongs_to = registry_id
        self.require_region()
        marked = self.owner() is None and self.own(registry_id)
        self.require_owner()
        if self.own(registry_id):  # which it has
            if marked:
                self.delete(MARK)
            raise unconditional()

    def require_region(self) -> None:
        """Refuse a bucket in another region than requests are signed for, if its server says so.

        boto3 finds the right one for requests of its own, and not for signed addresses.

        Raises:
            InvalidRequest: The region is another.
            StorageFailed: The bucket did not answer.
        """
        with reaching("say where it is:", self.name):
            answer = self._client("quick").head_bucket(Bucket=self.name)
        region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", self.place.region)
        if region != self.place.region:
            raise InvalidRequest(
                f"The bucket {self.name} is in the region {region}; set REGISTRY_BUCKET_REGION to that.",
                field="bucket_region",
            )

    def require_owner(self) -> bool:
        """Refuse a bucket that belongs to another registry than it should; say whether it is certain whose it is.

        Raises:
            StorageFailed: It does, or did not answer.
        """
        if self.belongs_to is None:
            return True
        if (owner := self.owner()) is not None:
            self.refuse_other(owner)
        return owner is not None

    def refuse_other(self, owner: str) -> None:
        """Refuse a bucket whose mark is that of another registry than it should belong to.

        Raises:
            StorageFailed: It is.
        """
        if self.belongs_to not in (None, owner):
            raise StorageFailed(
                f"The bucket {self.where} belongs to the registry {owner}, and this one is "
                f"{self.belongs_to or 'new'}; give each a bucket or a prefix of its own in REGISTRY_BUCKET. If it is "
                f"the same registry, put back from a backup that has no id, delete {MARK} there."
            )

    def foreign(self) -> StorageFailed:
        """Return the error for a bucket without a mark whose blobs the database does not know."""
        return StorageFailed(
            f"The bucket {self.where} holds blobs, and this registry knows none of them; give it a "
            "bucket or a prefix of its own in REGISTRY_BUCKET."
        )

    # Blobs -------------------------------------------------------------------------------------------------------

    def put(self, sha256: str, path: Path, size: int, stopping: Callable[[], bool] = lambda: False) -> None:
        """Copy a blob into the bucket, in parts, and check afterwards that it is there.

        Args:
            sha256: The digest that the bytes must have.
            path: The blob's file.
            size: Its size in bytes.
            stopping: Called now and then; the copy is abandoned once it returns True.

        Raises:
            NotFound: The file is gone.
            DigestMismatch: The file holds other bytes; nothing was put into the bucket.
            StorageFailed: The bucket did not take the bytes, or the copy was given up.
        """
        self.put_chunks(sha256, read_whole(path, sha256, size, stopping), size, stopping)

    def put_chunks(
        self, sha256: str, chunks: Iterator[bytes], size: int, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """Put bytes into the bucket, in parts, and check afterwards that they are there.

        Args:
            sha256: Their name.
            chunks: The bytes, at most CHUNK at a time; whoever yields them fails before the last if they are wrong.
            size: How many there are.
            stopping: Called every second while a part is waited for; the bytes are given up once it returns True.

        Raises:
            StorageFailed: The bucket did not take them, or they were given up.
        """
        named, before, certain = self._named(sha256), None, True
        if size > CHUNK:
            before = self.look(sha256)
        with reaching("take", sha256):
            if size > CHUNK:
                certain = send_parts(self._client("parts"), named, chunks, size, stopping)
            else:
                body = b"".join(chunks)
                self._client("quick").put_object(**named, Body=body, ContentType=TYPE, **checksum(body))
        after = self.look(sha256)
        if after is None or after[0] != size or (after == before and not certain):
            raise StorageFailed(
                f"The bucket does not have all of blob {sha256} after the copy; it is copied again later."
            )

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        """Put a small file into the bucket, whose digest the server checks.

        Raises:
            StorageFailed: The bucket did not take it.
        """
        with reaching("take", name), path.open("rb") as file:
            self._client("parts").put_object(
                **self._named(name), Body=file, ContentType=TYPE, ChecksumSHA256=encode(bytes.fromhex(sha256))
            )

    def look(self, name: str) -> tuple[int, str] | None:
        """Return the size of an object in bytes, and its entity tag; None if the bucket does not have it.

        Raises:
            StorageFailed: The bucket did not answer.
        """
        from botocore.exceptions import ClientError

        with reaching("say whether it has", name):
            try:
                found = self._client("quick").head_object(**self._named(name))
                return int(found["ContentLength"]), f"{found['ETag']} {found['LastModified']}"
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes; None if the bucket does not have it.

        Raises:
            StorageFailed: The bucket did not answer.
        """
        found = self.look(name)
        return None if found is None else found[0]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of an object, at most CHUNK at a time; whoever takes them checks the digest.

        Args:
            name: The object.
            start, stop: Only bytes start..stop - 1, if there is a `stop`.

        Raises:
            NotFound: The bucket does not have the object, or not so many bytes of it.
            Unranged: Its server sends objects whole alone.
            StorageFailed: The bucket did not send it.
        """
        from botocore.exceptions import ClientError

        ranged = {} if stop is None else {"Range": f"bytes={start}-{stop - 1}"}
        with reaching("send", name):
            try:
                answer = self._client("parts").get_object(**self._named(name), **ranged)
            except ClientError as error:
                if error.response["Error"].get("Code") in ("NoSuchKey", "InvalidRange"):
                    raise NotFound(f"The bucket does not have {name}, or not all of it.") from None
                raise
            if ranged and "ContentRange" not in answer:
                answer["Body"].close()
                raise Unranged(f"The bucket did not send a part of {name}; its server does not honour Range.")
            if stop is not None and answer["ContentLength"] != stop - start:
                answer["Body"].close()
                raise NotFound(f"The bucket does not have all of {name}.")
            with closing(answer["Body"]) as body:  # itself it would give the raw stream, whose length nobody checks
                while chunk := body.read(CHUNK):
                    yield bytes(chunk)

    def delete(self, name: str) -> None:
        """Delete an object from the bucket, if it is there; asked once, and not again if no answer comes.

        Raises:
            StorageFailed: The bucket did not delete the object, or does so later.
        """
        with reaching("delete", name):
            self._client("once").delete_object(**self._named(name))

    def list(self) -> Iterator[StoredObject]:
        """Yield the objects that are named like blobs.

        Raises:
            StorageFailed: The bucket did not list its objects.
        """
        for item in self.list_all():
            if _HEX256.fullmatch(item.sha256):
                yield item

    def list_all(self, under: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose names begin with some word, each with its name in place of a digest.

        Raises:
            StorageFailed: The bucket did not list its objects.
        """
        with reaching("list", "its objects"):
            pages = self._client("parts").get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.name, Prefix=self.prefix + under):
                for item in page.get("Contents", ()):
                    name = item["Key"].removeprefix(self.prefix)
                    yield StoredObject(name, int(item["Size"]), item["LastModified"])

    def discard_unfinished(self, before: datetime) -> None:
        """Discard what was sent of objects that were begun before a time and not finished.

        Raises:
            StorageFailed: The bucket did not list or discard it.
        """
        with reaching("discard", "unfinished uploads"):
            discard_unfinished(self._client("parts"), self.name, self.prefix, before)

    def url(self, sha256: str, filename: str, seconds: int, method: str = "GET") -> str:
        """Return an address from which anybody can download a blob for a while, without a request to the bucket.

        Args:
            sha256: The blob.
            filename: The name under which it is saved.
            seconds: For how long a download may begin, 1 to 604,800; no longer than a key that is good for a while.
            method: The one method that the address can be used with, GET or HEAD.

        Raises:
            StorageFailed: There is no key to sign with.
        """
        name = quote(filename.rpartition("/")[2], safe="")
        with reaching("lend", sha256):
            return str(
                self._client("public").generate_presigned_url(
                    {"GET": "get_object", "HEAD": "head_object"}[method],
                    Params=self._named(sha256) | {"ResponseContentDisposition": f"attachment; filename*=UTF-8''{name}"},
                    ExpiresIn=seconds,
                )
            )


def open_bucket(address: str, **access: str) -> Bucket | None:
    """Return the bucket at an address, or None if the address is empty; see `Bucket`."""
    return Bucket(address, **access) if address else None


def unconditional() -> InvalidRequest:
    """Return the error for a server that overwrites objects whatever a request says."""
    return InvalidRequest(
        "The server of the bucket does not honour conditional writes (If-None-Match), without which two registries "
        "could overwrite each other there; use Amazon S3, Ceph, or another server that does, in "
        "REGISTRY_BUCKET_ENDPOINT.",
        field="bucket_endpoint",
    )
