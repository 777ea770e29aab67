"""Bases on this machine: where the weights of a base may lie, so that they need not come again.

    <cache>/bases/<digest>/     the files of a base with these weights
    <cache>/pulled/<digest>     the path of the folder into which such a base was pulled last

What lies there may have been changed or removed since: whoever reads it verifies it.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from client.machine.config import cache
from client.machine.folders import read_source

LONGEST = 4096
"""Most characters of a path that are believed."""


def cached_base(digest: str) -> Path:
    """Return the folder of the cache for a base with this weights digest, whether or not it is there."""
    return cache() / "bases" / _hex(digest)


def base_folders(digest: str, target: Path) -> list[Path]:
    """Return the folders that may hold a base with this weights digest: the cache, where it was pulled last, a target.

    A target in which a pull was interrupted may still hold what was there before.
    """
    folders = [cached_base(digest)]
    with contextlib.suppress(OSError, ValueError):
        pulled = Path(_note(digest).read_text("utf-8")[:LONGEST])
        folders += [pulled] if (source := read_source(pulled)) and source.weights_digest == digest else []
    if (source := read_source(target)) and (source.weights_digest == digest or not source.complete):
        folders.append(target.absolute())
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def note_pulled(digest: str, folder: Path) -> None:
    """Note that a base with this weights digest was pulled into a folder; a cache that cannot be written is left."""
    with contextlib.suppress(OSError):
        _note(digest).parent.mkdir(parents=True, exist_ok=True)
        temporary = _note(digest).with_suffix(f".{os.getpid()}")
        temporary.write_text(str(folder.absolute()), "utf-8")
        temporary.replace(_note(digest))


def keep_base(digest: str, files: Mapping[str, Path]) -> None:
    """Keep files of a base, by their paths in it, in the cache, before a pull replaces them.

    They get a second name, so nothing is copied; where the cache is on another file system they are not kept.
    """
    with contextlib.suppress(OSError):
        for path, file in files.items():
            kept = cached_base(digest) / path
            kept.parent.mkdir(parents=True, exist_ok=True)
            if not kept.exists():
                os.link(file, kept)


def _note(digest: str) -> Path:
    return cache() / "pulled" / _hex(digest)


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
