"""A bucket that speaks S3, from which the public downloads: put, head, delete, list, and addresses with a signature.

    s3://BUCKET/PREFIX/<64 hex>     a blob of at least so many bytes, never changed

The store on disk stays the truth: a blob is there first, and everything in the bucket can be copied again. The bytes
are hashed once more on their way, so that a damaged file never gets its good name in the bucket, and every part
carries its own sha256, which the server on the other side checks.
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

if TYPE_CHECKING:
    from obstore.store import S3Credential

HEX256 = re.compile(r"[0-9a-f]{64}")
ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9._/-]{0,500}))?")
CHUNK = 2**20
MOST_PARTS = 10_000  # of one object, as S3 allows
LEAST_PART = 8 * 2**20
IN_HAND = 64 * 2**20  # bytes of parts that are under way at a time, where parts are small enough
RETRIES = 3
PLAIN = "-_.~"  # what SigV4 leaves as it is


@dataclass(frozen=True)
class StoredObject:
    """An object: the blob it is named for, its bytes, and when it was put there."""

    sha256: str
    size: int
    put_at: datetime


class Bucket:
    """The objects under one prefix of a bucket.

    Args:
        address: `s3://bucket` or `s3://bucket/prefix`.
        endpoint: Address of another S3 server than Amazon's, or empty.
        region: The region that requests are signed for.
        key_id: Who signs.
        secret: The key to sign with.

    Raises:
        InvalidRequest: a setting is missing or makes no sense.
    """

    def __init__(self, address: str, *, endpoint: str, region: str, key_id: str, secret: str) -> None:
        found = ADDRESS.fullmatch(address)
        prefix = (found[2] or "").rstrip("/") if found else ""
        if found is None or (prefix and not all(part.strip(".") for part in prefix.split("/"))):
            raise InvalidRequest("REGISTRY_BUCKET is written like s3://name/prefix.", field="bucket")
        if not key_id or not secret:
            raise InvalidRequest(
                "A bucket needs a key: set REGISTRY_BUCKET_KEY_ID and REGISTRY_BUCKET_SECRET.", field="bucket"
            )
        endpoint = (endpoint or f"https://s3.{region}.amazonaws.com").lower().rstrip("/")
        for scheme, port in (("https", ":443"), ("http", ":80")):  # no client names them, so they are not signed
            endpoint = endpoint.removesuffix(port) if endpoint.startswith(f"{scheme}:") else endpoint
        if not re.fullmatch(r"https?://[a-z0-9.:\[\]-]+", endpoint):
            raise InvalidRequest(
                "REGISTRY_BUCKET_ENDPOINT is written like https://s3.example.org.", field="bucket_endpoint"
            )
        self.prefix = f"{prefix}/" if prefix else ""
        self.root = f"{endpoint}/{found[1]}/{self.prefix}"
        self.region, self.key_id, self._secret = region, key_id, secret

        def key() -> "S3Credential":
            return {"access_key_id": key_id, "secret_access_key": secret, "token": None, "expires_at": None}

        def connect(timeout: str, retry_timeout: float) -> S3Store:
            # All that AWS_... variables could change is said here: the settings are what counts.
            return S3Store(
                found[1],
                region=region,
                endpoint=endpoint,
                aws_endpoint_url_s3=endpoint,
                virtual_hosted_style_request=False,
                checksum_algorithm="SHA256",
                disable_bulk_delete=True,  # not every server has it
                credential_provider=key,
                client_options={"allow_http": endpoint.startswith("http://"), "timeout": timeout},
                retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=retry_timeout)},
            )

        self._parts, self._quick = connect("120s", 60), connect("10s", 10)

    def put(self, sha256: str, path: Path, size: int, stopping: Callable[[], bool] = lambda: False) -> None:
        """Copy a blob into the bucket, in parts, and ask afterwards whether it is there.

        Args:
            sha256: What the bytes must hash to.
            path: The blob's file.
            size: Its bytes.
            stopping: Asked now and then; once it says so, the copy is given up.

        Raises:
            NotFound: the file is gone.
            DigestMismatch: it holds other bytes; nothing is in the bucket.
            StorageFailed: the bucket did not take them, or the copy was given up.
        """
        part = max(LEAST_PART, -(-size // MOST_PARTS))
        at_once = max(1, min(4, IN_HAND // part))
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
            raise StorageFailed(f"The bucket took blob {sha256} and has not all of it; it is copied again later.")

    def size(self, sha256: str) -> int | None:
        """Return how many bytes the bucket has of a blob; None when it has none.

        Raises:
            StorageFailed: the bucket did not say.
        """
        with reaching("say whether it has", sha256):
            try:
                return int(obstore.head(self._quick, self.prefix + sha256)["size"])
            except FileNotFoundError:
                return None

    def delete(self, sha256: str) -> None:
        """Remove a blob from the bucket, if it is there.

        Raises:
            StorageFailed: the bucket did not do it.
        """
        with reaching("delete", sha256):
            obstore.delete(self._quick, self.prefix + sha256)

    def list(self) -> Iterator[StoredObject]:
        """Yield the objects that are named like blobs.

        Raises:
            StorageFailed: the bucket did not list them.
        """
        with reaching("list", "its objects"):
            for page in obstore.list(self._quick, self.prefix.rstrip("/") or None, chunk_size=1000):
                for found in page:
                    name = found["path"].removeprefix(self.prefix)
                    if HEX256.fullmatch(name):
                        yield StoredObject(name, int(found["size"]), found["last_modified"])

    def url(self, sha256: str, filename: str, seconds: int, method: str = "GET") -> str:
        """Return an address from which anybody can download a blob for a while; nothing is asked of the bucket.

        Args:
            sha256: The blob.
            filename: What it is called when it is saved.
            seconds: How long a download may begin, 1 to 604,800.
            method: The one method that the address is good for.
        """
        name = quote(filename.rpartition("/")[2], safe="")
        query = {"response-content-disposition": f"attachment; filename*=UTF-8''{name}"}
        return presign(
            method, self.root + sha256, query, self.region, self.key_id, self._secret, seconds, datetime.now(UTC)
        )


def open_bucket(address: str, *, endpoint: str, region: str, key_id: str, secret: str) -> Bucket | None:
    """Return the bucket at an address, and None where there is no address; see `Bucket`."""
    return Bucket(address, endpoint=endpoint, region=region, key_id=key_id, secret=secret) if address else None


def read_whole(path: Path, sha256: str, size: int, stopping: Callable[[], bool]) -> Iterator[bytes]:
    """Yield a file's bytes; whoever takes them is stopped before the last ones when they are not what they should be.

    Raises:
        NotFound, DigestMismatch, StorageFailed: as `Bucket.put` says.
    """
    hasher, left = hashlib.sha256(), size
    try:
        with path.open("rb") as file:
            while True:
                if stopping():
                    raise StorageFailed(f"The copy of blob {sha256} to the bucket was given up; it is made later.")
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
    """Translate what the bucket says into a sentence, without the rest: requests and answers may name keys.

    Raises:
        StorageFailed: the bucket refused, or does not answer.
    """
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        status = re.search(r"status code: ([0-9]{3})", str(error))
        code = re.search(r"<Code>([A-Za-z0-9]{1,50})</Code>", str(error))
        said = " ".join(found[1] for found in (status, code) if found)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            step = "check REGISTRY_BUCKET_KEY_ID and REGISTRY_BUCKET_SECRET, the clock, and what the key may do"
        elif said:
            step = "check REGISTRY_BUCKET, or try again later"
        else:
            step = "check REGISTRY_BUCKET_ENDPOINT, or try again later"
        reason = f"it answered {said}" if said else "it cannot be reached"
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

    Ours, since obstore signs no `response-…` words, which say what a download is called.

    Args:
        method: The method it is good for.
        url: Of the object; its path has plain characters only.
        query: What else is asked.
        region: Where.
        key_id: Who signs.
        secret: The key to sign with.
        seconds: How long it is good for.
        at: Since when, with a time zone.
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
    asked = "&".join(sorted(f"{quote(name, safe=PLAIN)}={quote(value, safe=PLAIN)}" for name, value in words.items()))
    request = f"{method}\n{parts.path}\n{asked}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    return f"{url}?{asked}&X-Amz-Signature={hmac.digest(key, text.encode(), 'sha256').hex()}"
