"""A Hugging Face Hub that takes uploads, for tests, over real HTTP on loopback: LFS mode, as before Xet.

Whoever talks to it sets HF_HUB_DISABLE_XET: the Hub's client then asks `preupload` which files are large, sends those
to where the LFS batch says, and the small ones in the commit. Large files are kept in a folder, by their sha256, which
is checked; commits, trees and blobs have the ids that git would give them. What it cannot do, it answers with 404.

    POST /api/repos/create, /api/validate-yaml      GET /api/whoami-v2
    POST /api/models/ORG/NAME/preupload/main, commit/main, tag/REV, paths-info/REV
    GET  /api/models/ORG/NAME, revision/REV, tree/REV, refs      HEAD GET /ORG/NAME/resolve/REV/PATH
    POST /ORG/NAME.git/info/lfs/objects/batch       PUT POST /lfs/SHA256
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.servers import serving

LARGE = (".safetensors", ".bin")
TOKEN = "hf_" + "h" * 34  # the one that it takes
DATE = "2026-11-27T00:00:00.000Z"
FIRST = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
Tree = dict[str, "Blob"]


def git_id(kind: str, raw: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(raw)}\0".encode() + raw).hexdigest()


@dataclass(frozen=True)
class Blob:
    """A file of a commit: what git holds, which is a pointer when the file is large."""

    raw: bytes
    sha256: str = ""
    size: int = 0

    def entry(self, path: str) -> dict[str, Any]:
        found = {"type": "file", "path": path, "size": self.size or len(self.raw), "oid": git_id("blob", self.raw)}
        large = {"oid": self.sha256, "size": self.size, "pointerSize": len(self.raw)}
        return {**found, "lfs": large} if self.sha256 else found


def tree_id(tree: Tree) -> str:
    """Return git's id of a tree, and so of those in it."""
    names = {path.partition("/")[0] for path in tree}
    rows = []
    for name in names:
        if name in tree:
            rows.append((name.encode(), b"100644", git_id("blob", tree[name].raw)))
        else:
            below = {path.partition("/")[2]: blob for path, blob in tree.items() if path.startswith(f"{name}/")}
            rows.append((name.encode() + b"/", b"40000", tree_id(below)))
    return git_id("tree", b"".join(m + b" " + n.rstrip(b"/") + b"\0" + bytes.fromhex(i) for n, m, i in sorted(rows)))


@dataclass
class Repo:
    private: bool = False
    commits: dict[str, Tree] = field(default_factory=dict)  # oldest first
    titles: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, tree: Tree, title: str) -> str:
        parent = f"parent {self.head}\n" if self.commits else ""
        who = f"hub <hub@localhost> {1_700_000_000 + len(self.commits)} +0000"
        text = f"tree {tree_id(tree)}\n{parent}author {who}\ncommitter {who}\n\n{title}\n"
        made = git_id("commit", text.encode())
        self.commits[made] = tree
        self.titles.append(title)
        return made

    def find(self, revision: str) -> str | None:
        named = {"main": self.head, **self.tags}.get(revision, revision)
        return named if named in self.commits else None


@dataclass
class HubStandIn:
    """The state of it, and what it was asked.

    Args:
        folder: Of the large files.
        url: Where it listens.
        asked: Method and path of every request, in order, without queries.
        stall: Called with the sha256 and the bytes so far while a large file comes; cuts the connection if it says so.
        fail: Called with method and path of every request; a status that is to be answered instead, or None.
    """

    folder: Path
    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    stall: Callable[[str, int], bool] = lambda _sha256, _count: False
    fail: Callable[[str, str], int | None] = lambda _method, _path: None

    def puts(self) -> list[str]:
        """Return the sha256 of the large files that were sent, in order, whether they arrived or not."""
        return [path.rpartition("/")[2] for method, path in self.asked if method == "PUT"]


class Refusal(Exception):
    def __init__(self, status: int, words: str, code: str = "") -> None:
        super().__init__(words)
        self.status, self.words, self.code = status, words, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: HubStandIn

    def do_any(self) -> None:
        parts = urlsplit(self.path)
        self.query, path = parse_qs(parts.query), parts.path
        self.hub.asked.append((self.command, path))
        try:
            if (status := self.hub.fail(self.command, path)) is not None:
                self.close_connection = True
                raise Refusal(status, "out of order")
            if self.command == "PUT":
                self.take(path.removeprefix("/lfs/"))
                return
            raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if path != "/api/validate-yaml" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refusal(401, "Invalid credentials in Authorization header")
            segments = [unquote(segment) for segment in path.strip("/").split("/")]
            self.route(segments, raw)
        except Refusal as no:
            headers = (
                {"X-Error-Code": no.code, "X-Error-Message": no.words} if no.code else {"X-Error-Message": no.words}
            )
            self.answer({"error": no.words}, no.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_any

    def route(self, at: list[str], raw: bytes) -> None:
        match at:
            case ["api", "whoami-v2"]:
                self.answer({"name": "hubert", "orgs": [], "type": "user"})
            case ["api", "validate-yaml"]:
                self.answer({"warnings": [], "errors": []})
            case ["api", "repos", "create"]:
                self.create(json.loads(raw))
            case ["lfs", sha256]:
                asked = json.loads(raw)
                file = self.hub.folder / sha256
                if asked["oid"] != sha256 or not file.is_file() or file.stat().st_size != asked["size"]:
                    raise Refusal(422, "no such object")
                self.answer({})
            case [org, name, "info", "lfs", "objects", "batch"]:
                self.repo(org, name.removesuffix(".git"))
                self.batch(json.loads(raw))
            case ["api", "models", org, name, *rest]:
                self.model(f"{org}/{name}", self.repo(org, name), rest, raw)
            case [org, name, "resolve", revision, *path]:
                self.resolve(self.repo(org, name), revision, "/".join(path))
            case _:
                raise Refusal(404, "no such route")

    def repo(self, org: str, name: str) -> Repo:
        if (found := self.hub.repos.get(f"{org}/{name}")) is None:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return found

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        there = name in self.hub.repos
        if not there:
            made = self.hub.repos[name] = Repo(asked.get("visibility") == "private" or asked.get("private") is True)
            made.commit({".gitattributes": Blob(FIRST)}, "initial commit")
        self.answer({"url": f"{self.hub.url}/{name}"}, 409 if there else 200)

    def batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            href = {"href": f"{self.hub.url}/lfs/{one['oid']}?signature=secret"}
            there = (self.hub.folder / one["oid"]).is_file()
            objects.append({**one, **({} if there else {"actions": {"upload": href, "verify": href}})})
        self.answer({"transfer": "basic", "objects": objects})

    def take(self, sha256: str) -> None:
        left, digest, raw = int(self.headers["Content-Length"]), hashlib.sha256(), bytearray()
        while left and (block := self.rfile.read(min(left, 2**14))):
            left -= len(block)
            digest.update(block)
            raw += block
            if self.hub.stall(sha256, len(raw)):
                self.close_connection = True
                return
        if left or digest.hexdigest() != sha256:
            raise Refusal(400, "The bytes are not those of the digest")
        (self.hub.folder / sha256).write_bytes(raw)
        self.answer({})

    def model(self, name: str, repo: Repo, rest: list[str], raw: bytes) -> None:
        match rest:
            case ["preupload", "main"]:
                rows, asked, tree = [], json.loads(raw), repo.commits[repo.head]
                ignored = tree[".gitignore"].raw.decode() if ".gitignore" in tree else ""
                for file in asked["files"]:
                    old = tree.get(file["path"])
                    known = (old.sha256 or git_id("blob", old.raw)) if old else None
                    mode = "lfs" if file["path"].endswith(LARGE) else "regular"
                    left_out = file["path"] in asked.get("gitIgnore", ignored).split()
                    rows.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": left_out, "oid": known})
                self.answer({"files": rows})
            case ["commit", "main"]:
                self.commit(name, repo, [json.loads(line) for line in raw.splitlines()])
            case ["tag", revision]:
                tag = json.loads(raw)["tag"]
                if tag in repo.tags:
                    raise Refusal(409, "Tag exists already")
                repo.tags[tag] = self.found(repo, revision)
                self.answer({})
            case ["refs"]:
                tags = [
                    {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit}
                    for tag, commit in repo.tags.items()
                ]
                main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head}
                self.answer({"branches": [main], "converts": [], "tags": tags})
            case [] | ["revision", _]:
                commit = self.found(repo, rest[1] if rest else "main")
                files = [{"rfilename": path} for path in repo.commits[commit]]
                self.answer({"id": name, "sha": commit, "private": repo.private, "siblings": files, "tags": []})
            case ["tree", revision]:
                tree = repo.commits[self.found(repo, revision)]
                self.answer([blob.entry(path) for path, blob in tree.items()])
            case ["paths-info", revision]:
                tree, paths = repo.commits[self.found(repo, revision)], parse_qs(raw.decode())["paths"]
                self.answer([tree[path].entry(path) for path in paths if path in tree])
            case _:
                raise Refusal(404, "no such route")

    def commit(self, name: str, repo: Repo, lines: list[dict[str, Any]]) -> None:
        header, tree = lines[0]["value"], dict(repo.commits[repo.head])
        if header.get("parentCommit", repo.head) != repo.head:
            raise Refusal(412, "The branch has moved")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = Blob(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                file = self.hub.folder / value["oid"]
                if not file.is_file() or file.stat().st_size != value["size"]:
                    raise Refusal(400, "no such object")
                pointer = (
                    f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {value['size']}\n"
                )
                tree[value["path"]] = Blob(pointer.encode(), value["oid"], value["size"])
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
        made = repo.commit(tree, header["summary"])
        self.answer({"commitUrl": f"{self.hub.url}/{name}/commit/{made}", "commitOid": made})

    def resolve(self, repo: Repo, revision: str, path: str) -> None:
        commit = self.found(repo, revision)
        if (blob := repo.commits[commit].get(path)) is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        raw = (self.hub.folder / blob.sha256).read_bytes() if blob.sha256 else blob.raw
        self.answer(raw, 200, {"ETag": f'"{blob.sha256 or git_id("blob", raw)}"', "X-Repo-Commit": commit})

    def found(self, repo: Repo, revision: str) -> str:
        if (commit := repo.find(revision)) is None:
            raise Refusal(404, "Revision not found", "RevisionNotFound")
        return commit

    def answer(self, what: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        raw = what if isinstance(what, bytes) else json.dumps(what).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def open_hub(folder: Path) -> Iterator[HubStandIn]:
    """Start it on a free port, empty."""
    hub = HubStandIn(folder)
    folder.mkdir(parents=True, exist_ok=True)

    with serving(type("HandlerOfIt", (Handler,), {"hub": hub})) as hub.url:
        yield hub
