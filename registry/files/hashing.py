"""Hashing: the sha256 of files."""

import hashlib
import os
from pathlib import Path

from registry.files.progress import Meter, Progress

BLOCK = 2**18
"""Bytes read and hashed at a time."""


def hash_file(path: Path, progress: Progress | None = None) -> str:
    """Return the sha256 of a file's bytes, in hex.

    Args:
        path: The file.
        progress: Called with (bytes hashed, bytes of the file).

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        if progress is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        meter, digest = Meter(os.fstat(file.fileno()).st_size, progress), hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
            meter.add(len(block))
    return digest.hexdigest()
