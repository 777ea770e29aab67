"""Following: a folder that is what a channel points at, and a command that is run each time that moves.

    <folder>/.crumb/followed.json     what the command was last run for, with success: {"ref", "weights_digest"}
    <folder>/.crumb/attempted.json    what it is being run for, or was without success

Moves come from the registry's list of changes, which answers as soon as there is one. What is pulled is verified, and
nothing is lost by an interruption: whoever begins again compares what the channel points at with what was followed.
"""

import json
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
from client.machine.config import cache, child_environment
from client.machine.folders import OWN, make_own, read_source
from client.terminal.addresses import is_digest, is_version
from client.terminal.console import Console
from registry.errors import (
    BaseMismatch,
    BreadcrumbError,
    CheckpointMismatch,
    InvalidRequest,
    JobFailed,
    NotFound,
    Unavailable,
)
from registry.schemas import Snapshot

QUIET = Console(quiet=True)
FOLLOWED, ATTEMPTED = "followed.json", "attempted.json"
MODEL, DELTA, REF = "{model}", "{delta}", "{ref}"
WAIT = 25.0  # seconds that the registry lets a call wait for a change
PAUSE = 2.0  # seconds between looks where the registry answers at once, or not at all
LONGEST = 300.0  # seconds between attempts after errors, at most
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
    done: Callable[[Followed, bool], None] = lambda followed, ran: None,
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
            same is in $CRUMB_MODEL, $CRUMB_REF and $CRUMB_DELTA; $CRUMB_TOKEN is not passed on.
        once: Whether to end once the command was run for what the reference points at now.
        done: Called when the folder is at another revision, with whether the command was run for it, and succeeded.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: The reference never moves, or the command cannot be run.
        JobFailed: The command failed, and this was to be done once.
        BreadcrumbError: The model cannot be found or pulled, when this begins; later it is noted and tried again.
    """
    if is_version(ref) or is_digest(ref) or ref.startswith("#"):
        raise InvalidRequest(f"{ref} never moves; follow a channel like stable, or main.", field="ref")
    first, pause = True, PAUSE
    while True:
        try:
            since = client.changes(NEWEST, 1).next  # before looking, so that no move falls in between
            found = find_snapshot(client, model, ref, console)
            if not _is_followed(folder, _as_followed(found)):
                ran = _step(client, found, folder, command, console)
                done(_as_followed(found), ran)
        except JobFailed as why:
            if once:
                raise
            console.note(f"{why} It is tried again when {model}@{ref} moves, or when this is started again.")
        except BreadcrumbError as why:
            if once or first:
                raise
            console.note(f"{why} It is tried again in {pause:.0f} seconds.")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)
            continue
        if once:
            return
        first, pause = False, PAUSE
        _await_move(client, model, since, console)


def read_followed(folder: Path) -> Followed | None:
    """Return what the command was last run for; None if it was not, or the record cannot be read."""
    return _read(folder, FOLLOWED)


def _read(folder: Path, name: str) -> Followed | None:
    try:
        return Followed(**json.loads((folder / OWN / name).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _is_followed(folder: Path, wanted: Followed) -> bool:
    """Say whether the folder is at a revision, and the command was last run for that, with success."""
    tried = (folder / OWN / ATTEMPTED).exists()
    return not tried and read_followed(folder) == wanted and _holds(folder, wanted.weights_digest)


def _holds(folder: Path, weights_digest: str) -> bool:
    source = read_source(folder)
    return source is not None and source.complete and source.weights_digest == weights_digest


def _as_followed(snapshot: Snapshot) -> Followed:
    return Followed(snapshot.ref, snapshot.weights_digest)


def _step(client: Client, snapshot: Snapshot, folder: Path, command: Sequence[str], console: Console) -> bool:
    """Bring the folder to a snapshot, and run the command for it; return whether it was run."""
    before, tried, wanted = read_followed(folder), _read(folder, ATTEMPTED), _as_followed(snapshot)
    with_delta = any(DELTA in word for word in command)
    if with_delta and before is not None and tried is not None and tried.weights_digest != wanted.weights_digest:
        pull(client, snapshot.model, snapshot.ref, folder, console=console)
        raise JobFailed(
            f"The command failed for {tried.ref}, so what the engine holds is not known, and it gets no delta to "
            f"{wanted.ref}. {_restart(folder)}"
        )
    if not with_delta:
        pull(client, snapshot.model, snapshot.ref, folder, console=console)
        _attempt(command, folder, wanted, None)
    elif before is None or before.weights_digest == wanted.weights_digest:
        pull(client, snapshot.model, snapshot.ref, folder, console=console)
        _write(folder, FOLLOWED, wanted)
        _remove(folder, ATTEMPTED)
        return False
    else:
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="follow-", dir=cache()) as scratch:
            delta = Path(scratch) / "delta.safetensors"
            _make_delta(client, before, snapshot, folder, delta, console)
            pull(client, snapshot.model, snapshot.ref, folder, console=console)
            _attempt(command, folder, wanted, delta)
    return True


def _make_delta(
    client: Client, before: Followed, snapshot: Snapshot, folder: Path, out: Path, console: Console
) -> None:
    """Write the delta from what the command was last run for.

    Raises:
        JobFailed: There is none.
    """
    start = folder if _holds(folder, before.weights_digest) else (snapshot.model, before.ref)
    try:
        made = make_delta(start, (snapshot.model, snapshot.ref), out, steps=False, client=client, console=console)
        if made.before != before.weights_digest:
            raise BaseMismatch(f"{before.ref} has weights {made.before} by now, and not {before.weights_digest}.")
    except (BaseMismatch, CheckpointMismatch, InvalidRequest, NotFound) as why:
        raise JobFailed(f"No delta leads from {before.ref} to {snapshot.ref}: {why} {_restart(folder)}") from why


def _restart(folder: Path) -> str:
    return (
        f"Remove {folder / OWN / FOLLOWED}, start this again, which pulls the folder, and then start the engine again "
        "from it."
    )


def _attempt(command: Sequence[str], folder: Path, wanted: Followed, delta: Path | None) -> None:
    """Run the command, with a record of it from before to its success."""
    _write(folder, ATTEMPTED, wanted)
    _run(command, folder, wanted.ref, delta)
    _write(folder, FOLLOWED, wanted)
    _remove(folder, ATTEMPTED)


def _run(command: Sequence[str], folder: Path, ref: str, delta: Path | None) -> None:
    words = {MODEL: str(folder), REF: ref, DELTA: str(delta or "")}
    called = list(command)
    for holder, value in words.items():
        called = [word.replace(holder, value) for word in called]
    names = {"CRUMB_MODEL": words[MODEL], "CRUMB_REF": ref, "CRUMB_DELTA": words[DELTA]}
    try:
        code = subprocess.run(called, env=child_environment(**names), check=False).returncode
    except OSError as why:
        raise InvalidRequest(f"{called[0]} cannot be run: {why.strerror}.", field="command") from why
    if code:
        raise JobFailed(f"The command ended with exit code {code} for {ref}.")


def _write(folder: Path, name: str, followed: Followed) -> None:
    own = make_own(folder)
    temporary = own / f"{name}.new"
    temporary.write_text(json.dumps(asdict(followed)), "utf-8")
    temporary.replace(own / name)


def _remove(folder: Path, name: str) -> None:
    (folder / OWN / name).unlink(missing_ok=True)


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
