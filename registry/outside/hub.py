"""The Hugging Face Hub as this server reads it: the files of a base at one commit, and their bytes.

    hf://org/name@revision ── listing ──> commit, files, sizes, digests ── download ──> bytes, verified

Only the operator decides where requests go: to the endpoint, and to the hosts that it may redirect downloads to. The
transport checks every request, also redirected ones; the token is sent only to the endpoint; proxies, tokens and
switches of the environment are ignored. Answers are bounded before they are read.
"""

import hashlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote

import httpx2

from registry.errors import BreadcrumbError, InvalidRequest, JobFailed, Unavailable
from registry.outside.tls import public_authorities

SOURCE = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)@([A-Za-z0-9][\w.+/-]*)", re.ASCII)
OBJECT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # a git blob id, or a sha256
COMMIT = re.compile(r"[0-9a-f]{40}")
MOST_ANSWER = 32 * 2**20  # bytes of an answer that is not a file
MOST_FILES = 20_000
MOST_BYTES = 2**53  # of a file
BLOCK = 2**20
MOST_IDLE_TRIES = 4  # attempts in a row that bring no bytes
FIRST_PAUSE = 0.2  # seconds; doubled after each attempt
RETRIABLE = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Hub:
    """The address of the Hub, and the hosts that send its bytes.

    Args:
        endpoint: The Hub's address, like `https://huggingface.co`.
        hosts: Hosts that it may redirect downloads to, separated by commas: `name`, `name:port` or `*.name`.
        token: Token for what is not public there; never sent to another host.
    """

    endpoint: str
    hosts: str = ""
    token: str | None = None

    def client(self) -> httpx2.Client:
        """Return a client that checks every request."""
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
        """Say whether an address may be requested."""
        if url.userinfo or url.scheme not in ("https", httpx2.URL(self.endpoint).scheme):
            return False
        return self.is_endpoint(url) or any(_matches(pattern, url) for pattern in self.hosts.split(","))


class Checked(httpx2.BaseTransport):
    """A transport that sends only to the Hub and its allowed hosts, and bounds answers that are not files."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.inner = httpx2.HTTPTransport(verify=public_authorities(), trust_env=False)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, unless it goes elsewhere.

        Raises:
            JobFailed: The request goes to another host; nothing was sent.
        """
        if not self.hub.allows(request.url):
            raise JobFailed(
                f"The Hub at {self.hub.endpoint} redirects to {request.url.scheme}://{request.url.host}, which this "
                "registry must not contact; the operator can allow it in REGISTRY_HUB_HOSTS."
            )
        if not self.hub.is_endpoint(request.url):
            request.headers.pop("Authorization", None)
        request.headers["Accept-Encoding"] = "identity"
        response = self.inner.handle_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":  # decompressing could exceed all bounds
            response.close()
            raise Unavailable(
                f"The Hub at {self.hub.endpoint} sent a compressed answer, which this registry did not ask for."
            )
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
            if size > MOST_ANSWER:
                raise JobFailed(f"The Hub answers with more than {MOST_ANSWER} bytes where a short answer is expected.")
            yield block

    def close(self) -> None:
        """Close the body."""
        self.inner.close()


def is_unknown_name(error: BaseException | None) -> bool:
    """Say whether a call failed because its host's name has no address, which another attempt does not change."""
    while error is not None and not isinstance(error, socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None


def split(source: str) -> tuple[str, str]:
    """Return the repository and the revision in `hf://org/name@revision`.

    Raises:
        InvalidRequest: The source is not written like that.
    """
    match = SOURCE.fullmatch(source)
    if match is None or ".." in source or "//" in match[2]:
        raise InvalidRequest(f"{source!r} is not a base at a Hub; write hf://org/name@revision.", field="source")
    return match[1], match[2]


def file_url(endpoint: str, source: str, path: str) -> str:
    """Return the address of a file of `hf://org/name@revision` at a Hub."""
    repository, revision = split(source)
    return f"{endpoint.rstrip('/')}/{repository}/resolve/{quote(revision, safe='')}/{quote(path)}"


def listing(hub: Hub, source: str) -> tuple[str, list[tuple[str, int, str]]]:
    """Ask the Hub which files a base has.

    Args:
        hub: The Hub.
        source: `hf://org/name@revision`.

    Returns:
        The commit that the revision stands for now, and (path, bytes, object) of each file; the object is the sha256
        of its bytes if the Hub knows it, else their git object id.

    Raises:
        InvalidRequest: The Hub has no such base, or this registry may not read it.
        JobFailed: The answer cannot be read, or the Hub redirects elsewhere.
        Unavailable: The Hub does not answer; it may later.
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
        if is_unknown_name(why):
            raise JobFailed(
                f"The Hub at {hub.endpoint} cannot be found from this registry ({why}); its operator can mend its "
                "network or REGISTRY_HUB_ENDPOINT. Or create the model from a folder, whose files are sent from here."
            ) from why
        raise Unavailable(f"The Hub at {hub.endpoint} does not answer: {why or type(why).__name__}.") from why

    except (ValueError, KeyError, TypeError, RecursionError) as why:
        if isinstance(why, BreadcrumbError):
            raise
        raise JobFailed(f"The Hub at {hub.endpoint} gives an answer for {source} that cannot be read.") from why


def _read(content: bytes) -> tuple[str, list[tuple[str, int, str]]]:
    document = json.loads(content)
    commit, siblings = document["sha"], document["siblings"]
    if not COMMIT.fullmatch(commit) or len(siblings) > MOST_FILES:
        raise ValueError
    files = []
    for file in siblings:
        path, size, lfs = file["rfilename"], file["size"], file.get("lfs")
        name = lfs["sha256"] if lfs else file["blobId"]
        if not isinstance(path, str) or type(size) is not int or not 0 <= size <= MOST_BYTES:
            raise ValueError
        if not OBJECT.fullmatch(name):
            raise ValueError
        files.append((path, size, name))
    return commit, files


def refusal(hub: Hub, response: httpx2.Response, source: str) -> BreadcrumbError:
    """Return the error for an answer of the Hub, by its X-Error-Code or else its status."""
    repository, revision = split(source)
    status, code = response.status_code, response.headers.get("X-Error-Code")
    if code == "GatedRepo":
        return InvalidRequest(
            f"{repository} is gated at {hub.endpoint}, and this registry has no access; download it with your own "
            "account, and create the model from the folder.",
            field="source",
        )
    if code == "RevisionNotFound":
        return InvalidRequest(f"{repository} has no revision {revision} at {hub.endpoint}.", field="source")
    if status in (401, 403, 404, 410):
        return InvalidRequest(
            f"There is no {repository} at {hub.endpoint} that this registry may read.", field="source"
        )
    if status in RETRIABLE:
        return Unavailable(f"The Hub at {hub.endpoint} answers with status {status} at the moment; try again later.")
    return JobFailed(f"The Hub at {hub.endpoint} answers for {source} with status {status}.")


class Download:
    """The download of one file, which resumes after the bytes that are there already.

    Args:
        hub: The Hub.
        source: `hf://org/name@<commit>`.
        path: The path of the file in the base.
        size: Its size in bytes.
        name: The sha256 or git object id that the bytes must have.
        file: Open for reading and writing; its contents are taken as the beginning.
        tell: Called with the number of bytes that arrived; negative if they must be fetched again.
    """

    def __init__(
        self, hub: Hub, source: str, path: str, size: int, name: str, file: BinaryIO, tell: Callable[[int], None]
    ) -> None:
        self.hub, self.source, self.path, self.size, self.name = hub, source, path, size, name
        self.file, self.tell = file, tell
        self.have = 0
        self.forget_digests()

    def forget_digests(self) -> None:
        """Start hashing from the beginning."""
        self.sha256 = hashlib.sha256()
        self.git = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def take(self, block: bytes) -> None:
        """Count and hash bytes of the file."""
        self.sha256.update(block)
        self.git.update(block)
        self.have += len(block)
        self.tell(len(block))

    def restart(self) -> None:
        """Discard the bytes that are there."""
        self.tell(-self.have)
        self.have = 0
        self.file.seek(0)
        self.file.truncate()
        self.forget_digests()

    def run(self, client: httpx2.Client) -> str:
        """Bring the file to its full size, and return its sha256.

        Raises:
            JobFailed: The Hub has other bytes by that name, no longer has the file, or redirects elsewhere.
            Unavailable: The Hub does not send the bytes; it may later.
        """
        self.file.seek(0)
        for block in iter(lambda: self.file.read(BLOCK), b""):
            self.take(block)
        if self.have > self.size:
            self.restart()
        resumed = self.have > 0
        self.fill(client)
        if resumed and not self.is_right():  # the bytes of an earlier attempt may be wrong
            self.restart()
            self.fill(client)
        if not self.is_right():
            raise self.changed(f"hash to {self.sha256.hexdigest()}")
        return self.sha256.hexdigest()

    def is_right(self) -> bool:
        """Say whether the bytes have the digest that they must have."""
        return self.name == (self.sha256 if len(self.name) == 64 else self.git).hexdigest()

    def changed(self, how: str) -> JobFailed:
        """Return the error for bytes that are not those that were pinned."""
        self.restart()
        return JobFailed(
            f"{self.path} of {self.source} has changed at {self.hub.endpoint}, though a commit never changes: it was "
            f"pinned as {self.name} with {self.size} bytes, and the bytes now {how}. They were discarded."
        )

    def fill(self, client: httpx2.Client) -> None:
        """Request the missing bytes until none are missing, as long as some arrive."""
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
                if idle == MOST_IDLE_TRIES:
                    raise problem
                time.sleep(FIRST_PAUSE * 2**idle)

    def ask(self, client: httpx2.Client, url: httpx2.URL) -> Unavailable | None:
        """Request the missing bytes once; return why not all of them arrived, if so."""
        headers = {"Range": f"bytes={self.have}-"} if self.have else {}
        with client.stream("GET", url, headers=headers) as response:
            status = response.status_code
            if status == 416 or (status == 200 and self.have):
                self.restart()
            if status not in (200, 206, 416):
                problem = refusal(self.hub, response, self.source)
                if isinstance(problem, Unavailable):
                    return problem
                raise JobFailed(f"{self.path} of {self.source} is no longer available: {problem}")
            if status == 416:
                return Unavailable(f"The Hub at {self.hub.endpoint} sends no range of {self.path}.")
            start = f"bytes {self.have}-"
            if status == 206 and not response.headers.get("content-range", "").startswith(start):
                raise JobFailed(
                    f"The Hub at {self.hub.endpoint} sends another range of {self.path} than the one requested."
                )
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
