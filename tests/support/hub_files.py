"""A Hub on loopback that serves folders at fixed commits, and can be told to misbehave."""

import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_BYTES = 1000  # files from this size on are large ones: the Hub knows their sha256


@dataclass(frozen=True)
class Asked:
    """A request that came, with the first byte that it asked for, and the token that was with it."""

    method: str
    path: str
    start: int | None
    token: str | None
    headers: dict[str, str]


@dataclass
class HubFiles:
    """What is there: folders by (repository, commit), commits by (repository, revision).

    Attributes:
        sends_on: Where downloads are redirected to, if anywhere: the url of another one of these.
        cuts: Bytes after which an answer breaks off, one number for each download from now on.
        closed: What is answered to everything: a status and an error code.
        asked: Every request.
    """

    folders: dict[tuple[str, str], Path] = field(default_factory=dict)
    commits: dict[tuple[str, str], str] = field(default_factory=dict)
    sends_on: str | None = None
    cuts: list[int] = field(default_factory=list)
    closed: tuple[int, str] | None = None
    asked: list[Asked] = field(default_factory=list)

    def add(self, repository: str, folder: Path, revision: str = "main") -> str:
        """Serve a folder as the next commit of a repository, and return its id."""
        commit = hashlib.sha1(f"{repository} {folder} {len(self.folders)}".encode()).hexdigest()
        self.folders[repository, commit] = folder
        self.commits[repository, revision] = self.commits[repository, commit] = commit
        return commit

    def downloads(self, method: str = "GET") -> list[Asked]:
        """Return the requests for files of weights."""
        return [asked for asked in self.asked if asked.method == method and asked.path.endswith(".safetensors")]

    def __enter__(self) -> "HubFiles":
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        found = re.fullmatch(r"bytes=([0-9]+)-", request.headers.get("Range", ""))
        start = int(found[1]) if found else None
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append(Asked(request.command, unquote(parts.path), start, headers.get("authorization"), headers))
        if self.closed:
            return self.say(request, self.closed[0], {}, {"X-Error-Code": self.closed[1]})
        if listed := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", parts.path):
            assert parse_qs(parts.query) == {"blobs": ["true"]}
            return self.tell(request, listed[1], unquote(listed[2]))
        wanted = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", parts.path)
        folder = self.folders.get((wanted[1], wanted[2])) if wanted else None
        file = folder / unquote(wanted[3]) if folder and wanted else None
        if file is None or not file.is_file():
            return self.say(request, 404, {}, {"X-Error-Code": "EntryNotFound"})
        if self.sends_on:
            return self.say(request, 302, {}, {"Location": self.sends_on + request.path})
        return self.send(request, file.read_bytes(), start)

    def tell(self, request: http.server.BaseHTTPRequestHandler, repository: str, revision: str) -> None:
        if not any(known == repository for known, _ in self.folders):
            return self.say(request, 401, {}, {"X-Error-Code": "RepoNotFound"})
        commit = self.commits.get((repository, revision))
        if commit is None:
            return self.say(request, 404, {}, {"X-Error-Code": "RevisionNotFound"})
        folder = self.folders[repository, commit]
        files = [describe(folder, file) for file in sorted(folder.rglob("*")) if file.is_file()]
        return self.say(request, 200, {"id": repository, "sha": commit, "siblings": files}, {})

    def say(self, request: Any, status: int, document: object, headers: dict[str, str]) -> None:
        body = json.dumps(document).encode()
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    def send(self, request: Any, data: bytes, start: int | None) -> None:
        request.send_response(200 if start is None else 206)
        rest = data[start or 0 :]
        request.send_header("Content-Length", str(len(rest)))
        request.send_header("ETag", '"of the one that sends"')
        if start is not None:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        if request.command == "GET":
            cut = self.cuts.pop(0) if self.cuts and len(data) >= LFS_BYTES else len(rest)
            request.wfile.write(rest[:cut])
            request.close_connection = cut < len(rest)


def describe(folder: Path, file: Path) -> dict[str, Any]:
    """Say what a file is, as the Hub does."""
    data = file.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    told: dict[str, Any] = {"rfilename": file.relative_to(folder).as_posix(), "size": len(data), "blobId": git}
    if len(data) >= LFS_BYTES:
        told["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return told
