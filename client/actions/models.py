"""Models: create one, pinned to a base that is sent from here or that the registry fetches from a Hub.

    folder listed and headers checked here -> every file uploaded -> model created -> its import awaited
    hf://org/name@revision                                        -> model created -> its import awaited

It may be run again at any time: bytes that are there already are not sent again, and the answer is the same.
"""

import contextlib
from pathlib import Path

from client.actions.jobs import watch
from client.actions.push import send
from client.api.client import Client
from client.machine.folders import model_files
from client.machine.patch_files import open_file
from client.machine.sources import resolve
from client.terminal.addresses import check_model
from client.terminal.console import Console
from registry.breadcrumbs.diffing.bases import refuse_unfit
from registry.breadcrumbs.formats.checkpoint import CONFIG_BYTES, list_files
from registry.breadcrumbs.formats.weight_files import (
    WeightFiles,
    find_weights,
    read_json,
    require_whole,
    tell_left_out,
)
from registry.errors import InvalidCheckpoint, InvalidRequest, NotFound, WrongState
from registry.files.folders import CONFIG
from registry.files.kinds import name_kind
from registry.schemas import Model

QUIET = Console(quiet=True)
SOURCE = "hf://"
SHOWN = 5  # names of files that a note lists


def create(
    client: Client,
    name: str,
    base: str | Path,
    *,
    card: Path | None = None,
    copy: bool = False,
    private: bool = False,
    license: str | None = None,
    wait: bool = True,
    console: Console = QUIET,
) -> Model:
    """Create a model pinned to a base.

    Args:
        client: The registry.
        name: NS/NAME.
        base: A folder, a .safetensors file or a Hub id, whose files are sent from here; hidden files and pickles are
            not. Or `hf://org/name@revision`, which the registry fetches, so that nothing goes through this machine.
        card: Sent as README.md, in place of the folder's own; not with hf://.
        copy: With hf://, whether the registry keeps the weights, too; else they stay at the Hub.
        private: Whether only members may see the model.
        license: Of the base, as the Hub calls it; that of the card when None.
        wait: Whether to wait until the registry has checked the files.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: A card was given with hf://, or a copy asked for without it.
        NotFound: There is no such base or card.
        InvalidCheckpoint: A weight file is not sound.
        Unauthenticated: There is no token, or it is not valid.
        WrongState: Somebody else has a model of this name.
        JobFailed: The registry could not import the base.
    """
    check_model(name)
    visibility = "private" if private else "public"
    if isinstance(base, str) and base.startswith(SOURCE):
        if card is not None:
            raise InvalidRequest("A base from a Hub keeps its own card; leave --card out.", field="card")
        _check_free(client, name)
        model = client.create_model(name, source=base, copy=copy, visibility=visibility, license=license)
        return _wait_for_import(client, model, console) if wait else model
    if copy:
        raise InvalidRequest(
            f"--copy is for bases like hf://org/name@revision; the files of {base} are sent anyway.", field="copy"
        )
    files = _list_files(resolve(base, quiet=console.quiet), card, console)
    _check_free(client, name)
    digests = {path: send(client, file, console, path)[0] for path, file in files.items()}
    model = client.create_model(name, digests, visibility=visibility, license=license)
    return _wait_for_import(client, model, console) if wait else model


def _list_files(base: Path, card: Path | None, console: Console) -> dict[str, Path]:
    """Return the files to send (path in the model -> file), with sound weight files."""
    if kind := name_kind(base):
        raise InvalidCheckpoint(kind)
    if base.is_dir():
        files, left_out = model_files(base)
        if left_out:
            more = f" and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
            console.note(f"Not sent (hidden or pickled): {', '.join(left_out[:SHOWN])}{more}.")
        weights = find_weights(list_files(base))
        if copies := [path for path in weights.left_out if path in files]:
            console.note(tell_left_out(copies))
    else:
        require_whole(base)
        files = {"model.safetensors": base}
        weights = WeightFiles(files)
    if card is not None:
        if not card.is_file():
            raise NotFound(f"There is no card {card}.")
        files["README.md"] = card
    names = [name for file in weights.files.values() for name in _check_weights(file)]
    config = read_json(files[CONFIG], CONFIG, CONFIG_BYTES) if CONFIG in files else {}
    refuse_unfit(config, names, str(base))
    return files


def _check_weights(path: Path) -> list[str]:
    """Check the header of a weight file before its gigabytes travel; return the names of its tensors."""
    from registry.breadcrumbs.formats.header import CHECKPOINT_LIMITS
    from registry.breadcrumbs.formats.header_reader import read_header

    with open_file(path) as file:
        size, what = path.stat().st_size, f"Weight file {path.name}"
        return list(read_header(file, size, what, CHECKPOINT_LIMITS, InvalidCheckpoint).entries)


def _check_free(client: Client, name: str) -> None:
    """Check that somebody is logged in and that nobody else has a model of this name, before anything is sent."""
    client.whoami()
    with contextlib.suppress(NotFound):
        if (taken := client.model(name)).role not in ("maintainer", "owner", "admin"):
            raise WrongState(f"The model {name} exists already and belongs to {taken.creator}; choose another name.")


def _wait_for_import(client: Client, model: Model, console: Console) -> Model:
    if model.state == "importing" and model.job is not None:
        watch(client, model.job, f"importing {model.name}", console)
        model = client.model(model.name)
    return model
