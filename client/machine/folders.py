"""Model folders on this machine: where a registry's paths go, what a folder was pulled from, atomic creation.

A pulled folder has `.crumb/source.json`:
    {"model", "ref", "weights_digest", "complete", "files": {path: [sha256, ...]}}
by which a later pull tells its own files from a person's. While a pull is under way, `files` are those of the earlier
pull and of this one, so that a pull killed in between can resume, or be undone by pulling the earlier snapshot.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from registry.errors import (
    InvalidRequest,
    NotFound,
    StorageFailed,
    StorageFull,
    Unavailable,
    WrongState,
)
from registry.files.beside import FileChange, compare
from registry.files.folders import PATH_LENGTH, PICKLES, carried, is_path, is_pickle
from registry.files.hashing import hash_file
from registry.files.progress import Meter, Progress

OWN = ".crumb"  # folder beside a target for work under way
LOADED = (".safetensors", ".index.json", ".py", *PICKLES)  # suffixes of files that from_pretrained may load unasked
CONFIGS = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class Source:
    """What a folder was pulled from; `files` are those that pulls put there, each with the digests it may have."""

    model: str
    ref: str
    weights_digest: str
    complete: bool = False
    files: dict[str, list[str]] = field(default_factory=dict)


def inside(folder: Path, paths: Sequence[str]) -> list[Path]:
    """Return the targets of a registry's paths, every one of them inside the folder.

    Raises:
        Unavailable: A path is not one that a sound registry sends, or occurs twice.
        WrongState: A link in the folder leads out of it.
    """
    seen: set[str] = set()
    targets = []
    root = folder.resolve()
    for path in paths:
        if not is_path(path):
            raise Unavailable(
                f"The registry names a file {path[:PATH_LENGTH]!r}, which is not a path within a model folder."
            )
        if path.casefold() in seen:
            raise Unavailable(f"The registry names the file {path!r} twice.")
        seen.add(path.casefold())
        target = root / path
        if not target.parent.resolve().is_relative_to(root):
            raise WrongState(f"A link in {folder} leads {path} out of the folder; remove it, or choose another folder.")
        targets.append(target)
    return targets


def model_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the files of a model folder that may be uploaded (path -> file), and the paths left out.

    Hidden files and pickles are left out; pickles are never read as weights.

    Raises:
        InvalidRequest: A file has a name that a registry does not take.
        NotFound: The folder holds no .safetensors file.
    """
    files: dict[str, Path] = {}
    left_out = []
    for path, file in _walk(folder):
        hidden = any(part.startswith(".") for part in path.split("/"))
        if hidden or is_pickle(file.name) or not file.is_file():
            if not path.startswith(f"{OWN}/"):
                left_out.append(path)
        elif not is_path(path):
            raise InvalidRequest(
                f"{folder / path} has a name that a registry does not take: it may hold printable ASCII but "
                r'\ : * ? " < > | % #, and no part of it may start or end with a dot or a space.',
                field="files",
            )
        else:
            files[path] = file
    if not any(path.endswith(".safetensors") for path in files):
        raise NotFound(f"{folder} holds no .safetensors file; nothing else is read as weights.")
    return files, left_out


def read_source(folder: Path) -> Source | None:
    """Return what a folder was pulled from; None without a readable record of it."""
    try:
        record = json.loads((folder / OWN / "source.json").read_text("utf-8"))
        files = {path: [sha] if isinstance(sha, str) else list(sha) for path, sha in record["files"].items()}
        return Source(**{**record, "files": {path: shas for path, shas in files.items() if is_path(path)}})
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def write_source(folder: Path, source: Source) -> None:
    """Record what a folder is pulled from."""
    own = make_own(folder)
    temporary = own / "source.json.new"
    temporary.write_text(json.dumps(asdict(source), indent=1, sort_keys=True) + "\n", "utf-8")
    temporary.replace(own / "source.json")


def make_own(folder: Path) -> Path:
    """Make the folder for work under way in a target, unless it is there, and return it.

    Raises:
        WrongState: A link is in its place.
    """
    own = folder / OWN
    if own.is_symlink():
        raise WrongState(f"{own} is a link, which would lead what is written elsewhere; remove it.")
    own.mkdir(parents=True, exist_ok=True)
    return own


def check_folder(folder: Path) -> None:
    """Check that nothing but a folder is there.

    Raises:
        WrongState: Something else is there.
    """
    if (folder.is_symlink() or folder.exists()) and not folder.is_dir():
        raise WrongState(f"{folder} is not a folder; choose another place.")


def check_target(
    folder: Path, files: Mapping[str, str], progress: Progress | None = None
) -> tuple[list[str], list[str]]:
    """Check that pulling these files (path -> sha256) destroys nothing that a pull did not bring.

    A person's own files beside them stay as they are.

    Returns:
        Paths that must still be downloaded; and paths of an earlier pull that the new one does not have, to be removed
        once it is complete.

    Raises:
        WrongState: Something else is where a file of the pull must go, or a pulled file was changed.
    """
    check_folder(folder)
    before, root = read_source(folder), folder.resolve()
    known = before.files if before else {}
    paths = [path for path in {**files, **known} if (root / path).parent.resolve().is_relative_to(root)]
    there = {path: file for path in sorted(paths) if (file := root / path).is_symlink() or file.exists()}
    meter = Meter(sum(file.stat().st_size for file in there.values() if file.is_file()), progress)
    wanted, stale = dict(files), []
    for path, file in there.items():
        sha256 = hash_file(file) if file.is_file() else None
        if sha256 is None or sha256 not in (files.get(path), *known.get(path, ())):
            why = "was changed since it was pulled" if path in known else "is there, and no pull brought it"
            raise WrongState(f"{path} in {folder} {why}; move it away, or choose another folder.")
        meter.add(file.stat().st_size)
        if path not in files:
            stale.append(path)
        elif sha256 == files[path]:
            del wanted[path]
    return list(wanted), stale


def strays(folder: Path, paths: Collection[str]) -> list[str]:
    """Return the files of a model folder that are not among `paths` but may change what from_pretrained loads."""
    return [
        path
        for path, file in _walk(folder)
        if path not in paths
        and not any(part.startswith(".") for part in path.split("/"))
        and (file.name.lower().endswith(LOADED) or file.name.lower() in CONFIGS)
    ]


def check_room(folder: Path, sizes: Mapping[str, int]) -> None:
    """Check that the disk has room for files (path -> bytes) that are to go into a folder.

    Raises:
        StorageFull: The disk has too little room.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    there = sum((folder / path).stat().st_size for path in sizes if (folder / path).is_file())
    need, free = sum(sizes.values()) - there, shutil.disk_usage(place).free
    if need > free:
        raise StorageFull(f"{folder} needs {need} more bytes, but only {free} are free there.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its name when the block ends well, and is removed otherwise.

    Raises:
        WrongState: Something of that name is there already, other than an empty folder.
        StorageFailed: The folder cannot be made.
    """
    target = folder.absolute()
    check_vacant(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".crumb", dir=target.parent))
    except OSError as why:
        raise StorageFailed(f"{folder} cannot be made: {why.strerror or why}.") from why
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if target.is_dir():
            target.rmdir()
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_vacant(folder: Path) -> None:
    """Check that nothing is there, or an empty folder.

    Raises:
        WrongState: Something else is there.
    """
    if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise WrongState(f"{folder} is there already and not empty; choose another folder, or remove it.")


def copy_others(base: Path, target: Path, indexes: Collection[str]) -> None:
    """Copy the files of a base that a composed model has beside its weights into a new model folder."""
    copy_files(files_beside(base, indexes), target)


def copy_files(files: Mapping[str, Path], folder: Path) -> None:
    """Copy files into a folder: path in the folder -> file."""
    for path, file in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / path)


def files_beside(base: Path, indexes: Collection[str]) -> dict[str, Path]:
    """Return the files of a base that a composed model has beside its weights and its README.md, by their paths.

    Hidden files, pickles and other copies of the weights are not among them.

    Args:
        base: A model folder; or a weight file, which has none.
        indexes: Paths of the indexes of its weight files.
    """
    files = {
        path: file
        for path, file in (_walk(base) if base.is_dir() else ())
        if not any(part.startswith(".") for part in path.split("/")) and file.is_file()
    }
    return {path: files[path] for path in carried(files, indexes)}


def compare_beside(
    base: Path | Mapping[str, Path], tuned: Path | Mapping[str, Path], dtypes: Set[str] = frozenset()
) -> list[FileChange]:
    """Return how the files beside the weights of a tuned model differ from those of its base.

    Args:
        base: A model folder, or its files by their paths; a weight file has none, so nothing is compared with it.
        tuned: Likewise.
        dtypes: Dtypes of the tuned weights; see `registry.files.beside.compare`.

    Raises:
        StorageFailed: A file cannot be read.
    """
    if isinstance(base, Path) and not base.is_dir():
        return []
    before, after = (files_beside(side, ()) if isinstance(side, Path) else side for side in (base, tuned))
    try:
        return compare(before, after, dtypes)
    except OSError as why:
        raise StorageFailed(f"{why.filename or tuned} cannot be read: {why.strerror}.") from why


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(where, name)
            yield file.relative_to(folder).as_posix(), file
