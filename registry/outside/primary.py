"""The primary: the registry that a mirror follows, asked over HTTP. What it answers is bounded, and believed by nobody.

The operator names its address, which may be a private one. Redirects are not followed, proxies of the environment are
ignored, and every answer has a greatest size that is held while it is read.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import BinaryIO

import httpx2

from registry.errors import (
    BreadcrumbError,
    DigestMismatch,
    Forbidden,
    InvalidRequest,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from registry.outside.egress import check_url, plain
from registry.outside.tls import public_authorities

ANSWER_BYTES = 64 * 2**20  # of a page; a row may have a manifest of 16 MiB
SECONDS = 30.0  # without a byte
LONGEST = 600.0  # seconds of an answer that is not a file
MOST_SAID = 300  # bytes of a refusal that are repeated
BLOCK = 2**20
REFUSED: Mapping[int, type[BreadcrumbError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: NotFound,  # a model that has no base yet
    422: InvalidRequest,
}


class Arriving:
    """A file on its way in: what is there of it, and the hash of that.

    Args:
        file: Open for reading and writing; its contents are taken as the beginning.
        size: The bytes that it will have; more are not kept.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.have, self.hasher = file, size, 0, hashlib.sha256()
        file.seek(0)
        for block in iter(lambda: file.read(BLOCK), b""):
            self.hasher.update(block)
            self.have += len(block)
        if self.have > size:
            self.restart()

    def restart(self) -> None:
        """Discard what is there."""
        self.file.seek(0)
        self.file.truncate()
        self.have, self.hasher = 0, hashlib.sha256()

    def take(self, block: bytes) -> bool:
        """Add bytes; return False, and discard all, if they are too many."""
        if self.have + len(block) > self.size:
            self.restart()
            return False
        self.file.write(block)
        self.hasher.update(block)
        self.have += len(block)
        return True


class Primary:
    """A registry that is followed.

    Args:
        url: Its address.
        token: A token of it, for private models.
        client: What sends the requests; one of its own if None.
    """

    def __init__(self, url: str, token: str | None = None, client: httpx2.Client | None = None) -> None:
        check_url(url, private=True)
        self.url = url.rstrip("/")
        self.headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self.client = client or httpx2.Client(trust_env=False, verify=public_authorities(), follow_redirects=False)

    def get(self, path: str, patience: float = 0, **query: str | int) -> bytes:
        """Return the answer to a GET of `/api/v1` + path, JSON text.

        Args:
            path: The path.
            patience: Seconds that the primary may take before it begins to answer, beside the usual ones.
            query: Its query.

        Raises:
            Unauthenticated, Forbidden, NotFound, InvalidRequest: It refuses.
            Unavailable: It does not answer, or not with that.
        """
        raw, until = bytearray(), time.monotonic() + patience + LONGEST
        url = f"{self.url}/api/v1{path}"
        try:
            with self.client.stream(
                "GET", url, params=query, headers=self.headers, timeout=SECONDS + patience
            ) as response:
                for chunk in response.iter_raw():
                    raw += chunk
                    if len(raw) > ANSWER_BYTES or time.monotonic() > until:
                        raise Unavailable(f"{self.url} answers {path} with too many bytes, or too slowly.")
        except (httpx2.HTTPError, httpx2.StreamError) as why:
            raise self.broken(why) from why
        self.require(response.status_code, path, bytes(raw[:MOST_SAID]))
        return bytes(raw)

    def download(
        self, model: str, sha256: str, size: int, file: BinaryIO, beat: Callable[[], object] = lambda: None
    ) -> None:
        """Bring a file to its full size; what is there of it already is not asked for again.

        Args:
            model: The model whose rows name it.
            sha256: Its digest.
            size: Its bytes.
            file: Open for reading and writing.
            beat: Called now and then.

        Raises:
            DigestMismatch: The primary sends other bytes; they are discarded.
            Unavailable: It does not send it.
        """
        arriving = Arriving(file, size)
        resumed = arriving.have > 0
        try:
            while arriving.have < size:
                before = arriving.have
                self.ask(f"/models/{model}/mirror/files/{sha256}", sha256, arriving, beat)
                if arriving.have <= before:
                    raise Unavailable(f"{self.url} ends the file {sha256} early.")
        finally:
            file.flush()
        found = arriving.hasher.hexdigest()
        if found != sha256:
            arriving.restart()
            if not resumed:
                raise DigestMismatch(f"{self.url} sends other bytes for {sha256}: they hash to {found}.", field=sha256)
            self.download(model, sha256, size, file, beat)  # the beginning may have been an earlier attempt's

    def ask(self, path: str, sha256: str, arriving: Arriving, beat: Callable[[], object]) -> None:
        """Request the bytes of a file that are missing, once."""
        headers = self.headers | ({"Range": f"bytes={arriving.have}-"} if arriving.have else {})
        try:
            with self.client.stream("GET", f"{self.url}/api/v1{path}", headers=headers, timeout=SECONDS) as response:
                if response.status_code not in (200, 206):
                    raise Unavailable(f"{self.url} does not send the file {sha256} now ({response.status_code}).")
                ranged = response.headers.get("content-range", "").startswith(f"bytes {arriving.have}-")
                if arriving.have and not ranged:
                    arriving.restart()
                for block in response.iter_raw():
                    if not arriving.take(block):
                        raise DigestMismatch(
                            f"{self.url} sends more than {arriving.size} bytes of {sha256}.", field=sha256
                        )
                    beat()
        except (httpx2.HTTPError, httpx2.StreamError) as why:
            raise self.broken(why) from why

    def require(self, status: int, path: str, text: bytes) -> None:
        """Refuse an answer that is not one.

        Raises:
            Unauthenticated, Forbidden, NotFound, InvalidRequest, Unavailable: By its status.
        """
        if status != 200:
            said = plain(text.decode("utf-8", "replace"))
            raise REFUSED.get(status, Unavailable)(f"{self.url} answers {path} with {status}. {said}".strip())

    def broken(self, why: Exception) -> Unavailable:
        """Return the error for a connection that failed."""
        return Unavailable(f"{self.url} does not answer: {plain(str(why)) or type(why).__name__}.")
