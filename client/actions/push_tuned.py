"""Push of a tuned model: its patch is made here, pushed, and let go of once the registry has it.

    whoami, pinned base -> base from the cache or the registry -> diff into a draft -> push -> draft removed, or kept

Run again after an interruption, it goes on with the draft, which is named by what it was made of: the base, the files
that were compared, with their sizes and times, and the options of the diff. A draft that nobody goes on with is removed
by a later push, $CRUMB_DRAFT_DAYS after it was made.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from inspect import signature
from math import inf
from pathlib import Path
from typing import Any

from client.actions.composing import compose_here, fetch_base
from client.actions.patching import check_out, companion_of, diff, dtypes_of
from client.actions.push import Target, look_up, push, push_to
from client.actions.snapshots import find_snapshot
from client.api.client import Client
from client.machine.config import cache
from client.machine.folders import compare_beside
from client.machine.locks import locked, trying
from client.machine.patch_files import is_patch, patch_base
from client.machine.sources import resolve
from client.terminal.console import Console, plain
from registry import version
from registry.documents.trailers import of_mask
from registry.errors import BaseMismatch, InvalidInput, InvalidRequest, StorageFailed
from registry.files.beside import COMPANION, MOST_BYTES, MOST_FILES, FileChange, check_files, is_beside, may_come
from registry.files.durable import storage_error
from registry.files.folders import is_pickle
from registry.schemas import Patch, Snapshot

QUIET = Console(quiet=True)
SHOWN_KEYS = 8  # of a config that a note names
DRAFTS = "drafts"  # folder of the cache
ORIGIN = ".origin"  # ending of a folder there with what a model was tuned from
DRAFT_DAYS = 14
DAY = 86400.0  # seconds
READ = (".safetensors", ".json")  # suffixes of the files that a diff reads
OPTIONS = frozenset(signature(diff).parameters) - {"base", "tuned", "out", "named", "console"}
"""Names of the options of a diff."""


def push_tuned(
    client: Client,
    tuned: str | Path,
    model: str,
    title: str,
    *,
    base: str | Path | None = None,
    tuned_from: str | None = None,
    keep: Path | None = None,
    weights_only: bool = False,
    drafts: Path | None = None,
    options: Mapping[str, Any] | None = None,
    message: str = "",
    task: str | None = None,
    license: str | None = None,
    propose: bool = False,
    update: int | None = None,
    wait: bool = True,
    console: Console = QUIET,
) -> Patch:
    """Make the patch of a tuned model and push it, with the files beside the weights that differ from the base's.

    A patch file is pushed as it is.

    Args:
        client: The registry.
        tuned: The model after: a .safetensors file, a model folder, an adapter, or (as text) a Hub id; or a patch file.
        model: NS/NAME.
        title: One line.
        base: The model before, likewise; when None the registry's, from the cache if it is there.
        tuned_from: A release, or another revision of the model, that `tuned` was tuned from in place of the base; it is
            composed here, and the patch holds only what was learned on top of it.
        keep: Where to keep the patch file that is made.
        weights_only: Whether to leave out the files beside the weights.
        drafts: The folder of patches that are under way; one in the cache when None.
        options: Options of `diff` by name; those of the mask that are not given are as the model's settings say.
        message: As of `push`, like all that follow.
        task: See `push`.
        license: See `push`.
        propose: See `push`.
        update: See `push`.
        wait: See `push`.
        console: See `push`.

    Raises:
        InvalidRequest: An option is for a diff, and `tuned` is a patch already; or `keep` cannot be written there.
        CheckpointMismatch: The tuned model does not fit its base.
        BaseMismatch: The given base is not the one that the model is pinned to; nothing was sent.
        InvalidPatch: Nothing changed, or the registry refused the patch.
        BreadcrumbError: What else `diff` and `push` raise.
    """
    options = options or {}
    about: dict[str, Any] = {
        "message": message, "task": task, "license": license, "propose": propose, "update": update, "wait": wait,
        "console": console,
    }  # fmt: skip
    local = Path(tuned).expanduser()
    if local.is_file() and not is_pickle(local.name) and is_patch(local):
        others = [name for name in options if name != "companion"]
        named = {"a base": base, "tuned_from": tuned_from, "keep": keep}
        given = [*(name for name, value in named.items() if value is not None), *others]
        if given:
            raise InvalidRequest(f"{tuned} is a patch already, and is pushed as it is; leave out {', '.join(given)}.")
        own = {COMPANION: companion_of(local)} if options.get("companion") else {}
        if own and not companion_of(local).is_file():
            raise InvalidRequest(f"There is no {companion_of(local)}; `crumb diff --companion` writes it.")
        return push(client, local, model, title, files=own, **about)
    target = look_up(client, model)
    if base is not None and tuned_from is not None:
        raise InvalidRequest("What it was tuned from is composed of the registry's base; leave the base out.")
    origin = None if tuned_from is None else find_snapshot(client, model, tuned_from, console)
    settings = {name: value for name, value in of_mask(target.mask).items() if name not in options}
    if settings:
        told = ", ".join(f"{name} {value}" for name, value in settings.items())
        console.note(plain(f"By the settings of {model}: {told}. Options that are given win."))
    options = {**settings, **options}
    after = resolve(tuned, quiet=console.quiet)
    before = None if base is None else resolve(base, quiet=console.quiet)
    if keep is not None:
        check_out(keep, after, *([] if before is None else [before]))
    made_of = [target.base, origin.ref] if origin else target.base if before is None else _stamps(before)
    name = _name(made_of, _stamps(after), options)
    folder = drafts or cache() / DRAFTS
    draft = folder / f"{name}.safetensors"
    sweep_drafts(folder)
    with locked(folder, console, f"{name}.lock"):
        if draft.is_file() and (not options.get("companion") or companion_of(draft).is_file()):
            console.note("The patch was made before, by a run that did not end; it is pushed now.")
        else:
            companion_of(draft).unlink(missing_ok=True)  # of a draft that is gone
            files = before or fetch_base(client, model, target.base, console=console)
            with _composed(client, origin, files, folder / f".{name}{ORIGIN}", console) as compared:
                made = diff(compared, after, draft, named=target.base if origin else None, console=console, **options)
            console.note(plain("; ".join(f"{name} {value}" for name, value in made.rows() if name in SAID)))
        try:
            sound = _checked_base(draft, target, base)
            own = {COMPANION: companion_of(draft)} if companion_of(draft).is_file() else {}
            beside = {} if weights_only else _beside(client, model, target.base, after, own, console)
            patch = push_to(client, target, draft, sound, title, files={**beside, **own}, **about)
        except InvalidInput:  # another run would end the same way
            _let_go(draft, keep)
            raise
        _let_go(draft, keep)
    return patch


@contextmanager
def _composed(
    client: Client, origin: Snapshot | None, base: Path | Mapping[str, Path], folder: Path, console: Console
) -> Iterator[Path | Mapping[str, Path]]:
    """Yield the files of what a model was tuned from: the base's, with the weights of a composition in their places.

    Args:
        client: The registry.
        origin: The composition; None for the base itself.
        base: The files of the base.
        folder: Where the composition's weights are until the end; what a killed run left there is removed.
        console: Where notes and progress go.
    """
    if origin is None or origin.recipe is None or isinstance(base, Path):
        yield base
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        compose_here(client, origin, folder, base=base, same_files=True, console=console)
        yield {path: folder / path if (folder / path).exists() else file for path, file in base.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_drafts(folder: Path) -> None:
    """Remove the drafts of a folder that are older than $CRUMB_DRAFT_DAYS, but none that another crumb works on.

    What a killed diff left half written goes as well, after a day at least.

    Raises:
        InvalidRequest: The setting is not a number of days.
    """
    days = draft_days()
    oldest = time.time() - days * DAY
    for partial in folder.glob(".*.tmp"):
        with suppress(OSError):
            if partial.stat().st_mtime < time.time() - max(days, 1) * DAY:
                partial.unlink()
    for left in folder.glob(f".*{ORIGIN}"):
        with suppress(OSError), trying(folder, f"{left.stem[1:]}.lock") as held:
            if held:
                shutil.rmtree(left, ignore_errors=True)
    for draft in folder.glob("*.safetensors"):
        with suppress(OSError):  # another crumb may have removed it
            if draft.stat().st_mtime < oldest:
                with trying(folder, f"{draft.stem}.lock") as held:
                    if held:
                        draft.unlink()


def draft_days() -> float:
    """Return the days for which drafts are kept: $CRUMB_DRAFT_DAYS.

    Raises:
        InvalidRequest: It is not a number of days.
    """
    text = os.environ.get("CRUMB_DRAFT_DAYS", "").strip() or str(DRAFT_DAYS)
    try:
        days = float(text)
    except ValueError:
        days = -1
    if not 0 <= days < inf:
        raise InvalidRequest(f"CRUMB_DRAFT_DAYS cannot be {text!r}; it is a number of days, like {DRAFT_DAYS}.")
    return days


SAID = ("adapter", "changes", "size", "companion")  # of what `crumb diff` shows


def _beside(
    client: Client, model: str, digest: str, tuned: Path, own: Mapping[str, Path], console: Console
) -> dict[str, Path]:
    """Return the files beside the weights of a tuned model that differ from those of the registry's base, and say so.

    Those that a registry does not take, or not together with what comes with the patch anyhow, are left out.
    """
    if not tuned.is_dir():
        return {}
    base = fetch_base(client, model, digest, only=is_beside, console=console)
    chosen: dict[str, FileChange] = {}
    left_out = []
    room = MOST_BYTES - sum(file.stat().st_size for file in own.values())
    for change in sorted(compare_beside(base, tuned, dtypes_of(tuned)), key=lambda change: change.size):
        if not may_come(change.path) or len(chosen) + len(own) == MOST_FILES or change.size > room:
            left_out.append(change.path)
            continue
        chosen[change.path] = change
        room -= change.size
    if chosen:
        check_files({path: change.size for path, change in chosen.items()}, list(base))
        shown = ", ".join(_describe(change) for change in chosen.values())
        console.note(plain(f"Sent with the patch, and left out by --weights-only: {shown}."))
    if left_out:
        console.note(plain(f"They differ from the base, and a registry does not take them: {', '.join(left_out)}."))
    return {path: tuned / path for path in sorted(chosen)}


def _describe(change: FileChange) -> str:
    names = [it.key for it in change.keys[:SHOWN_KEYS]]
    more = len(change.keys) + change.more - len(names)
    words = ", ".join(names) + (f" and {more} more" if more else "") if names else change.change
    return f"{change.path} ({words})"


def _checked_base(draft: Path, target: Target, base: str | Path | None) -> str:
    if (found := patch_base(draft)) != target.base:
        raise BaseMismatch(
            f"{base or 'The base'} has the weights {found}, but {target.model} is pinned to {target.base}; nothing was "
            "sent. Leave the base out, and the registry's is taken."
        )
    return found


def _let_go(draft: Path, keep: Path | None) -> None:
    """Move a draft and its companion to where its author wants them, or remove them."""
    if keep is None:
        draft.unlink(missing_ok=True)
        companion_of(draft).unlink(missing_ok=True)
        return
    try:
        keep.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(draft, keep)
        if companion_of(draft).is_file():
            shutil.move(companion_of(draft), companion_of(keep))
    except OSError as why:
        raise storage_error(why, keep) from why


def _name(base: Any, tuned: Any, options: Mapping[str, Any]) -> str:
    made_of = [version(), base, tuned, {name: options[name] for name in sorted(options)}]
    return hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest()


def _stamps(model: Path) -> list[tuple[str, int, int]]:
    """Return the files that a diff may read of a model, with what changes when they are written."""
    try:
        return [(str(file.resolve()), (status := file.stat()).st_size, status.st_mtime_ns) for file in _files(model)]
    except OSError as why:
        raise StorageFailed(f"{why.filename or model} cannot be read: {why.strerror}.") from why


def _files(model: Path) -> Iterator[Path]:
    folder = model if model.is_dir() else model.parent
    found = sorted(model.rglob("*")) if model.is_dir() else [model, *folder.glob("*.json")]  # of an adapter's file
    for file in found:
        if file.suffix in READ and file.is_file():
            yield file
