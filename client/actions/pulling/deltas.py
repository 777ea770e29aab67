"""Deltas: made of two revisions of a model, and applied to a folder that holds the first of them.

What a delta makes of a folder is what a pull of the later revision would have brought, with the same record of it, so
`crumb verify`, `crumb status` and the next `crumb pull` take it as such.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.actions.pulling.pull import pull
from client.actions.pulling.target import bringing, copy_hashed, move_in, workplace
from client.actions.results import AppliedDelta, MadeDelta
from client.actions.transfers import hash_readable
from client.api.client import Client
from client.machine.config import cache
from client.machine.folders import OWN, Source, check_room, inside, model_files, read_source, write_source
from client.machine.patch_files import open_file
from client.terminal.console import Console
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_files
from registry.errors import BaseMismatch, InvalidPatch, InvalidRequest, NotFound
from registry.files.beside import COMPANION
from registry.files.durable import new_files
from registry.files.folders import CONFIG, is_pickle, is_weights, may_hold_weights
from registry.files.hashing import hash_file
from registry.files.progress import Meter
from registry.files.threads import call_each

if TYPE_CHECKING:
    from registry.breadcrumbs.deltas.delta_file import Delta, Ends
    from registry.breadcrumbs.formats.checkpoint import Checkpoint

QUIET = Console(quiet=True)

Revision = Path | tuple[str, str]
"""One end of a delta: a model folder, or NS/NAME and a reference at the registry."""


@dataclass(frozen=True)
class _Held:
    """A revision in a folder: its weights digest, the sha256 of its files, and what it is called, if that is known."""

    folder: Path
    weights_digest: str
    files: dict[str, str]
    model: str
    ref: str

    def paths(self) -> dict[str, Path]:
        return {path: self.folder / path for path in self.files}


def make_delta(
    before: Revision,
    after: Revision,
    out: Path,
    *,
    steps: bool = True,
    client: Client | None = None,
    console: Console = QUIET,
) -> MadeDelta:
    """Write the exact bits that differ between two revisions of one model to a file.

    Args:
        before, after: Model folders, or revisions at the registry, which are pulled into the cache for a while.
        out: The file to write.
        steps: Whether small differences are told as such where that takes fewer bytes; False for programs that cannot
            read the earlier revision.
        client: The registry, if it is to be asked.
        console: Where notes and progress go.

    Raises:
        NotFound: There is no such folder, model or snapshot.
        CheckpointMismatch: The two hold their weights in other files, or have other tensors.
        InvalidRequest: They do not differ, or `out` is a folder or in one of them.
        StorageFull: The disk has no room.
    """
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InvalidRequest(f"{out} cannot be written; name a file in a folder that exists.", field="out")
    for end in (before, after):
        if isinstance(end, Path) and out.resolve().is_relative_to(end.resolve()):
            raise InvalidRequest(f"{out} is inside the model {end}, which it would change; write it elsewhere.")

    from registry.breadcrumbs.deltas.delta_file import Ends
    from registry.breadcrumbs.deltas.making import make_delta as write_delta

    with _holding(before, client, console) as old, _holding(after, client, console) as new:
        files = {path: (old.files.get(path, ""), new.files.get(path, "")) for path in old.files | new.files}
        ends = Ends(old.weights_digest, new.weights_digest, files, new.model, old.ref, new.ref)
        with (
            open_checkpoint(old.paths()) as first,
            open_checkpoint(new.paths()) as second,
            console.progress("comparing") as progress,
        ):
            carried = {path: new.folder / path for path in ends.carried}
            info = write_delta(first, second, out, ends, carried, progress, steps=steps)
            weights = second.size
    return MadeDelta(
        file=out,
        sha256=hash_file(out),
        size=info.size,
        before=ends.before,
        after=ends.after,
        tensors=len(info.tensors),
        nnz=sum(info.nnz.values()),
        model_size=weights,
        carried=ends.carried,
    )


@contextlib.contextmanager
def _holding(revision: Revision, client: Client | None, console: Console) -> Iterator[_Held]:
    """Yield a revision in a folder, with the digests of what it holds."""
    if isinstance(revision, Path):
        yield _look_at(revision, console)
        return
    if client is None:
        raise InvalidRequest("A revision at a registry needs a client.", field="client")
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="delta-", dir=cache()) as scratch:
        folder = Path(scratch) / "model"
        snapshot = pull(client, *revision, folder, console=console, note=False).snapshot
        sha256 = {file.path: file.sha256 for file in snapshot.files}
        files = {path: sha256[path] for path in _of_model(folder, list(sha256))}
        yield _Held(folder, snapshot.weights_digest, files, snapshot.model, snapshot.ref)


def _look_at(folder: Path, console: Console) -> _Held:
    """Hash the files of a model folder: those of a pull, or all that could be uploaded."""
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}.")
    source = read_source(folder)
    pulled = source is not None and source.complete
    paths = list(source.files) if source is not None and pulled else list(model_files(folder)[0])
    paths = _of_model(folder, paths)
    with console.progress(f"hashing {folder}") as progress:
        weights_digest = digest_files({path: folder / path for path in paths}, progress)
    files = {path: hash_readable(folder / path) for path in paths}
    same = source is not None and pulled and source.weights_digest == weights_digest
    return _Held(folder, weights_digest, files, *((source.model, source.ref) if source and same else ("", "")))


def _of_model(folder: Path, paths: list[str]) -> list[str]:
    """Return which files of a folder are the model: no pickles, no other copies of the weights; a companion may be."""
    with open_checkpoint({path: folder / path for path in paths}) as checkpoint:
        kept = {*checkpoint.files, *checkpoint.indexes}
    kept.add(COMPANION)
    return [path for path in paths if not is_pickle(path) and (not may_hold_weights(path) or path in kept)]


def apply_delta(folder: Path, file: Path, out: Path | None = None, *, console: Console = QUIET) -> AppliedDelta:
    """Make the later revision of a delta out of a folder that holds the earlier one, every file and weight verified.

    Args:
        folder: Holds the earlier revision.
        file: The delta.
        out: The folder to make; `folder` itself is brought up to date when None, if a pull brought it.
        console: Where notes and progress go.

    Raises:
        NotFound: There is no such folder or file.
        InvalidPatch: The delta is not sound, or not for what it says.
        BaseMismatch: The folder does not hold the earlier revision.
        WrongState: Something that no pull brought is where a file must go.
        StorageFull: The disk has no room.
    """
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}.")
    open_file(file).close()

    from registry.breadcrumbs.deltas.applying import check_tensors
    from registry.breadcrumbs.deltas.delta_file import open_delta

    target = folder if out is None else out
    with open_delta(file) as delta:
        ends = delta.info.ends
        files = {path: new for path, (_, new) in ends.files.items() if new}
        there = {path: place for path, place in zip(files, inside(folder, list(files)), strict=True) if place.is_file()}
        goal = Source(ends.model, ends.after_ref, ends.after, True, {path: [new] for path, new in files.items()})
        with open_checkpoint({path: place for path, place in there.items() if path != CONFIG}) as before:
            check_tensors(before, delta)
            existed, record, moving = target.exists(), read_source(target), False
            with bringing(goal, target, console) as missing:
                try:
                    with workplace(target) as work:
                        _write_files(before, delta, there, missing, work, console)
                        _check_weights(delta, {path: target / path for path in files}, missing, work, console)
                        moving = True
                        move_in(work, target, missing)
                except BaseException:
                    if not moving:  # or the record that names both revisions has to stay, and the next attempt goes on
                        _undo(target, existed, record)
                    raise
    return AppliedDelta(target, ends.after, ends.model, ends.after_ref, len(files))


def _write_files(
    before: "Checkpoint", delta: "Delta", there: Mapping[str, Path], missing: list[str], work: Path, console: Console
) -> None:
    """Write the missing files of the later revision into the workplace, and compare each with its digest."""
    from registry.breadcrumbs.deltas.applying import apply_delta as write_weights
    from registry.breadcrumbs.deltas.applying import write_carried

    ends = delta.info.ends
    weights = [path for path in missing if is_weights(path)]
    sizes = {path: there[path].stat().st_size for path in weights if path in there}
    check_room(work, sizes)

    def write(path: str) -> None:
        old, new = ends.files[path]
        carried = path in ends.carried
        if not carried and path not in there:
            raise BaseMismatch(f"{path} is missing, and {_called(ends)} has it; complete the folder.", field=path)
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        with new_files([work / path]) as (file,):
            if carried:
                written = write_carried(delta, path, file)
            elif path in before.files:
                written = write_weights(before, delta, path, file, meter)
            else:
                written = copy_hashed(there[path], file)
        if written == new:
            return
        if not carried and hash_file(there[path]) != old:
            raise BaseMismatch(f"{there[path]} is not the file that {_called(ends)} has.", field=path)
        raise InvalidPatch(
            f"{delta.called} is refused: {path} of the later revision has sha256 {new} by it, and comes out as "
            f"{written}; fetch it again.",
            field=path,
        )

    with console.progress("applying") as progress:
        meter = Meter(sum(sizes.values()), progress)
        call_each(write, missing)


def _check_weights(delta: "Delta", files: dict[str, Path], missing: list[str], work: Path, console: Console) -> None:
    """Check the weights digest of the later revision, before anything of it takes its place."""
    held = files | {path: work / path for path in missing}
    with console.progress("verifying the weights") as progress:
        digest = digest_files(held, progress)
    if digest != delta.info.ends.after:
        raise InvalidPatch(
            f"{delta.called} is refused: it is about weights {delta.info.ends.after} and gives {digest}; tell whoever "
            "made it."
        )


def _called(ends: "Ends") -> str:
    """Return what messages call the earlier revision."""
    return f"{ends.model}@{ends.before_ref[:12]}" if ends.model and ends.before_ref else ends.before


def _undo(target: Path, existed: bool, record: Source | None) -> None:
    """Leave a folder as it was before a delta that failed."""
    if not existed:
        shutil.rmtree(target / OWN, ignore_errors=True)
        with contextlib.suppress(OSError):
            target.rmdir()  # only when it is empty
    elif record is not None:
        write_source(target, record)
    else:
        (target / OWN / "source.json").unlink(missing_ok=True)
