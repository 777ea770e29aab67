"""What a contributor sends: a patch to a model, and a new model with its base.

    push    header and base checked here -> bytes uploaded -> patch created -> the registry's check awaited
    create  folder listed and headers checked here -> every file uploaded -> model created -> its import awaited

Both may be run again at any time: what is there already is not sent again, and the answer is the same.
"""

import contextlib
from pathlib import Path
from typing import BinaryIO

from client.actions.transfers import hash_readable, upload
from client.api.client import Client
from client.machine.folders import model_files
from client.terminal.console import Console, plain
from registry.errors import (
    BaseMismatch,
    InvalidCheckpoint,
    InvalidPatch,
    InvalidRequest,
    JobFailed,
    NotFound,
    WrongState,
)
from registry.schemas import Model, Patch

QUIET = Console(quiet=True)


def patch_base(path: Path) -> str:
    """Return the weights digest of the base that a patch file says it is for, reading nothing but its header."""
    from registry.breadcrumbs.formats.header import PATCH_LIMITS, read_header

    with _open(path) as file:
        metadata = read_header(file, path.stat().st_size, f"Patch {path.name}", PATCH_LIMITS, InvalidPatch).metadata
    if metadata.get("format") != "breadcrumb-patch" or "base" not in metadata:
        raise InvalidPatch(f"{path} is not a breadcrumb patch; make one with `crumb diff`.")
    return metadata["base"]


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
    wait: bool = True,
    console: Console = QUIET,
) -> Patch:
    """Contribute a patch file to a model; run again it goes on, or answers with the same patch.

    Args:
        client: The registry.
        path: The patch file.
        model: NS/NAME.
        title: One line.
        message: A longer text.
        task: What it is for.
        license: Of the patch, as the Hub calls it.
        propose: Whether to ask for review at once.
        update: Number of a patch of yours, to which this is the next revision.
        wait: Whether to wait for the registry's check.
        console: Where notes and progress go.

    Returns:
        The patch; checked unless `wait` is false.

    Raises:
        BaseMismatch: The patch is for another base; nothing was sent, no number is used up.
        InvalidPatch: The registry refuses it, or it is no patch.
    """
    base = patch_base(path)
    me = client.whoami()  # a missing token is told before anything is read
    known = client.model(model)
    if known.base is None:
        raise WrongState(f"{model} is still being imported; push again once `crumb model show {model}` says ready.")
    if base != known.base:
        raise BaseMismatch(
            f"{path.name} was made for the base {base}, but {model} is pinned to {known.base}; "
            f"make the patch again from `crumb pull {model}@base`."
        )
    if refused := _refused_before(client, path, model, me.user):
        console.note(
            f"{model}#{refused.number} was this very file, and refused: {refused.refusal or 'no reason given.'}"
        )
    sha256, _ = _send(client, path, console, path.name)
    if update is not None:
        patch = client.revise_patch(model, update, sha256, title, message=message, license=license)
    else:
        patch = client.create_patch(model, sha256, title, message=message, task=task, license=license, propose=propose)
    same_task = patch.task == task or update is not None
    if (patch.title, patch.message.strip()) != (title.strip(), message.strip()) or not same_task:
        console.note(
            f"This file is already {model}#{patch.number}, titled {plain(patch.title)!r}; that stays as it is."
        )
    return settle(client, patch, console=console) if wait else patch


def _refused_before(client: Client, path: Path, model: str, user: str) -> Patch | None:
    """Return the newest patch of this user that is this very file, when it was refused."""
    same_size = [patch for patch in client.patches(model, author=user, limit=100) if patch.size == path.stat().st_size]
    if not any(patch.check == "refused" for patch in same_size):
        return None  # and the file is not read for it
    sha256 = hash_readable(path)
    newest = next((patch for patch in same_size if patch.sha256 == sha256), None)
    return newest if newest and newest.check == "refused" else None


def settle(client: Client, patch: Patch, *, console: Console = QUIET) -> Patch:
    """Wait for the registry's check of a patch.

    Raises:
        InvalidPatch: It refused the patch; the message says why.
    """
    failure: JobFailed | None = None
    if patch.check == "checking" and patch.job is not None:
        with console.waiting(f"checking #{patch.number}") as progress:
            try:
                client.wait(patch.job, progress=progress, idle=console.idle)
            except JobFailed as error:
                failure = error
        patch = client.patch(patch.model, patch.number)
    if patch.check == "refused":
        raise InvalidPatch(f"{patch.model}#{patch.number} was refused: {patch.refusal or 'no reason given.'}")
    if failure is not None:
        raise failure
    return patch


def create(
    client: Client,
    name: str,
    base: Path,
    *,
    card: Path | None = None,
    private: bool = False,
    license: str | None = None,
    wait: bool = True,
    console: Console = QUIET,
) -> Model:
    """Create a model pinned to the base in a folder (or one .safetensors file).

    Args:
        client: The registry.
        name: NS/NAME.
        base: The folder; hidden files and pickles stay where they are.
        card: Sent as README.md, in place of the folder's own.
        private: Whether only members may see the model.
        license: Of the base, as the Hub calls it; the card's when None.
        wait: Whether to wait until the registry has checked the files.
        console: Where notes and progress go.
    """
    from client.terminal.addresses import check_model

    check_model(name)
    if base.is_dir():
        files, left_out = model_files(base)
        if left_out:
            more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
            console.note(f"Not sent (hidden or pickled): {', '.join(left_out[:5])}{more}.")
    else:
        files = {"model.safetensors": base}
    if card is not None:
        if not card.is_file():
            raise NotFound(f"There is no card {card}.")
        files["README.md"] = card
    for path, file in files.items():
        if path.endswith(".safetensors"):
            check_weights(file)
    check_free(client, name)
    digests = {path: _send(client, file, console, path)[0] for path, file in files.items()}
    model = client.create_model(name, digests, visibility="private" if private else "public", license=license)
    return imported(client, model, console) if wait else model


def create_any(
    client: Client,
    name: str,
    base: str,
    *,
    card: Path | None = None,
    copy: bool = False,
    private: bool = False,
    license: str | None = None,
    wait: bool = True,
    console: Console = QUIET,
) -> Model:
    """Create a model pinned to a base by its name: what `create` takes, a Hub id, or `hf://org/name@revision`.

    Raises:
        InvalidRequest: A card or a copy was asked for where there can be none.
    """
    from client.machine.sources import resolve

    if base.startswith("hf://"):
        if card is not None:
            raise InvalidRequest("A base from a Hub keeps its own card; leave --card out.", field="card")
        return create_from(client, name, base, copy=copy, private=private, license=license, wait=wait, console=console)
    if copy:
        raise InvalidRequest(
            f"--copy is for bases like hf://org/name@revision; the files of {base} are sent anyway.", field="copy"
        )
    path = resolve(base, quiet=console.quiet)
    return create(client, name, path, card=card, private=private, license=license, wait=wait, console=console)


def create_from(
    client: Client,
    name: str,
    source: str,
    *,
    copy: bool = False,
    private: bool = False,
    license: str | None = None,
    wait: bool = True,
    console: Console = QUIET,
) -> Model:
    """Create a model pinned to a base that the registry fetches from a Hub; nothing goes through this machine.

    Args:
        client: The registry.
        name: NS/NAME.
        source: `hf://org/name@revision`.
        copy: Whether the registry keeps the weights; by reference they stay at the Hub.
        private: Whether only members may see the model.
        license: Of the base, as the Hub calls it; the card's when None.
        wait: Whether to wait until the registry has fetched and checked the files.
        console: Where notes and progress go.
    """
    from client.terminal.addresses import check_model

    check_model(name)
    check_free(client, name)
    visibility = "private" if private else "public"
    model = client.create_model(name, source=source, copy=copy, visibility=visibility, license=license)
    return imported(client, model, console) if wait else model


def check_free(client: Client, name: str) -> None:
    """See that somebody is signed in, and that no model of others has a name, before anything is read.

    Raises:
        WrongState: One has.
    """
    client.whoami()
    with contextlib.suppress(NotFound):
        if (taken := client.model(name)).role not in ("maintainer", "owner", "admin"):
            raise WrongState(f"{name} is there already and is {taken.creator}'s; choose another name.")


def imported(client: Client, model: Model, console: Console) -> Model:
    """Wait until the registry has checked the base of a model."""
    if model.state == "importing" and model.job is not None:
        with console.waiting(f"importing {model.name}") as progress:
            client.wait(model.job, progress=progress, idle=console.idle)
        model = client.model(model.name)
    return model


def check_weights(path: Path) -> None:
    """See that a weight file's header is sound before its gigabytes travel."""
    from registry.breadcrumbs.formats.header import CHECKPOINT_LIMITS, read_header

    with _open(path) as file:
        read_header(file, path.stat().st_size, f"Weight file {path.name}", CHECKPOINT_LIMITS, InvalidCheckpoint)


def _send(client: Client, path: Path, console: Console, name: str) -> tuple[str, int]:
    with console.progress(f"hashing {name}") as hashing, console.progress(f"sending {name}") as sending:
        return upload(client, path, progress=sending, hashing=hashing)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as why:
        raise NotFound(f"There is no file {path}.") from why
    except OSError as why:
        raise InvalidRequest(f"{path} cannot be read: {why.strerror}.") from why
