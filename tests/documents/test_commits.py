"""Commit ids and git object ids: stable, and the same as git computes."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.documents.commits import blob_id, commit_id, pointer, tree_id

A, B = "a" * 64, "b" * 64
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
PATHS = st.text("abcZ09.-_/ éǅ", min_size=1, max_size=12)
FILES = st.dictionaries(PATHS, DIGESTS, max_size=5)


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run git on an empty repository."""
    program = shutil.which("git")
    if program is None:
        pytest.skip("no git here")
    folder = tmp_path_factory.mktemp("git")
    quiet = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "PATH": os.environ["PATH"]}

    def run(*arguments: str, given: bytes = b"") -> str:
        done = subprocess.run([program, *arguments], cwd=folder, input=given, capture_output=True, env=quiet)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    run("init", "-q")
    return run


def test_a_commit_id_is_never_another_one() -> None:
    """Clients cache a file tree by it: a change of these digits breaks every cache."""
    assert commit_id({}) == hashlib.sha256(b"breadcrumb-commit 1\n").hexdigest()[:40]
    listed = f"breadcrumb-commit 1\n{B} README.md\n{A} model.safetensors\n{A} z/é.json\n"
    files = {"z/é.json": A, "model.safetensors": A, "README.md": B}
    assert commit_id(files) == hashlib.sha256(listed.encode()).hexdigest()[:40]
    assert commit_id(files) == "da04d88c215e2caee9cbf10b11156a4f2f8022a1"


@given(files=FILES, order=st.randoms(use_true_random=False))
def test_a_commit_id_is_40_lowercase_hex_digits_whatever_the_order(files, order) -> None:
    pairs = list(files.items())
    order.shuffle(pairs)
    assert commit_id(dict(pairs)) == commit_id(files)
    assert len(commit_id(files)) == 40
    assert set(commit_id(files)) <= set("0123456789abcdef")


@given(files=FILES, path=PATHS, digest=DIGESTS)
def test_any_change_is_another_commit(files, path, digest) -> None:
    changed = {**files, path: digest}
    assert (commit_id(changed) == commit_id(files)) == (changed == files)
    for name in files:
        assert commit_id({other: files[other] for other in files if other != name}) != commit_id(files)
        assert commit_id({f"{other}x" if other == name else other: files[other] for other in files}) != commit_id(files)


def test_two_files_that_swap_their_bytes_are_another_commit() -> None:
    assert commit_id({"a": A, "b": B}) != commit_id({"a": B, "b": A})


@pytest.mark.parametrize("raw", [b"", b"x", b"\0" * 1000, "é\n".encode(), pointer(A, 7)])
def test_a_blob_has_the_name_that_git_gives_it(git: Callable[..., str], raw: bytes) -> None:
    assert blob_id(raw) == git("hash-object", "--stdin", given=raw)


def test_a_tree_has_the_name_that_git_gives_it(git: Callable[..., str]) -> None:
    """Git sorts a folder as if its name ended in a slash: `a.b` comes before the folder `a`, `a0` after it."""
    blob = git("hash-object", "-w", "--stdin", given=b"x")
    empty = git("mktree")
    inner = git("mktree", given=f"100644 blob {blob}\tfile\n".encode())
    assert tree_id([]) == empty
    assert tree_id([("file", blob, False)]) == inner
    entries = [("a", inner, True), ("a.b", blob, False), ("a0", blob, False), ("a-", empty, True), ("B", blob, False)]
    entries += [("é", blob, False), ("z z", inner, True)]
    lines = [f"{'040000 tree' if tree else '100644 blob'} {name}\t{path}\n" for path, name, tree in entries]
    told = git("mktree", given="".join(lines).encode())
    assert tree_id(entries) == tree_id(reversed(entries)) == told


def test_a_tree_of_real_files_has_the_name_that_git_gives_it(git: Callable[..., str], tmp_path: Path) -> None:
    """The pointers as git would have them in its index, folder by folder."""
    paths = ("model.safetensors", "sub/a.json", "sub/deep/b.json", "sub-x")
    for path in paths:
        blob = git("hash-object", "-w", "--stdin", given=pointer(A, len(path)))
        git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    ids = {path: blob_id(pointer(A, len(path))) for path in paths}
    deep = tree_id([("b.json", ids["sub/deep/b.json"], False)])
    sub = tree_id([("a.json", ids["sub/a.json"], False), ("deep", deep, True)])
    top = [("model.safetensors", ids["model.safetensors"], False), ("sub", sub, True), ("sub-x", ids["sub-x"], False)]
    assert tree_id(top) == git("write-tree")


def test_a_pointer_is_what_git_lfs_writes() -> None:
    """https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md"""
    digest = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
    assert pointer(digest, 12345) == (
        b"version https://git-lfs.github.com/spec/v1\n"
        b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
        b"size 12345\n"
    )
