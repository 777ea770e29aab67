"""Inputs: the files that a task reads; those of patches are hashed while they are used, since disks lose bits."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType

from registry.breadcrumbs.formats.patchfile import Patch, open_patch
from registry.breadcrumbs.kernels.sha256.streams import hash_each
from registry.errors import BlobDamaged, InvalidInput
from registry.files.hashing import Extent, find_changed, read_file

Extents = Sequence[tuple[int, int, str]]
"""First byte, byte after the last, and sha256 of parts of a file."""

WHOLE: Mapping[str, Extents] = MappingProxyType({})


@contextmanager
def opened(
    patches: Mapping[str, str],
    others: Mapping[str, str] = MappingProxyType({}),
    *,
    excerpts: Mapping[str, Extents] = WHOLE,
    most: int | None = None,
    verified: bool = False,
) -> Iterator[dict[str, Patch]]:
    """Open patches by the sha256 of their files, and verify these meanwhile.

    Args:
        patches: Path of each patch file by its sha256.
        others: Path by sha256 of what is read beside them; verified only if something turns out to be unsound.
        excerpts: Of the patches whose files are not here whole, the extents that are.
        most: How many threads hash; as many as there are processors when None.
        verified: Whether the patches were verified a moment ago.

    Raises:
        BlobDamaged: An input is missing or damaged.
    """
    inputs = {**others, **patches}
    require_files(inputs.values())
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        done = pool.submit(require_sound, {} if verified else patches, excerpts, most)
        try:
            yield {sha256: stack.enter_context(open_patch(Path(path))) for sha256, path in patches.items()}
        except InvalidInput:  # all inputs were sound when they were accepted, so one must be damaged
            require_sound(inputs, excerpts)
            raise
        done.result()


def require_sound(paths: Mapping[str, str], excerpts: Mapping[str, Extents] = WHOLE, most: int | None = None) -> None:
    """Refuse inputs whose bytes have changed on disk: whole files, hashed in pairs, or the extents that are here.

    Args:
        paths: Path of each file by its sha256.
        excerpts: The extents that are here of files that are not here whole.
        most: How many threads hash; as many as there are processors when None.
    """
    whole = {sha256: path for sha256, path in paths.items() if sha256 not in excerpts}
    for sha256, digest in zip(whole, hash_files(whole.values(), most), strict=True):
        require_digest(sha256, digest)
    for sha256 in paths.keys() & excerpts.keys():
        with Path(paths[sha256]).open("rb") as file:
            if changed := find_changed(file.fileno(), [Extent(*extent) for extent in excerpts[sha256]]):
                start, stop = changed[0].start, changed[0].stop
                raise BlobDamaged(f"The blob {sha256} is damaged in bytes {start} to {stop - 1}.", field=sha256)


def hash_files(paths: Collection[str], most: int | None = None) -> list[str]:
    """Return the sha256 of files, hashed in pairs by `most` threads, or as many as there are processors."""
    return hash_each([partial(read_file, Path(path)) for path in paths], lambda _: None, most)


def require_files(paths: Iterable[str]) -> None:
    """Refuse to start when an input is missing, which is for the operator to repair."""
    for path in map(Path, paths):
        if not path.is_file():
            raise BlobDamaged(f"The blob {path.name} is missing; the operator was told.", field=path.name)


def require_digest(expected: str, actual: str) -> None:
    """Refuse an input whose bytes have changed on disk."""
    if actual != expected:
        raise BlobDamaged(f"The blob {expected} is damaged: its bytes hash to {actual}.", field=expected)
