"""Model folders on this machine: where a registry's paths may go, what a folder was pulled from, atomic creation.

A pulled folder carries `.crumb/source.json`:
    {"model", "ref", "weights_digest", "complete", "files": {path: [sha256, ...]}}
which is how a later pull knows its own files from a person's. While a pull is under way, `files` are those of the
earlier pull and of this one, so that a pull killed in between can go on, or back.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from registry.errors import InvalidCheckpoint, InvalidRequest, NotFound, StorageFailed, Unavailable, WrongState
from registry.files.folders import INDEX, PATH_LENGTH, PICKLES, WHOLE, is_path, is_pickle
from registry.files.hashing import BLOCK, hash_file
from registry.files.progress import Meter, Progress

OWN = ".crumb"  # folder beside a target for what is under way
LOADED = (".safetensors", ".index.json", ".py", *PICKLES)  # endings of what from_pretrained may load unasked
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
    """Return where a registry's paths go, every one of them inside the folder.

    Raises:
        Unavailable: A path is not one that a sound registry sends.
        WrongState: A link in the folder leads out of it.
    """
    seen: set[str] = set()
    targets = []
    root = folder.resolve()
    for path in paths:
        if not is_path(path):
            raise Unavailable(
                f"The registry names a file {path[:PATH_LENGTH]!r}, which is no path within a model folder."
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
    """Return the files of a model folder that may be uploaded (path -> file), and those left out.

    Left out: hidden files, and pickles (never read as weights by anyone here).
    """
    found: dict[str, Path] = {}
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
            found[path] = file
    if not any(path.endswith(".safetensors") for path in found):
        raise NotFound(f"{folder} holds no .safetensors file; nothing else is read as weights.")
    return found, left_out


def read_source(folder: Path) -> Source | None:
    """Return what a folder was pulled from; None when it carries no readable note of it."""
    try:
        found = json.loads((folder / OWN / "source.json").read_text("utf-8"))
        files = {path: [sha] if isinstance(sha, str) else list(sha) for path, sha in found["files"].items()}
        return Source(**{**found, "files": {path: shas for path, shas in files.items() if is_path(path)}})
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def write_source(folder: Path, source: Source) -> None:
    """Write down what a folder is pulled from."""
    own = folder / OWN
    own.mkdir(parents=True, exist_ok=True)
    temporary = own / "source.json.new"
    temporary.write_text(json.dumps(asdict(source), indent=1, sort_keys=True) + "\n", "utf-8")
    temporary.replace(own / "source.json")


def check_folder(folder: Path) -> None:
    """Raise WrongState when something is there that is no folder."""
    if (folder.is_symlink() or folder.exists()) and not folder.is_dir():
        raise WrongState(f"{folder} is not a folder; choose another place.")


def check_target(
    folder: Path, files: Mapping[str, str], progress: Progress | None = None
) -> tuple[list[str], list[str]]:
    """See that pulling these files (path -> sha256) destroys nothing that a pull did not bring.

    A person's own files beside them stay as they are.

    Returns:
        Paths that must still be fetched; and paths of an earlier pull that the new one does not have, to be
        removed once it is complete.

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
        found = hash_file(file) if file.is_file() else None
        if found is None or found not in (files.get(path), *known.get(path, ())):
            why = "was changed since it was pulled" if path in known else "is there, and no pull brought it"
            raise WrongState(f"{path} in {folder} {why}; move it away, or choose another folder.")
        meter.add(file.stat().st_size)
        if path not in files:
            stale.append(path)
        elif found == files[path]:
            del wanted[path]
    return list(wanted), stale


def strays(folder: Path, paths: Collection[str]) -> list[str]:
    """Return the files in a model folder that are not among `paths`, but may change what from_pretrained loads."""
    return [
        path
        for path, file in _walk(folder)
        if path not in paths
        and not any(part.startswith(".") for part in path.split("/"))
        and (file.name.lower().endswith(LOADED) or file.name.lower() in CONFIGS)
    ]


def digest_weights(files: Mapping[str, Path], progress: Progress | None = None) -> str:
    """Return the weights digest of a model's files (path -> file), as breadcrumbs/checkpoint.py does, without torch.

    Raises:
        InvalidCheckpoint: They are no sound safetensors checkpoint.
    """
    from registry.breadcrumbs.formats.header import CHECKPOINT_LIMITS, Entry, read_header

    weights = weight_files(files)
    lines: dict[str, bytes] = {}
    meter = Meter(sum(file.stat().st_size for file in weights.values()), progress)
    for path, place in weights.items():
        with place.open("rb") as file:
            size = place.stat().st_size
            header = read_header(file, size, f"Weight file {path}", CHECKPOINT_LIMITS, InvalidCheckpoint)
            entry: Entry
            for name, entry in header.entries.items():
                if name in lines or "\t" in name or "\n" in name:
                    raise InvalidCheckpoint(f"Tensor {name!a} occurs twice in the weight files, or holds TAB or LF.")
                file.seek(entry.start)
                digest, left = hashlib.sha256(), entry.stop - entry.start
                while block := file.read(min(BLOCK, left)):
                    digest.update(block)
                    left -= len(block)
                    meter.add(len(block))
                if left:
                    raise InvalidCheckpoint(f"Weight file {path} became shorter while it was read; fetch it again.")
                shape = ",".join(map(str, entry.shape))
                lines[name] = f"{name}\t{entry.dtype}\t{shape}\t{digest.hexdigest()}\n".encode()
    return f"sha256:{hashlib.sha256(b''.join(lines[name] for name in sorted(lines))).hexdigest()}"


def weight_files(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files that hold a model's weights: those that its index names, else every one beside config.json."""
    from registry.breadcrumbs.formats.header import CHECKPOINT_LIMITS

    if INDEX not in files:
        found = {path: files[path] for path in sorted(files) if path.endswith(".safetensors") and "/" not in path}
        if not found:
            raise InvalidCheckpoint("There are no .safetensors files among the files of the model.")
        return found
    try:
        with files[INDEX].open("rb") as file:
            raw = file.read(CHECKPOINT_LIMITS.header_bytes + 1)
        if len(raw) > CHECKPOINT_LIMITS.header_bytes:
            raise ValueError("it is too long")
        names = sorted(set(json.loads(raw)["weight_map"].values()))
        if WHOLE in files and WHOLE not in names:
            raise ValueError(f"there is a {WHOLE} that it does not name")
        return {name: files[name] for name in names}
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as why:
        raise InvalidCheckpoint(f"{INDEX} does not name the weight files that are there: {why}.") from why


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its name when all went well, and vanishes otherwise.

    Raises:
        WrongState: There is something of that name already, other than an empty folder.
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
    """Raise WrongState unless nothing is there, or an empty folder."""
    if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise WrongState(f"{folder} is there already and not empty; choose another folder, or remove it.")


def copy_others(base: Path, target: Path, weights: Sequence[str]) -> None:
    """Copy the files of a base other than its weight files and its README.md into a new model folder."""
    if base.is_file():
        return
    for path, file in _walk(base):
        hidden = any(part.startswith(".") for part in path.split("/"))
        if hidden or path in weights or path == "README.md" or is_pickle(file.name) or not file.is_file():
            continue
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / path)


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(where, name)
            yield file.relative_to(folder).as_posix(), file
