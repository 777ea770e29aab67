"""A bucket that speaks S3, from which people download: put, head, read, delete, list, and signed addresses.

    s3://BUCKET/PREFIX/<64 hex>     a blob of at least so many bytes, never changed

The store on disk stays authoritative: a blob is stored there first, and everything in the bucket can be copied again.
The bytes are hashed again while they are copied, so that a damaged file never gets its name in the bucket, and every
part carries its own sha256, which the S3 server checks.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from registry.errors import BreadcrumbError, DigestMismatch, InvalidRequest, NotFound, StorageFailed
from registry.files.names import HEX256

if TYPE_CHECKING:
    from obstore.store import S3Credential

_HEX256 = re.compile(HEX256)
ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9._/-]{0,500}))?")
CHUNK = 2**20
MOST_PARTS = 10_000  # of one object, as S3 allows
LEAST_PART = 8 * 2**20
BYTES_IN_FLIGHT = 64 * 2**20  # of parts that are sent at a time, if parts are small enough
MOST_RETRIES = 3
UNESCAPED = "-_.~"  # what SigV4 does not escape, besides letters and digits


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
        endpoint: The address of an S3 server other than Amazon's, or empty.
        region: The region that requests are signed for.
        key_id: The id of the key that signs.
        secret: The secret of that key.

    Raises:
        InvalidRequest: A setting is missing or malformed.
    """

    def __init__(self, address: str, *, endpoint: str, region: str, key_id: str, secret: str) -> None:
        match = ADDRESS.fullmatch(address)
        prefix = (match[2] or "").rstrip("/") if match else ""
        if match is None or (prefix and not all(part.strip(".") for part in prefix.split("/"))):
            raise InvalidRequest("REGISTRY_BUCKET is not valid; write it like s3://name/prefix.", field="bucket")
        if not key_id or not secret:
            raise InvalidRequest(
                "A bucket needs a key: set REGISTRY_BUCKET_KEY_ID and REGISTRY_BUCKET_SECRET.", field="bucket"
            )
        endpoint = (endpoint or f"https://s3.{region}.amazonaws.com").lower().rstrip("/")
        for scheme, port in (
            ("https", ":443"),
            ("http", ":80"),
        ):  # clients leave default ports out, so they are not signed
            endpoint = endpoint.removesuffix(port) if endpoint.startswith(f"{scheme}:") else endpoint
        if not re.fullmatch(r"https?://[a-z0-9.:\[\]-]+", endpoint):
            raise InvalidRequest(
                "REGISTRY_BUCKET_ENDPOINT is not valid; write it like https://s3.example.org.", field="bucket_endpoint"
            )
        self.prefix = f"{prefix}/" if prefix else ""
        self.root = f"{endpoint}/{match[1]}/{self.prefix}"
        self.region, self.key_id, self._secret = region, key_id, secret

        def key() -> "S3Credential":
            return {"access_key_id": key_id, "secret_access_key": secret, "token": None, "expires_at": None}

        def connect(timeout: str, retry_timeout: float) -> S3Store:
            # Everything that AWS_... variables could change is given here, so that only the settings count.
            return S3Store(
                match[1],
                region=region,
                endpoint=endpoint,
                aws_endpoint_url_s3=endpoint,
                virtual_hosted_style_request=False,
                checksum_algorithm="SHA256",
                disable_bulk_delete=True,  # not every server supports it
                credential_provider=key,
                client_options={"allow_http": endpoint.startswith("http://"), "timeout": timeout},
                retry_config={"max_retries": MOST_RETRIES, "retry_timeout": timedelta(seconds=retry_timeout)},
            )

        self._parts, self._quick = connect("120s", 60), connect("10s", 10)

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
        part = max(LEAST_PART, -(-size // MOST_PARTS))
        at_once = max(1, min(4, BYTES_IN_FLIGHT // part))
        with reaching("take", sha256):
            bytes_ = read_whole(path, sha256, size, stopping)
            obstore.put(
                self._parts,
                self.prefix + sha256,
                b"".join(bytes_) if size <= CHUNK else bytes_,
                attributes={"Content-Type": "application/octet-stream"},
                use_multipart=size > CHUNK,
                chunk_size=part,
                max_concurrency=at_once,
            )
        if self.size(sha256) != size:
            raise StorageFailed(
                f"The bucket does not have all of blob {sha256} after the copy; it is copied again later."
            )

    def size(self, sha256: str) -> int | None:
        """Return the size of a blob in the bucket, in bytes; None if the bucket does not have it.

        Raises:
            StorageFailed: The bucket did not answer.
        """
        with reaching("say whether it has", sha256):
            try:
                return int(obstore.head(self._quick, self.prefix + sha256)["size"])
            except FileNotFoundError:
                return None

    def read(self, sha256: str) -> Iterator[bytes]:
        """Yield the bytes of a blob in the bucket; whoever takes them checks the digest.

        Raises:
            StorageFailed: The bucket does not have the blob, or did not send it.
        """
        with reaching("send", sha256):
            for chunk in obstore.get(self._parts, self.prefix + sha256).stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    def delete(self, sha256: str) -> None:
        """Delete a blob from the bucket, if it is there.

        Raises:
            StorageFailed: The bucket did not delete the object.
        """
        with reaching("delete", sha256):
            obstore.delete(self._quick, self.prefix + sha256)

    def list(self) -> Iterator[StoredObject]:
        """Yield the objects that are named like blobs.

        Raises:
            StorageFailed: The bucket did not list its objects.
        """
        with reaching("list", "its objects"):
            for page in obstore.list(self._quick, self.prefix.rstrip("/") or None, chunk_size=1000):
                for meta in page:
                    name = meta["path"].removeprefix(self.prefix)
                    if _HEX256.fullmatch(name):
                        yield StoredObject(name, int(meta["size"]), meta["last_modified"])

    def url(self, sha256: str, filename: str, seconds: int, method: str = "GET") -> str:
        """Return an address from which anybody can download a blob for a while, without a request to the bucket.

        Args:
            sha256: The blob.
            filename: The name under which it is saved.
            seconds: For how long a download may begin, 1 to 604,800.
            method: The one method that the address can be used with.
        """
        name = quote(filename.rpartition("/")[2], safe="")
        query = {"response-content-disposition": f"attachment; filename*=UTF-8''{name}"}
        return presign(
            method, self.root + sha256, query, self.region, self.key_id, self._secret, seconds, datetime.now(UTC)
        )


def open_bucket(address: str, *, endpoint: str, region: str, key_id: str, secret: str) -> Bucket | None:
    """Return the bucket at an address, or None if the address is empty; see `Bucket`."""
    return Bucket(address, endpoint=endpoint, region=region, key_id=key_id, secret=secret) if address else None


def read_whole(path: Path, sha256: str, size: int, stopping: Callable[[], bool]) -> Iterator[bytes]:
    """Yield a file's bytes; fail before the last of them if they do not have the right size and digest.

    Raises:
        NotFound, DigestMismatch, StorageFailed: As `Bucket.put` raises them.
    """
    hasher, left = hashlib.sha256(), size
    try:
        with path.open("rb") as file:
            while True:
                if stopping():
                    raise StorageFailed(f"The copy of blob {sha256} to the bucket was stopped; it is made later.")
                chunk = file.read(min(CHUNK, left))
                hasher.update(chunk)
                left -= len(chunk)
                if left == 0 or not chunk:
                    break
                yield chunk
            if left or file.read(1) or hasher.hexdigest() != sha256:
                raise DigestMismatch(f"The file of blob {sha256} is damaged; run `crumb-server check`.")
            yield chunk
    except FileNotFoundError:
        raise NotFound(f"The file of blob {sha256} is gone.") from None
    except BreadcrumbError:
        raise
    except OSError as error:
        raise StorageFailed(f"The disk failed on blob {sha256}: {error.strerror or error}.") from error


@contextmanager
def reaching(verb: str, what: str) -> Iterator[None]:
    """Turn an error of the bucket into a sentence, without its details: requests and answers may contain keys.

    Raises:
        StorageFailed: The bucket refused, or does not answer.
    """
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        status = re.search(r"status code: ([0-9]{3})", str(error))
        code = re.search(r"<Code>([A-Za-z0-9]{1,50})</Code>", str(error))
        answer = " ".join(match[1] for match in (status, code) if match)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            step = "check REGISTRY_BUCKET_KEY_ID and REGISTRY_BUCKET_SECRET, the clock, and what the key may do"
        elif answer:
            step = "check REGISTRY_BUCKET, or try again later"
        else:
            step = "check REGISTRY_BUCKET_ENDPOINT, or try again later"
        reason = f"it answered {answer}" if answer else "it cannot be reached"
        raise StorageFailed(f"The bucket did not {verb} {what}: {reason}; {step}.") from None


def presign(
    method: str,
    url: str,
    query: dict[str, str],
    region: str,
    key_id: str,
    secret: str,
    seconds: int,
    at: datetime,
) -> str:
    """Return an address with a signature in its query: AWS Signature Version 4 for S3, the payload unsigned.

    We sign it here, since obstore does not sign `response-…` parameters, which name a download.

    Args:
        method: The method that the address can be used with.
        url: The address of the object; its path has only unescaped characters.
        query: Further parameters.
        region: The region of the bucket.
        key_id: The id of the key that signs.
        secret: The secret of that key.
        seconds: How long the address can be used.
        at: The time from which it can be used, with a time zone.
    """
    stamp, parts = at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ"), urlsplit(url)
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    words = {
        **query,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{key_id}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
    }
    parameters = "&".join(
        sorted(f"{quote(name, safe=UNESCAPED)}={quote(value, safe=UNESCAPED)}" for name, value in words.items())
    )
    request = f"{method}\n{parts.path}\n{parameters}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    return f"{url}?{parameters}&X-Amz-Signature={hmac.digest(key, text.encode(), 'sha256').hex()}"
