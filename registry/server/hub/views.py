"""Views in the JSON of the Hub: models, files, references, commits, people.

Dates end in `Z`, which the Hub's clients require; every file counts as one in Git LFS, so its ETag is its sha256.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from registry.db.tables import Model
from registry.documents.commits import blob_id, pointer, tree_id
from registry.documents.front_matter import read_front_matter, words
from registry.files.folders import CONFIG
from registry.services.blobs import texts
from registry.services.catalog.tags import TAG, of_card
from registry.services.composing.snapshots import Snapshot
from registry.services.hub.repositories import Commit, Ref
from registry.services.people.actors import Actor
from registry.storage.store import Store

KINDS = {"branch": "branches", "tag": "tags", "pull": "pullRequests"}
Entry = dict[str, Any]


def moment(at: datetime) -> str:
    """Return a time as the Hub writes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def model(row: Model, tags: Sequence[str], downloads: tuple[int, int], *, card: bool = False) -> dict[str, Any]:
    """Return a model in a list, on request with the front matter of its base's card."""
    front = read_front_matter(row.card or "")
    found = {
        "_id": row.id.hex[:24],
        "id": row.full_name,
        "modelId": row.full_name,
        "author": row.namespace,
        "private": row.visibility == "private",
        "gated": False,
        "disabled": False,
        "likes": 0,
        "downloads": downloads[0],
        "downloadsAllTime": downloads[1],
        "tags": list(tags),
        "createdAt": moment(row.created_at),
        "lastModified": moment(row.modified_at),
        "library_name": library(front, tags),
        "pipeline_tag": one_word(front.get("pipeline_tag")),
        "cardData": front if card else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def revision(
    row: Model, snapshot: Snapshot, store: Store, downloads: tuple[int, int], known: Sequence[str], *, blobs: bool
) -> dict[str, Any]:
    """Return a model at a revision, with its files and on request their sizes and digests."""
    files = {file.path: file for file in snapshot.files}
    card = texts.read_card(store, {"README.md": files["README.md"].sha256}) if "README.md" in files else None
    front = read_front_matter(card or "")
    config = used_of_config(store, files[CONFIG].sha256) if CONFIG in files else {}
    tags = dict.fromkeys([*of_card(front, row.license, one_word(config.get("model_type"))), *known])
    return {
        **model(row, list(tags), downloads),
        "library_name": library(front, list(tags)),
        **({"pipeline_tag": front["pipeline_tag"]} if one_word(front.get("pipeline_tag")) else {}),
        "sha": snapshot.commit,
        "cardData": front,
        "config": config,
        "safetensors": {"parameters": row.dtypes, "total": row.parameters},
        "usedStorage": sum(file.size for file in snapshot.files),
        "siblings": [
            {"rfilename": file.path, **(sibling(file.sha256, file.size) if blobs else {})}
            for file in sorted(snapshot.files, key=lambda file: file.path)
        ],
        "spaces": [],
    }


def sibling(sha256: str, size: int) -> Entry:
    """Return the size and digests of a file, as model info shows them."""
    raw = pointer(sha256, size)
    return {
        "size": size,
        "blobId": blob_id(raw),
        "lfs": {"sha256": sha256, "size": size, "pointerSize": len(raw)},
    }


def library(card: dict[str, Any], tags: Iterable[str]) -> str | None:
    """Return which library a model is for."""
    return one_word(card.get("library_name")) or ("transformers" if "transformers" in tags else None)


def one_word(value: Any) -> str | None:
    """Return the value of a field that is one word, else None."""
    found = words(value)
    return found[0] if len(found) == 1 and isinstance(value, str) else None


@lru_cache(maxsize=1024)
def used_of_config(store: Store, sha256: str) -> dict[str, Any]:
    """Return what is used of a config.json. Blobs never change."""
    config = texts.read_config(store, sha256)
    kept: dict[str, Any] = {
        "architectures": [name for name in words(config.get("architectures"))[:100] if TAG.fullmatch(name)]
    }
    kind = one_word(config.get("model_type"))
    kept |= {"model_type": kind if kind and TAG.fullmatch(kind) else None}
    return {name: value for name, value in kept.items() if value}


def tree(snapshot: Snapshot) -> dict[str, Entry]:
    """Return every file and folder of a revision by its path, each folder before its contents."""
    entries: dict[str, Entry] = {}
    inside: dict[str, list[tuple[str, str, bool]]] = {"": []}
    for file in snapshot.files:
        raw = pointer(file.sha256, file.size)
        object_id = blob_id(raw)
        folder, _, name = file.path.rpartition("/")
        inside.setdefault(folder, []).append((name, object_id, False))
        entries[file.path] = {
            "type": "file",
            "oid": object_id,
            "size": file.size,
            "path": file.path,
            "lfs": {"oid": file.sha256, "size": file.size, "pointerSize": len(raw)},
        }
        while folder:  # every folder on the way
            folder = folder.rpartition("/")[0]
            inside.setdefault(folder, [])
    for folder in sorted(filter(None, inside), key=lambda path: path.count("/"), reverse=True):
        above, _, name = folder.rpartition("/")
        object_id = tree_id(inside[folder])
        inside[above].append((name, object_id, True))
        entries[folder] = {"type": "directory", "oid": object_id, "size": 0, "path": folder}
    return {path: entries[path] for path in sorted(entries)}


def expanded(entry: Entry, commit: Commit) -> Entry:
    """Return an entry of a tree with the commit that it comes from."""
    return {**entry, "lastCommit": {"id": commit.id, "title": commit.title, "date": moment(commit.at)}}


def refs(found: Iterable[Ref], *, pulls: bool) -> dict[str, Any]:
    """Return branches, tags and pull requests."""
    shown: dict[str, list[Entry]] = {"branches": [], "converts": [], "tags": []}
    if pulls:
        shown["pullRequests"] = []
    prefixes = {"branch": "refs/heads/", "tag": "refs/tags/", "pull": ""}
    for one in found:
        ref = f"{prefixes[one.kind]}{one.name}"
        shown[KINDS[one.kind]].append({"name": one.name, "ref": ref, "targetCommit": one.commit})
    return shown


def commit(found: Commit) -> Entry:
    """Return a commit."""
    return {
        "id": found.id,
        "title": found.title,
        "message": found.message,
        "date": moment(found.at),
        "authors": [{"user": name} for name in found.authors],
    }


def whoami(actor: Actor, organisations: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the user that a token speaks for."""
    token = actor.token
    return {
        "type": "user",
        "id": actor.user_id.hex[:24],
        "name": actor.name,
        "fullname": actor.name,
        "email": None,
        "emailVerified": False,
        "isPro": False,
        "canPay": False,
        "orgs": [{"type": "org", "name": name, "fullname": name, "roleInOrg": role} for name, role in organisations],
        "auth": {
            "type": "access_token",
            "accessToken": {
                "displayName": token.label or token.prefix,
                "role": "write" if "push" in actor.scopes else "read",
                "createdAt": moment(token.created_at),
            },
        },
    }
