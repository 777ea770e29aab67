"""Commit ids, and ids of git objects, derived from the files they stand for.

To the Hub's clients a commit id, 40 lowercase hex digits, names files that never change. Here it is the beginning of
the sha256 over a canonical list of the files, so it is the same after a restart, and on every registry.

    breadcrumb-commit 1 LF
    <sha256 hex> SP <path> LF      for each file, sorted by the UTF-8 bytes of the path

Every file is presented as one in Git LFS, where its name is its sha256: a client can verify what it caches.
"""

import hashlib
from collections.abc import Iterable, Mapping

COMMIT_DIGITS = 40  # hexadecimal


def commit_id(files: Mapping[str, str]) -> str:
    """Return the commit id of files, given their sha256 hex by path; a path holds no line feed."""
    lines = [f"{files[path]} {path}\n" for path in sorted(files, key=str.encode)]
    return hashlib.sha256("".join(["breadcrumb-commit 1\n", *lines]).encode("utf-8")).hexdigest()[:COMMIT_DIGITS]


def pointer(sha256: str, size: int) -> bytes:
    """Return the Git LFS pointer that stands for a file in a git repository (git-lfs specification, version 1)."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return text.encode("ascii")


def blob_id(raw: bytes) -> str:
    """Return git's object id of a blob."""
    return _object_id("blob", raw)


def tree_id(entries: Iterable[tuple[str, str, bool]]) -> str:
    """Return git's object id of a tree.

    Args:
        entries: (name, object id, whether it is a tree) of each of its entries, in any order.
    """
    in_order = sorted(entries, key=lambda entry: f"{entry[0]}/".encode() if entry[2] else entry[0].encode())
    raw = b"".join(
        (b"40000 " if is_tree else b"100644 ") + name.encode() + b"\0" + bytes.fromhex(object_id)
        for name, object_id, is_tree in in_order
    )
    return _object_id("tree", raw)


def _object_id(kind: str, raw: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(raw)}\0".encode("ascii") + raw, usedforsecurity=False).hexdigest()
