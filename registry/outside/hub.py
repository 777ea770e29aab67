"""A Hugging Face Hub, as far as this server reads it: what a base is made of at one commit, and its bytes.

    hf://org/name@revision ── listing ──> commit, files, sizes, digests ── download ──> bytes, verified

It is the operator's choice, and nobody else's, where requests go: to the endpoint, and to the hosts that it may send a
download on to. The transport asks for every request, redirects among them; the token goes to the endpoint alone; no
proxy, token or switch of the environment has a say. What is answered is bounded before it is read.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote

import httpx2

from registry.errors import BreadcrumbError, InvalidRequest, JobFailed, Unavailable

SOURCE = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)@([A-Za-z0-9][\w.+/-]*)", re.ASCII)
OBJECT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # a git blob id, or a sha256
COMMIT = re.compile(r"[0-9a-f]{40}")
ANSWER_BYTES = 32 * 2**20  # of an answer that is not a file
MOST_FILES = 20_000
LARGEST = 2**53
BLOCK = 2**20
TRIES = 4  # attempts that bring nothing, one after the other
PAUSE = 0.2  # seconds after the first of them; doubled each time
AGAIN = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Hub:
    """Where the Hub is, and who sends its bytes.

    Args:
        endpoint: Its address, like `https://huggingface.co`.
        hosts: Where it may redirect downloads to, with commas between: `name`, `name:port` or `*.name`.
        token: For what is not public there; never sent to another host.
    """

    endpoint: str
    hosts: str = ""
    token: str | None = None

    def client(self) -> httpx2.Client:
        """Return a client whose every request is checked."""
        headers = {"User-Agent": "breadcrumb-registry"} | (
            {"Authorization": f"Bearer {self.token}"} if self.token else {}
        )
        return httpx2.Client(
            transport=Checked(self),
            headers=headers,
            timeout=httpx2.Timeout(30, connect=10),
            follow_redirects=True,
            max_redirects=5,
            trust_env=False,
        )

    def is_endpoint(self, url: httpx2.URL) -> bool:
        """Say whether an address is the Hub's own."""
        own = httpx2.URL(self.endpoint)
        return (url.scheme, url.host, _port(url)) == (own.scheme, own.host, _port(own))

    def allows(self, url: httpx2.URL) -> bool:
        """Say whether an address may be asked for."""
        if url.userinfo or url.scheme not in ("https", httpx2.URL(self.endpoint).scheme):
            return False
        return self.is_endpoint(url) or any(_matches(pattern, url) for pattern in self.hosts.split(","))


class Checked(httpx2.BaseTransport):
    """Lets through what goes to the Hub or to the hosts that it may redirect to, and bounds what is no file."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.inner = httpx2.HTTPTransport(verify=httpx2.create_ssl_context(trust_env=False), trust_env=False)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, unless it goes elsewhere.

        Raises:
            JobFailed: it does; nothing was sent.
        """
        if not self.hub.allows(request.url):
            raise JobFailed(
                f"The Hub at {self.hub.endpoint} redirects to {request.url.scheme}://{request.url.host}, which this "
                "registry may not ask; the operator can allow it by REGISTRY_HUB_HOSTS."
            )
        if not self.hub.is_endpoint(request.url):
            request.headers.pop("Authorization", None)
        request.headers["Accept-Encoding"] = "identity"
        response = self.inner.handle_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":  # it could grow beyond all bounds
            response.close()
            raise Unavailable(f"The Hub at {self.hub.endpoint} compresses what was asked for as it is.")
        if response.status_code >= 300 or request.url.path.startswith("/api/"):
            assert isinstance(response.stream, httpx2.SyncByteStream)
            response.stream = Bounded(response.stream)
        return response

    def close(self) -> None:
        """Close every connection."""
        self.inner.close()


class Bounded(httpx2.SyncByteStream):
    """A body that ends with an error when it is too long."""

    def __init__(self, inner: httpx2.SyncByteStream) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for block in self.inner:
            size += len(block)
            if size > ANSWER_BYTES:
                raise JobFailed(f"The Hub answers with more than {ANSWER_BYTES} bytes where a short answer is due.")
            yield block

    def close(self) -> None:
        """Close the body."""
        self.inner.close()


def split(source: str) -> tuple[str, str]:
    """Return the repository and the revision of `hf://org/name@revision`.

    Raises:
        InvalidRequest: it is not written like that.
    """
    found = SOURCE.fullmatch(source)
    if found is None or ".." in source or "//" in found[2]:
        raise InvalidRequest(f"{source!r} is no base at a Hub; write hf://org/name@revision.", field="source")
    return found[1], found[2]


def file_url(endpoint: str, source: str, path: str) -> str:
    """Return the address of a file of `hf://org/name@revision` at a Hub."""
    repository, revision = split(source)
    return f"{endpoint.rstrip('/')}/{repository}/resolve/{quote(revision, safe='')}/{quote(path)}"


def listing(hub: Hub, source: str) -> tuple[str, list[tuple[str, int, str]]]:
    """Ask what a base is made of.

    Args:
        hub: Where.
        source: `hf://org/name@revision`.

    Returns:
        The commit that the revision is now, and (path, bytes, object) of each file; the object is the sha256 of its
        bytes where the Hub knows that, else git's id of them.

    Raises:
        InvalidRequest: there is no such base, or this registry may not read it.
        JobFailed: the answer is not understood, or the Hub redirects elsewhere.
        Unavailable: the Hub does not answer; it may later.
    """
    repository, revision = split(source)
    url = f"{hub.endpoint.rstrip('/')}/api/models/{repository}/revision/{quote(revision, safe='')}"
    try:
        with hub.client() as client:
            response = client.get(url, params={"blobs": "true"})
            if response.status_code != 200:
                raise refusal(hub, response, source)
            return _read(response.content)
    except httpx2.TooManyRedirects as why:
        raise JobFailed(f"The Hub at {hub.endpoint} redirects in a circle.") from why
    except (httpx2.HTTPError, httpx2.InvalidURL) as why:
        raise Unavailable(f"The Hub at {hub.endpoint} does not answer: {why or type(why).__name__}.") from why
    except (ValueError, KeyError, TypeError, RecursionError) as why:
        if isinstance(why, BreadcrumbError):
            raise
        raise JobFailed(f"The Hub at {hub.endpoint} answers for {source} in words that are not understood.") from why


def _read(content: bytes) -> tuple[str, list[tuple[str, int, str]]]:
    document = json.loads(content)
    commit, siblings = document["sha"], document["siblings"]
    if not COMMIT.fullmatch(commit) or len(siblings) > MOST_FILES:
        raise ValueError
    files = []
    for file in siblings:
        path, size, lfs = file["rfilename"], file["size"], file.get("lfs")
        name = lfs["sha256"] if lfs else file["blobId"]
        if not isinstance(path, str) or type(size) is not int or not 0 <= size <= LARGEST:
            raise ValueError
        if not OBJECT.fullmatch(name):
            raise ValueError
        files.append((path, size, name))
    return commit, files


def refusal(hub: Hub, response: httpx2.Response, source: str) -> BreadcrumbError:
    """Return the error that an answer of the Hub stands for, in the terms of the Hub's own library."""
    from huggingface_hub import hf_raise_for_status
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RevisionNotFoundError

    repository, revision = split(source)
    status = response.status_code
    try:
        response.read()
        hf_raise_for_status(response)
    except GatedRepoError:
        return InvalidRequest(
            f"{repository} is gated at {hub.endpoint}, and this registry has not been let in; download it with your "
            "own account, and give the folder.",
            field="source",
        )
    except RevisionNotFoundError:
        return InvalidRequest(f"{repository} has no revision {revision} at {hub.endpoint}.", field="source")
    except HfHubHTTPError:
        if status in (401, 403, 404, 410):
            return InvalidRequest(
                f"There is no {repository} at {hub.endpoint} that this registry may read.", field="source"
            )
    if status in AGAIN:
        return Unavailable(f"The Hub at {hub.endpoint} answers with status {status} now.")
    return JobFailed(f"The Hub at {hub.endpoint} answers for {source} with status {status}.")


class Download:
    """One file on its way: what is there already counts, and the rest is asked for from there on.

    Args:
        hub: Where from.
        source: `hf://org/name@<commit>`.
        path: The file's, in the base.
        size: Its bytes.
        name: The sha256, or git's id, that they must have.
        file: Open for reading and writing; what it holds is taken for the beginning.
        tell: Called with bytes that have come; negative for those that have to come again.
    """

    def __init__(
        self, hub: Hub, source: str, path: str, size: int, name: str, file: BinaryIO, tell: Callable[[int], None]
    ) -> None:
        self.hub, self.source, self.path, self.size, self.name = hub, source, path, size, name
        self.file, self.tell = file, tell
        self.have = 0
        self.forget_digests()

    def forget_digests(self) -> None:
        """Begin to hash anew."""
        self.sha256 = hashlib.sha256()
        self.git = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def take(self, block: bytes) -> None:
        """Count and hash bytes of the file."""
        self.sha256.update(block)
        self.git.update(block)
        self.have += len(block)
        self.tell(len(block))

    def restart(self) -> None:
        """Forget what is there."""
        self.tell(-self.have)
        self.have = 0
        self.file.seek(0)
        self.file.truncate()
        self.forget_digests()

    def run(self, client: httpx2.Client) -> str:
        """Bring the file to its full size, and return its sha256.

        Raises:
            JobFailed: the Hub has other bytes by that name, has none any more, or redirects elsewhere.
            Unavailable: it does not send them; it may later.
        """
        self.file.seek(0)
        for block in iter(lambda: self.file.read(BLOCK), b""):
            self.take(block)
        if self.have > self.size:
            self.restart()
        resumed = self.have > 0
        self.fill(client)
        if resumed and not self.is_right():  # what an earlier attempt has left may be what is wrong
            self.restart()
            self.fill(client)
        if not self.is_right():
            raise self.changed(f"hash to {self.sha256.hexdigest()}")
        return self.sha256.hexdigest()

    def is_right(self) -> bool:
        """Say whether the bytes are those that are meant."""
        return self.name == (self.sha256 if len(self.name) == 64 else self.git).hexdigest()

    def changed(self, how: str) -> JobFailed:
        """Return the error for other bytes than were meant."""
        self.restart()
        return JobFailed(
            f"{self.path} of {self.source} has changed at {self.hub.endpoint}, where it must not: it was pinned as "
            f"{self.name} with {self.size} bytes, and the bytes that come {how}. Nothing was made of them."
        )

    def fill(self, client: httpx2.Client) -> None:
        """Ask for what is missing until nothing is, as long as something comes."""
        url, idle = httpx2.URL(file_url(self.hub.endpoint, self.source, self.path)), 0
        while self.have < self.size:
            before = self.have
            try:
                problem = self.ask(client, url)
            except (httpx2.TransportError, httpx2.DecodingError) as why:
                problem = Unavailable(f"The Hub at {self.hub.endpoint} broke off {self.path}: {why}.")
            except httpx2.TooManyRedirects as why:
                raise JobFailed(f"The Hub at {self.hub.endpoint} redirects in a circle.") from why
            self.file.flush()
            idle = 0 if self.have > before else idle + 1
            if problem is not None and idle:
                if idle == TRIES:
                    raise problem
                time.sleep(PAUSE * 2**idle)

    def ask(self, client: httpx2.Client, url: httpx2.URL) -> Unavailable | None:
        """Ask once for the bytes that are missing; return why not all of them came, if so."""
        headers = {"Range": f"bytes={self.have}-"} if self.have else {}
        with client.stream("GET", url, headers=headers) as response:
            status = response.status_code
            if status == 416 or (status == 200 and self.have):
                self.restart()
            if status not in (200, 206, 416):
                problem = refusal(self.hub, response, self.source)
                if isinstance(problem, Unavailable):
                    return problem
                raise JobFailed(f"{self.path} of {self.source} is no longer to be had: {problem}")
            if status == 416:
                return Unavailable(f"The Hub at {self.hub.endpoint} sends no range of {self.path}.")
            start = f"bytes {self.have}-"
            if status == 206 and not response.headers.get("content-range", "").startswith(start):
                raise JobFailed(f"The Hub at {self.hub.endpoint} sends another range of {self.path} than it was asked.")
            coming = response.headers.get("content-length", str(self.size - self.have))
            if coming != str(self.size - self.have):
                raise self.changed(f"are {self.have} + {coming[:20]}")
            for block in response.iter_raw():
                if self.have + len(block) > self.size:
                    raise self.changed("are more")
                self.file.write(block)
                self.take(block)
        return (
            None if self.have == self.size else Unavailable(f"The Hub at {self.hub.endpoint} ends {self.path} early.")
        )


def _port(url: httpx2.URL) -> int | None:
    return url.port or {"https": 443, "http": 80}.get(url.scheme)


def _matches(pattern: str, url: httpx2.URL) -> bool:
    name, _, port = pattern.strip().lower().partition(":")
    if str(_port(url)) != (port or {"https": "443", "http": "80"}[url.scheme]):
        return False
    return url.host.endswith(name[1:]) if name.startswith("*.") else bool(name) and url.host == name
