"""Repositories on the Hugging Face Hub: their files, how those differ from a release, and the commit that changes them.

The Hub names large files by sha256 and small ones by git's name for them, so nothing is read back to compare.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from client.api.client import Client
from client.machine import config
from registry.errors import InvalidRequest, TooLarge, Unauthenticated, WrongState
from registry.files.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoFile

HUB = "https://huggingface.co"
KEPT = ".gitattributes"  # the Hub's own file: which files are large there
ALONE = 4 * 2**20  # bytes: a file of this size or more is sent by itself, so that progress is seen and kept
REGULAR = 16 * 2**20  # bytes: the Hub names larger files by their sha256
MOST_FILES = 100_000
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Content:
    """A file as it must be on the Hub: its bytes, or where they are once downloaded."""

    sha256: str
    size: int
    source: Path | bytes

    def read(self) -> bytes:
        """Return the bytes."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


def parse_hub(text: str) -> str:
    """Return ORG/NAME of hf://ORG/NAME.

    Raises:
        InvalidRequest: The text is not of that form.
    """
    repo = text.removeprefix("hf://")
    if repo == text or not is_repo(repo):
        raise InvalidRequest(f"{text!r} is not a repository of the Hub; write it like hf://org/name.", field="repo")
    return repo


def is_repo(text: str) -> bool:
    """Return whether a text is of the form ORG/NAME."""
    return _REPO.fullmatch(text) is not None


def connect_hub(client: Client) -> "HfApi":
    """Return the interface to the Hub at $HF_ENDPOINT, with the Hub's own token, never the registry's.

    Raises:
        InvalidRequest: HF_ENDPOINT names the registry itself.
        Unauthenticated: There is no token for the Hub.
    """
    import httpx2
    from huggingface_hub import HfApi, get_token

    from client.api.http import user_agent
    from client.machine.config import clean_url

    endpoint = clean_url(os.environ.get("HF_ENDPOINT", "").strip() or HUB)
    here, there = httpx2.URL(client.url), httpx2.URL(endpoint)
    if (here.scheme, here.host, here.port) == (there.scheme, there.host, there.port):
        raise InvalidRequest(
            f"HF_ENDPOINT is the registry at {client.url} itself, which takes no uploads from the Hub's clients; unset "
            "it to publish on huggingface.co."
        )
    token = get_token()
    if token is None:
        raise Unauthenticated("There is no token for the Hub; run `hf auth login`, or set HF_TOKEN.")
    ours = None
    with suppress(Unauthenticated):
        ours = config.current().token
    if token == ours:
        raise Unauthenticated(
            f"The token for the Hub is the one for {client.url}, and is not sent elsewhere; set HF_TOKEN to the Hub's."
        )
    return HfApi(endpoint=endpoint, token=token, user_agent=user_agent())


def find_repo(api: "HfApi", repo: str) -> "ModelInfo | None":
    """Return a repository's information; None if it does not exist or you may not see it."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return api.model_info(repo)
    except GatedRepoError:  # also a RepositoryNotFoundError, but the repository exists
        raise
    except RepositoryNotFoundError:
        return None


def has_tag(api: "HfApi", repo: str, tag: str | None) -> bool:
    """Return whether a repository has a tag.

    Raises:
        WrongState: The repository has a branch of that name, which would be taken for the tag.
    """
    refs = api.list_repo_refs(repo)
    if tag in {branch.name for branch in refs.branches}:
        raise WrongState(f"{repo} on the Hub has a branch {tag}; give another --tag.")
    return tag in {known.name for known in refs.tags}


def list_files(api: "HfApi", repo: str, revision: str | None) -> "dict[str, RepoFile]":
    """Return the files of a repository at a revision, by path.

    Raises:
        TooLarge: The repository has too many files.
    """
    from huggingface_hub.hf_api import RepoFile

    entries = list(islice(api.list_repo_tree(repo, revision=revision, recursive=True), MOST_FILES + 1))
    if len(entries) > MOST_FILES:
        raise TooLarge(f"{repo} on the Hub holds more than {MOST_FILES} files; choose another repository.")
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def compare(files: Mapping[str, Content], held: "Mapping[str, RepoFile]") -> tuple[list[str], list[str]]:
    """Return the paths of files that the Hub lacks or has otherwise, and of those that it has beside them."""
    changed = [path for path, wanted in sorted(files.items()) if not _same(held.get(path), wanted)]
    return changed, sorted(held.keys() - files.keys() - {KEPT})


def _same(entry: "RepoFile | None", wanted: Content) -> bool:
    from huggingface_hub.utils.sha import git_hash

    if entry is None or entry.lfs is not None:
        return holds(entry, wanted.sha256)
    if entry.size != wanted.size or wanted.size > REGULAR:
        return False
    return entry.blob_id == git_hash(wanted.read())


def holds(entry: "RepoFile | None", sha256: str) -> bool:
    """Return whether the Hub has a large file with this digest."""
    return entry is not None and entry.lfs is not None and entry.lfs.sha256 == sha256


def send(
    api: "HfApi",
    repo: str,
    parent: str | None,
    files: Mapping[str, Content],
    removed: Sequence[str],
    title: str,
    description: str,
    progress: Progress,
) -> str:
    """Send files and commit them, together with the removal of others, on top of the commit `parent` and no other.

    Returns:
        The id of the new commit.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    small, groups, total, done = [], [], sum(content.size for content in files.values()), 0
    for path, content in files.items():
        addition = CommitOperationAdd(path, content.source)
        addition.upload_info.sha256 = bytes.fromhex(content.sha256)  # known, so it is not computed again
        if content.size < ALONE:
            small.append(addition)
        else:
            groups.append([addition])
    groups = [small, *groups] if small else groups
    with _no_bars():
        for group in groups:
            # Without gitignore_content the Hub would silently leave out files that a .gitignore there names.
            api.preupload_lfs_files(repo, group, free_memory=False, gitignore_content="")
            done += sum(addition.upload_info.size for addition in group)
            progress(done, total)
        commit = api.create_commit(
            repo,
            [*(one for group in groups for one in group), *(CommitOperationDelete(path) for path in removed)],
            commit_message=title,
            commit_description=description,
            parent_commit=parent,
        )
    return commit.oid


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the Hub's library from drawing over our progress bars."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    if not before:
        disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
