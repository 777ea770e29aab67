"""Following: a folder that is what a channel points at, and a command that is run each time that moves.

    <folder>/.crumb/followed.json    what the command was last run for, with success: {"ref", "weights_digest"}

Moves come from the registry's list of changes, which answers as soon as there is one. What is pulled is verified, and
nothing is lost by an interruption: whoever begins again compares what the channel points at with what was followed.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from client.actions.pulling.deltas import make_delta
from client.actions.pulling.pull import pull
from client.actions.snapshots import find_snapshot
from client.api.client import Client
from client.machine.config import cache
from client.machine.folders import OWN, make_own, read_source
from client.terminal.addresses import is_digest, is_version
from client.terminal.console import Console
from registry.errors import InvalidRequest, JobFailed, Unavailable
from registry.schemas import Snapshot

QUIET = Console(quiet=True)
MODEL, DELTA, REF = "{model}", "{delta}", "{ref}"
WAIT = 25.0  # seconds that the registry lets a call wait for a change
PAUSE = 2.0  # seconds between looks where the registry answers at once, or not at all
NEWEST = 2**62  # a serial beyond all others


@dataclass(frozen=True)
class Followed:
    """What a command was run for: the snapshot's reference and its weights digest."""

    ref: str
    weights_digest: str


def follow(
    client: Client,
    model: str,
    ref: str,
    folder: Path,
    command: Sequence[str],
    *,
    once: bool = False,
    done: Callable[[Followed], None] = lambda _: None,
    console: Console = QUIET,
) -> None:
    """Keep a folder at what a reference points at, and run a command after each move; ends only when interrupted.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: A channel, or `main`.
        folder: It may hold an earlier pull.
        command: What to run, without a shell. `{model}` becomes the folder, `{ref}` the version, and `{delta}` a delta
            file from what the command was last run for; a command with `{delta}` is not run for the first revision. The
            same is in $CRUMB_MODEL, $CRUMB_REF and $CRUMB_DELTA.
        once: Whether to end once the command was run for what the reference points at now.
        done: Called after each run that succeeded.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: The reference never moves, or the command cannot be run.
        JobFailed: The command failed, and this was to be done once.
        BreadcrumbError: The model cannot be found or pulled, when this begins.
    """
    if is_version(ref) or is_digest(ref) or ref.startswith("#"):
        raise InvalidRequest(f"{ref} never moves; follow a channel like stable, or main.", field="ref")
    first = True
    while True:
        since = client.changes(NEWEST, 1).next  # before looking, so that no move falls in between
        try:
            found = find_snapshot(client, model, ref, console)
            if read_followed(folder) != _as_followed(found):
                _step(client, found, folder, command, console)
                done(_as_followed(found))
        except (JobFailed, Unavailable) as why:
            if once or (first and isinstance(why, Unavailable)):
                raise
            console.note(f"{why} It is tried again when {model}@{ref} moves, or when this is started again.")
        if once:
            return
        first = False
        _await_move(client, model, since, console)


def read_followed(folder: Path) -> Followed | None:
    """Return what the command was last run for; None if it was not, or the record cannot be read."""
    try:
        return Followed(**json.loads((folder / OWN / "followed.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _as_followed(snapshot: Snapshot) -> Followed:
    return Followed(snapshot.ref, snapshot.weights_digest)


def _step(client: Client, snapshot: Snapshot, folder: Path, command: Sequence[str], console: Console) -> None:
    """Bring the folder to a snapshot, and run the command for it."""
    before = read_followed(folder)
    if not any(DELTA in word for word in command):
        pull(client, snapshot.model, snapshot.ref, folder, console=console)
        _run(command, folder, snapshot.ref, None)
    elif before is None or before.weights_digest == snapshot.weights_digest:
        pull(client, snapshot.model, snapshot.ref, folder, console=console)
    else:
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="follow-", dir=cache()) as scratch:
            delta = Path(scratch) / "delta.safetensors"
            held = read_source(folder)
            here = held is not None and held.complete and held.weights_digest == before.weights_digest
            start = folder if here else (snapshot.model, before.ref)
            make_delta(start, (snapshot.model, snapshot.ref), delta, steps=False, client=client, console=console)
            pull(client, snapshot.model, snapshot.ref, folder, console=console)
            _run(command, folder, snapshot.ref, delta)
    _write_followed(folder, _as_followed(snapshot))


def _run(command: Sequence[str], folder: Path, ref: str, delta: Path | None) -> None:
    words = {MODEL: str(folder), REF: ref, DELTA: str(delta or "")}
    called = list(command)
    for holder, value in words.items():
        called = [word.replace(holder, value) for word in called]
    names = {"CRUMB_MODEL": words[MODEL], "CRUMB_REF": ref, "CRUMB_DELTA": words[DELTA]}
    try:
        code = subprocess.run(called, env={**os.environ, **names}, check=False).returncode
    except OSError as why:
        raise InvalidRequest(f"{called[0]} cannot be run: {why.strerror}.", field="command") from why
    if code:
        raise JobFailed(f"The command ended with exit code {code} for {ref}.")


def _write_followed(folder: Path, followed: Followed) -> None:
    own = make_own(folder)
    temporary = own / "followed.json.new"
    temporary.write_text(json.dumps(asdict(followed)), "utf-8")
    temporary.replace(own / "followed.json")


def _await_move(client: Client, model: str, since: int, console: Console) -> None:
    """Wait until something has changed in a model that may have moved what its names stand for."""
    lost = False
    while True:
        began = time.monotonic()
        try:
            page = client.changes(since, wait=WAIT)
        except Unavailable as why:
            if not lost:
                console.note(f"{why} It is asked again until it answers.")
            lost = True
            time.sleep(PAUSE)
            continue
        if lost or page.next < since:  # a restart or a restored backup may hide what happened
            return
        since = page.next
        if any(it.model == model and it.action.startswith(("channel.", "release.", "model.")) for it in page.items):
            return
        if not page.items and time.monotonic() - began < PAUSE:
            time.sleep(PAUSE)
