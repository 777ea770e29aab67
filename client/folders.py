"""Model folders on this machine: where a registry's paths may go, what a folder was pulled from, atomic creation.

A pulled folder carries `.crumb/source.json`:
    {"model", "ref", "weights_digest", "complete", "files": {path: sha256}}
which is how a later pull knows its own files from a person's.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from client.transfers import OWN, Progress, Tally, hash_file
from registry.errors import Conflict, InvalidRequest, NotFound, StorageFailed, Unavailable

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
_SAFE = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_. +=@-]*(/[A-Za-z0-9_][A-Za-z0-9_. +=@-]*)*")  # schemas.PATH
PATH_LENGTH = 255


@dataclass(frozen=True)
class Source:
    """What a folder was pulled from; `files` are those that the pull put there."""

    model: str
    ref: str
    weights_digest: str
    complete: bool = False
    files: dict[str, str] = field(default_factory=dict)


def safe_path(path: str) -> bool:
    """Tell whether a path within a model folder may travel: relative, plain characters, nothing hidden."""
    return len(path) <= PATH_LENGTH and _SAFE.fullmatch(path) is not None


def inside(folder: Path, paths: Sequence[str]) -> list[Path]:
    """Return where a registry's paths go, every one of them inside the folder.

    Raises:
        Unavailable: A path is not one that a sound registry sends.
        Conflict: A link in the folder leads out of it.
    """
    seen: set[str] = set()
    targets = []
    root = folder.resolve()
    for path in paths:
        if not safe_path(path):
            raise Unavailable(
                f"The registry names a file {path[:PATH_LENGTH]!r}, which is no path within a model folder."
            )
        if path.casefold() in seen:
            raise Unavailable(f"The registry names the file {path!r} twice.")
        seen.add(path.casefold())
        target = root / path
        if not target.parent.resolve().is_relative_to(root):
            raise Conflict(f"A link in {folder} leads {path} out of the folder; remove it, or choose another folder.")
        targets.append(target)
    return targets


def model_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the files of a model folder that may be uploaded (path -> file), and those left out.

    Left out: hidden files, and pickles (never read as weights by anyone here).
    """
    found: dict[str, Path] = {}
    left_out = []
    for path, file in _walk(folder):
        hidden = any(part.startswith(".") for part in path.split("/"))
        if hidden or file.suffix.lower() in PICKLES or not file.is_file():
            if not path.startswith(f"{OWN}/"):
                left_out.append(path)
        elif not safe_path(path):
            raise InvalidRequest(
                f"{folder / path} has a name that a registry does not take: letters, digits and any of ' _.+=@-' only.",
                field="files",
            )
        else:
            found[path] = file
    if not any(path.endswith(".safetensors") for path in found):
        raise NotFound(f"{folder} holds no .safetensors file; nothing else is read as weights.")
    return found, left_out


def read_source(folder: Path) -> Source | None:
    """Return what a folder was pulled from; None when it carries no readable note of it."""
    try:
        source = Source(**json.loads((folder / OWN / "source.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return source if isinstance(source.files, dict) else None


def write_source(folder: Path, source: Source) -> None:
    """Write down what a folder is pulled from."""
    own = folder / OWN
    own.mkdir(parents=True, exist_ok=True)
    temporary = own / "source.json.new"
    temporary.write_text(json.dumps(asdict(source), indent=1, sort_keys=True) + "\n", "utf-8")
    temporary.replace(own / "source.json")


def check_target(
    folder: Path, files: Mapping[str, str], progress: Progress | None = None
) -> tuple[list[str], list[str]]:
    """See that pulling these files (path -> sha256) destroys nothing that a pull did not bring.

    Returns:
        Paths that must still be fetched; and paths of an earlier pull that the new one does not have, to be
        removed once it is complete.

    Raises:
        Conflict: The folder holds something else.
    """
    if folder.is_symlink() or folder.exists():
        if not folder.is_dir():
            raise Conflict(f"{folder} is not a folder; choose another place.")
    else:
        return list(files), []
    before = read_source(folder)
    known = before.files if before else {}
    there = [(path, file) for path, file in _walk(folder) if OWN not in path.split("/")]
    tally = Tally(sum(file.stat().st_size for _, file in there if file.is_file()), progress)
    wanted, stale = dict(files), []
    for path, file in there:
        expected = {files.get(path), known.get(path)} - {None}
        if not expected or not file.is_file():
            raise Conflict(f"{folder} holds {path}, which is not of this pull; choose an empty folder.")
        found = hash_file(file)[0]
        if found not in expected:
            raise Conflict(
                f"{path} in {folder} was changed since it was pulled; move it away, or choose an empty folder."
            )
        tally.add(file.stat().st_size)
        if path not in files:
            stale.append(path)
        elif found == files[path]:
            del wanted[path]
    return list(wanted), stale


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its name when all went well, and vanishes otherwise.

    Raises:
        Conflict: There is something of that name already, other than an empty folder.
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
    """Raise Conflict unless nothing is there, or an empty folder."""
    if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise Conflict(f"{folder} is there already and not empty; choose another folder, or remove it.")


def copy_others(base: Path, target: Path, weights: Sequence[str]) -> None:
    """Copy the files of a base other than its weight files and its README.md into a new model folder."""
    if base.is_file():
        return
    for path, file in _walk(base):
        hidden = any(part.startswith(".") for part in path.split("/"))
        if hidden or path in weights or path == "README.md" or file.suffix.lower() in PICKLES or not file.is_file():
            continue
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / path)


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(where, name)
            yield file.relative_to(folder).as_posix(), file
