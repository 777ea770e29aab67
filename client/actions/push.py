"""Push: a patch file to a model, checked here, uploaded, and checked by the registry.

    header and base checked here -> bytes uploaded -> patch created -> the registry's check awaited

It may be run again at any time: bytes that are there already are not sent again, and the answer is the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.actions.jobs import watch
from client.actions.transfers import hash_readable, upload
from client.api.client import Client
from client.machine.patch_files import patch_base
from client.terminal.console import Console, plain
from registry.errors import BaseMismatch, InvalidPatch, JobFailed, WrongState
from registry.schemas import Patch

QUIET = Console(quiet=True)


@dataclass(frozen=True, slots=True)
class Target:
    """A model that something is pushed to.

    Args:
        model: Its name.
        base: The weights digest of its base.
        user: Who is logged in.
        mask: How its maintainers want patches made where their authors do not say.
    """

    model: str
    base: str
    user: str
    mask: Mapping[str, str]


def push(
    client: Client,
    path: Path,
    model: str,
    title: str,
    *,
    message: str = "",
    task: str | None = None,
    license: str | None = None,
    propose: bool = False,
    update: int | None = None,
    files: Mapping[str, Path] | None = None,
    wait: bool = True,
    console: Console = QUIET,
) -> Patch:
    """Contribute a patch file to a model; run again it resumes, or answers with the same patch.

    Args:
        client: The registry.
        path: The patch file.
        model: NS/NAME.
        title: One line.
        message: A longer text.
        task: What it is for, like math or code/python.
        license: Of the patch, as the Hub calls it.
        propose: Whether to ask for review at once.
        update: Number of a patch of yours, to which this is the next revision.
        files: Files that belong to it beside the weights, by their paths in a model folder.
        wait: Whether to wait for the registry's check.
        console: Where notes and progress go.

    Returns:
        The patch; checked unless `wait` is false.

    Raises:
        Unauthenticated: There is no token, or it is not valid.
        BaseMismatch: The patch is for another base; nothing was sent, no number is used up.
        InvalidPatch: The file is not a patch, or the registry refused it.
        WrongState: The model is still being imported.
    """
    base = patch_base(path)
    target = look_up(client, model)
    return push_to(
        client,
        target,
        path,
        base,
        title,
        message=message,
        task=task,
        license=license,
        propose=propose,
        update=update,
        files=files,
        wait=wait,
        console=console,
    )


def push_to(
    client: Client,
    target: Target,
    path: Path,
    base: str,
    title: str,
    *,
    message: str,
    task: str | None,
    license: str | None,
    propose: bool,
    update: int | None,
    files: Mapping[str, Path] | None = None,
    wait: bool,
    console: Console,
) -> Patch:
    """Contribute a patch file, made for a base, to a model that was looked up; as `push`."""
    model, pinned = target.model, target.base
    if base != pinned:
        raise BaseMismatch(
            f"{path.name} was made for the base {base}, but {model} is pinned to {pinned}; "
            f"make the patch again from `crumb pull {model}@base`."
        )
    if refused := _refused_before(client, path, model, target.user):
        console.note(
            f"{model}#{refused.number} was this very file, and refused: {refused.refusal or 'no reason given.'}"
        )
    sha256, _ = send(client, path, console, path.name)
    sent = {name: send(client, file, console, name)[0] for name, file in (files or {}).items()}
    if update is not None:
        patch = client.revise_patch(model, update, sha256, title, message=message, license=license, files=sent)
    else:
        patch = client.create_patch(
            model, sha256, title, message=message, task=task, license=license, propose=propose, files=sent
        )
    if sent != {file.path: file.sha256 for file in patch.files or ()}:
        console.note(f"This file is already {model}#{patch.number}; the files that came with it stay as they are.")
    same_task = patch.task == task or update is not None
    if (patch.title, patch.message.strip()) != (title.strip(), message.strip()) or not same_task:
        console.note(
            f"This file is already {model}#{patch.number}, titled {plain(patch.title)!r}; that stays as it is."
        )
    if wait:
        patch = settle(client, patch, console=console)
    if propose and patch.author == target.user and patch.state in ("draft", "changes_requested"):
        patch = client.propose(model, patch.number)  # it was pushed before, without; or this is its next revision
    return patch


def settle(client: Client, patch: Patch, *, console: Console = QUIET) -> Patch:
    """Wait for the registry's check of a patch.

    Raises:
        InvalidPatch: The registry refused the patch; the message has its reason.
        JobFailed: The check failed without a verdict.
    """
    failure: JobFailed | None = None
    if patch.check == "checking" and patch.job is not None:
        try:
            watch(client, patch.job, f"checking #{patch.number}", console)
        except JobFailed as error:
            failure = error
        patch = client.patch(patch.model, patch.number)
    if patch.check == "refused":
        raise InvalidPatch(f"{patch.model}#{patch.number} was refused: {patch.refusal or 'no reason given.'}")
    if failure is not None:
        raise failure
    return patch


def look_up(client: Client, model: str) -> Target:
    """Return what has to be known of a model before something is pushed to it.

    Raises:
        Unauthenticated: There is no token, or it is not valid.
        NotFound: There is no such model.
        WrongState: The model is still being imported.
    """
    me = client.whoami()  # a missing token is reported before anything is read
    target = client.model(model)
    if target.base is None:
        raise WrongState(f"{model} is still being imported; push again once `crumb model show {model}` says ready.")
    return Target(model, target.base, me.user, target.mask)


def send(client: Client, path: Path, console: Console, name: str) -> tuple[str, int]:
    """Upload a file with progress bars, and return its sha256 (hex) and size."""
    with console.progress(f"hashing {name}") as hashing, console.progress(f"sending {name}") as sending:
        return upload(client, path, progress=sending, hashing=hashing)


def _refused_before(client: Client, path: Path, model: str, user: str) -> Patch | None:
    """Return the newest patch of this user that is this very file, if it was refused."""
    same_size = [patch for patch in client.patches(model, author=user, limit=100) if patch.size == path.stat().st_size]
    if not any(patch.check == "refused" for patch in same_size):
        return None  # and the file is not read for it
    sha256 = hash_readable(path)
    newest = next((patch for patch in same_size if patch.sha256 == sha256), None)
    return newest if newest and newest.check == "refused" else None
