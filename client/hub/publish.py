"""Publishing a release on the Hugging Face Hub: one commit that makes a repository that release, and a tag at it.

Files that the Hub has under the same digest are neither fetched from the registry nor sent again. A run that was killed
resumes: a large file is safe on the Hub once it is there, whether or not it is part of a commit yet.

The Hub's copy differs from the registry's in two files. README.md names the base as the Hub knows it, or does not
name it: a model's name here may be somebody else's there. breadcrumbs.json has what `crumb verify` needs. Evaluations
are those of the card, in its model-index; `.eval_results/`, the Hub's newer form, is left to those who measured, since
it takes only benchmarks registered on the Hub, by ids that a registry does not know.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.actions.pulling.pull import QUIET, pull
from client.actions.snapshots import find_snapshot
from client.actions.transfers import download_snapshot
from client.actions.verify import CARD
from client.api.client import Client
from client.hub.repos import (
    Content,
    compare,
    connect_hub,
    find_repo,
    has_tag,
    holds,
    is_repo,
    list_files,
    parse_hub,
    send,
)
from client.machine import config
from client.machine.folders import inside
from client.machine.hub_errors import hub_errors
from client.machine.locks import locked
from client.terminal.console import Console, plain
from registry.errors import DigestMismatch, Forbidden, InvalidRequest, TooLarge, WrongState
from registry.schemas import Model, Release, Snapshot

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoFile

    from registry.documents.manifest import Manifest

RECORD = "breadcrumbs.json"
CARD_BYTES = 2**20
_TAG = re.compile(r"(?![0-9a-f]{40}$)(?!.*\.\.)(?!.*\.(lock)?$)[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True, slots=True)
class Published:
    """A release on the Hub.

    Args:
        url: Of the repository.
        commit: Id of the commit that is the release.
        tag: At that commit; None without a tag.
        sent: Paths of the files that this run added or replaced.
        unchanged: Paths of those that were there.
        removed: Paths of the files that were there and are not part of the release.
    """

    url: str
    commit: str
    tag: str | None
    sent: list[str]
    unchanged: list[str]
    removed: list[str]


def publish(
    client: Client,
    model: str,
    ref: str,
    repo: str,
    *,
    tag: str | None = None,
    tagged: bool = True,
    base_model: str | None = None,
    private: bool = False,
    public: bool = False,
    replace: bool = False,
    keep: Path | None = None,
    console: Console = QUIET,
) -> Published:
    """Make a repository of the Hub the same as a published release; a second run changes nothing.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: A version, or a channel.
        repo: Of the Hub, hf://ORG/NAME; made if it does not exist.
        tag: Name of the tag there; `v` and the version when None.
        tagged: Whether to set a tag.
        base_model: The base on the Hub, ORG/NAME; as the registry knows it when None.
        private: Refuse a public repository.
        public: Allow a public repository for a private model.
        replace: Remove files there even if no release put them there.
        keep: The folder to pull into, and keep; a temporary one in the cache when None.
        console: Where notes and progress go.

    Raises:
        WrongState: The release is not published, the tag points elsewhere, or files that no release put there
            would be removed.
        Forbidden: A private model would become public.
        Unauthenticated: There is no token for the Hub.
        DigestMismatch: The manifest or the commit does not match the release.
    """
    repo = parse_hub(repo)
    if private and public:
        raise InvalidRequest("A repository is private or public; say one of the two.", field="private")
    api = connect_hub(client)
    snapshot = find_snapshot(client, model, ref)
    release, manifest = _check_release(client, snapshot, ref)
    about = client.model(model)
    name = _check_tag(tag or f"v{release.version}") if tagged else None
    source = getattr(about, "source", None)
    base = _base_on_hub(base_model, source)
    if base is None:
        console.note(
            f"Where the base of {model} is on the Hub is not known; --base-model ORG/NAME says so in the card."
        )
    with hub_errors(repo):
        api.whoami()  # a token that is not taken is told now, not after gigabytes
        there = find_repo(api, repo)
    _check_visibility(about, repo, there, private=private, public=public)
    folder = keep or config.cache() / "releases" / str(release.manifest_digest)
    with locked(folder, console, "publish.lock"):
        with hub_errors(repo):
            if there is None:
                api.create_repo(repo, private=True if private else False if public else None, exist_ok=True)
                there = api.model_info(repo)
                _check_visibility(about, repo, there, private=private, public=public)
            known = has_tag(api, repo, name)
            held = list_files(api, repo, name if known else there.sha)
        files = _gather(client, snapshot, folder, held, whole=keep is not None, console=console)
        if CARD in files:
            files[CARD] = _card(files[CARD], model, base)
        files[RECORD] = _content(_record(client.url, manifest, release, source))
        changed, removed = compare(files, held)
        if known:
            changed = [path for path in changed if path != RECORD]  # it may name the registry by another address
            if changed or removed:
                raise WrongState(
                    f"The tag {name} of {repo} on the Hub is not this release: {', '.join([*changed, *removed][:3])} "
                    "differ. Give another --tag, or delete that one there."
                )
        if removed and not replace and RECORD not in held:
            named = ", ".join(removed[:3])
            raise WrongState(f"{repo} on the Hub holds what no release has put there ({named}); --replace removes it.")
        with hub_errors(repo):
            commit = there.sha
            if known:
                commit = api.model_info(repo, revision=name).sha
            elif changed or removed:
                commit = _commit(api, repo, there.sha, files, changed, removed, manifest, console)
            if name is not None and not known:
                api.create_tag(repo, tag=name, revision=commit)
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    unchanged = sorted(files.keys() - set(changed))
    return Published(f"{api.endpoint}/{repo}", str(commit), name, changed, unchanged, removed)


def _commit(
    api: "HfApi",
    repo: str,
    parent: str | None,
    files: Mapping[str, Content],
    changed: Sequence[str],
    removed: Sequence[str],
    manifest: "Manifest",
    console: Console,
) -> str:
    """Make the repository the release, check that it is, and return the commit's id."""
    title = f"{manifest.model} {manifest.version}"
    words = f"recipe {manifest.recipe.digest}\nweights {manifest.weights_digest}"
    with console.progress(f"sending {title} to {repo}") as progress:
        commit = send(api, repo, parent, {path: files[path] for path in changed}, removed, title, words, progress)
    if any(compare(files, list_files(api, repo, commit))):
        raise DigestMismatch(f"The commit {commit} of {repo} on the Hub is not what was sent; do not use it.")
    return commit


def _check_release(client: Client, snapshot: Snapshot, ref: str) -> "tuple[Release, Manifest]":
    """Return the release of a snapshot and its manifest, once both name the same files."""
    from registry.documents.manifest import read_manifest

    model = snapshot.model
    if snapshot.release is None:
        raise InvalidRequest(f"{model}@{ref} is not a release; `crumb release list {model}` shows them.", field="ref")
    release = client.release(model, snapshot.release)
    subject = f"{model}@{release.version}"
    if release.state == "yanked":
        raise WrongState(f"{subject} was yanked ({plain(release.yank_reason or 'no reason')}) and is not published.")
    if release.state != "published":
        raise WrongState(
            f"{subject} is a {release.state}; run `crumb release publish {model} {release.version}` first."
        )
    raw = client.manifest(model, release.version)
    manifest = read_manifest(raw)
    files = {(file.path, file.sha256, file.size) for file in manifest.files}
    named = (manifest.model, manifest.version, manifest.weights_digest, hashlib.sha256(raw).hexdigest())
    if named != (model, snapshot.release, snapshot.weights_digest, release.manifest_digest) or files != {
        (file.path, file.sha256, file.size) for file in snapshot.files
    }:
        raise DigestMismatch(
            f"The manifest of {subject} does not name the files that the registry does; tell the operator."
        )
    return release, manifest


def _base_on_hub(given: str | None, source: object) -> str | None:
    if given is not None:
        return parse_hub(given if given.startswith("hf://") else f"hf://{given}")
    if not isinstance(source, str) or not source.startswith("hf://"):
        return None
    repo = source.removeprefix("hf://").partition("@")[0]
    return repo if is_repo(repo) else None


def _check_tag(tag: str) -> str:
    if not _TAG.fullmatch(tag):
        raise InvalidRequest(f"{tag!r} cannot be the name of a tag; write it like v1.2.0.", field="tag")
    return tag


def _check_visibility(about: Model, repo: str, there: "ModelInfo | None", *, private: bool, public: bool) -> None:
    """Check that no private model becomes public; also for a repository that was just made.

    Raises:
        Forbidden: A private model would become public.
    """
    open_there = there is not None and there.private is not True
    if private and open_there:
        raise Forbidden(f"{repo} is public on the Hub; make it private there first, or leave out --private.")
    if about.visibility == "private" and not (private or public) and (there is None or open_there):
        raise Forbidden(
            f"{about.name} is private, and {repo} on the Hub would be public: say --private, or --public if everybody "
            "may have it."
        )


def _gather(
    client: Client,
    snapshot: Snapshot,
    folder: Path,
    held: "Mapping[str, RepoFile]",
    *,
    whole: bool,
    console: Console,
) -> dict[str, Content]:
    """Download the files of a release that the Hub does not have, and return all of them by path."""
    paths = [file.path for file in snapshot.files]
    missing = [file.path for file in snapshot.files if not holds(held.get(file.path), file.sha256)]
    if whole or any(path.endswith(".safetensors") for path in missing):
        pull(client, snapshot.model, snapshot.ref, folder, console=console)
    else:
        for warning in snapshot.warnings:
            console.note(f"Warning: {plain(warning)}")
        with console.progress(f"pulling {snapshot.model}") as progress:
            download_snapshot(client, snapshot, folder, paths=missing, progress=progress)
    targets = inside(folder, paths)
    return {
        file.path: Content(file.sha256, file.size, target) for file, target in zip(snapshot.files, targets, strict=True)
    }


def _content(raw: bytes) -> Content:
    return Content(hashlib.sha256(raw).hexdigest(), len(raw), raw)


def _card(card: Content, model: str, base: str | None) -> Content:
    """Return a release's card for the Hub: its base is a repository there, or not named."""
    from huggingface_hub import ModelCard

    if card.size > CARD_BYTES:
        raise TooLarge(f"The card of {model} is longer than the {CARD_BYTES} bytes that it may have.")
    text = card.read().decode("utf-8", "replace")
    try:
        on_hub = ModelCard(text)
        named = on_hub.data.get("base_model")
        if base is not None:
            on_hub.data["base_model"] = [base]
        elif named in (model, [model]):
            on_hub.data.pop("base_model")
            on_hub.data.pop("base_model_relation")
        return _content(str(on_hub).encode("utf-8"))
    except Exception as why:  # anything that yaml and the Hub's library raise for a card written by hand
        words = plain(str(why))[:200]
        raise InvalidRequest(f"The card of {model} has front matter that the Hub does not take: {words}.") from why


def _record(registry: str, manifest: "Manifest", release: Release, source: object) -> bytes:
    """Return breadcrumbs.json: the release and what it is made of."""
    document = {
        "schema": 1,
        "registry": registry,
        "model": manifest.model,
        "version": manifest.version,
        "manifest": release.manifest_digest,
        "recipe": manifest.recipe.digest,
        "alpha": manifest.recipe.alpha,
        "base": manifest.base,
        "base_source": source if isinstance(source, str) else None,
        "weights_digest": manifest.weights_digest,
        "patches": [
            {
                "sha256": patch.sha256,
                "weight": patch.weight,
                "number": patch.number,
                "revision": patch.revision,
                "author": patch.author,
            }
            for patch in manifest.patches
        ],
        "verify": f"crumb verify DIR {manifest.model}@{manifest.version} --recompose",
    }
    return (json.dumps(document, indent=2) + "\n").encode("ascii")
