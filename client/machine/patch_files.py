"""Patch files on this machine: what base they are for, opened once they are checked, and the alpha that they give.

Nothing here needs a registry, so `crumb apply` does without the code that talks to one.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from client.machine import known_files
from client.terminal.console import Console
from registry.breadcrumbs.comparing.alpha import AlphaPart, choose_alpha, kept_share
from registry.breadcrumbs.formats.recipe import ALONE
from registry.errors import BaseMismatch, InvalidPatch, InvalidRecipe, InvalidRequest, NotFound

if TYPE_CHECKING:
    from registry.breadcrumbs.formats.checkpoint import Checkpoint
    from registry.breadcrumbs.formats.patchfile import Patch

QUIET = Console(quiet=True)


def patch_base(path: Path) -> str:
    """Return the weights digest of the base that a patch file is for, reading only its header.

    Raises:
        NotFound: There is no such file.
        InvalidPatch: The file is not a patch.
    """
    base = _patch_base(path, f"Patch {path.name}")
    if base is None:
        raise InvalidPatch(f"{path} is not a breadcrumb patch; make one with `crumb diff`.")
    return base


def is_patch(path: Path) -> bool:
    """Return whether a safetensors file is a patch, and not the weights of a model or an adapter.

    Raises:
        InvalidPatch: The file is neither.
    """
    return _patch_base(path, f"File {path.name}") is not None


def _patch_base(path: Path, label: str) -> str | None:
    from registry.breadcrumbs.formats.header import PATCH_LIMITS
    from registry.breadcrumbs.formats.header_reader import read_header

    with open_file(path) as file:
        metadata = read_header(file, path.stat().st_size, label, PATCH_LIMITS, InvalidPatch).metadata
    return metadata.get("base") if metadata.get("format") == "breadcrumb-patch" else None


def open_file(path: Path) -> BinaryIO:
    """Open a file that a person named.

    Raises:
        NotFound: There is no such file.
        InvalidRequest: The file cannot be read.
    """
    try:
        return path.open("rb")
    except FileNotFoundError as why:
        raise NotFound(f"There is no file {path}.") from why
    except OSError as why:
        raise InvalidRequest(f"{path} cannot be read: {why.strerror}.") from why


@contextlib.contextmanager
def open_checked(
    files: Sequence[Path], digest: str, base: "Checkpoint", *, anew: bool = False, console: Console = QUIET
) -> "Iterator[list[tuple[str, Patch]]]":
    """Check patch files against the base of this weights digest, and open them, each with its sha256, in their order.

    A file that was found sound for this base before, and has not changed since, is not read again, unless it is to be
    checked `anew`.

    Raises:
        BaseMismatch: A patch is for another base, or the base does not have this digest and a patch does not fit it.
        InvalidPatch: A patch is not sound.
    """
    from registry.breadcrumbs.checking.check import check_patches
    from registry.breadcrumbs.formats.digest import digest_checkpoint
    from registry.breadcrumbs.formats.patchfile import open_patch

    with contextlib.ExitStack() as stack:
        try:
            opened = [stack.enter_context(open_patch(path)) for path in files]
            states = [known_files.state_of(os.fstat(patch.fileno())) for patch in opened]
            pairs = zip(opened, states, strict=True)
            found = [None if anew else _recall(patch, state, digest, base) for patch, state in pairs]
            unknown, began = [place for place, sha256 in enumerate(found) if sha256 is None], known_files.now()
            if unknown:
                with console.progress("checking patches") as progress:
                    reports = check_patches([files[place] for place in unknown], digest, base.tensors, progress)
                for place, report in zip(unknown, reports, strict=True):
                    found[place] = report.sha256
                    if known_files.state_of(files[place].stat()) == states[place]:
                        known_files.remember(_sound_for(digest), {"patch": states[place]}, report.sha256, began)
        except (
            InvalidPatch
        ) as why:  # a sound patch breaks rules at the wrong base, such as how many tensors it may have
            with console.progress("hashing the base") as progress:
                held = digest_checkpoint(base, progress)
            if held == digest:
                raise
            raise BaseMismatch(
                f"The patches were made for base {digest}, and this is {held}; choose the base that they were made "
                "for.",
                field="base",
            ) from why
        yield [(str(sha256), patch) for sha256, patch in zip(found, opened, strict=True)]


def _sound_for(digest: str) -> str:
    """Return the kind under which it is kept that a patch is sound for a base, with the patch's sha256."""
    return f"patch for {digest}"


def _recall(patch: "Patch", state: known_files.State, digest: str, base: "Checkpoint") -> str | None:
    """Return the sha256 of a patch file that is known to be sound; None if that has to be found out."""
    fits = patch.info.base == digest and all(
        base.tensors.get(name) == spec for name, spec in patch.info.tensors.items()
    )
    return known_files.recall(_sound_for(digest), {"patch": state}) if fits else None


def alpha_of_files(
    base: "Checkpoint",
    patches: "Mapping[str, Patch]",
    weighted: Sequence[tuple[str, str]],
    method: str,
    *,
    console: Console = QUIET,
) -> str:
    """Compare patches here, and return the alpha that they give.

    Args:
        base: What they are for.
        patches: By the sha256 of their files.
        weighted: sha256 and weight of those that are combined.
        method: sum, ties or mean.
        console: Where progress goes.

    Raises:
        InvalidRecipe: The patches cancel each other.
    """
    from registry.breadcrumbs.comparing.base_norms import measure_bases
    from registry.breadcrumbs.comparing.conflicts import analyse, total

    names = [sha256 for sha256, _ in weighted]
    if len(names) < 2:
        return ALONE
    with console.progress("comparing patches") as progress:
        found = analyse({name: patches[name] for name in names}, list(combinations(names, 2)), progress=progress).pairs
    sums = {pair: total(tensors.values()) for pair, tensors in found.items()}
    squares = dict.fromkeys(names, 0.0)
    for (one, two), added in sums.items():
        squares |= {one: added.first_squares, two: added.second_squares}
    dots = {(names.index(one), names.index(two)): added.dot for (one, two), added in sums.items()}
    with console.progress("measuring the base") as progress:
        bases = measure_bases(base, [patches[name] for name in names], progress)
    parts = [
        AlphaPart(weight, kept_share(mask.drop_bottom, mask.drop_top), squares[name], size)
        for (name, weight), size in zip(weighted, bases, strict=True)
        for mask in [patches[name].info.params]
    ]
    return choose_alpha(method, parts, dots)


def factors_of(where: Iterable[tuple[int, str, str]], patches: "Sequence[Patch]") -> list[tuple[tuple[str, str], ...]]:
    """Return the weights by tensor of each patch, given by the patch's position, from 1.

    Raises:
        InvalidRecipe: There is no such patch, or it changes no such tensor.
    """
    from registry.breadcrumbs.formats.globs import require_matches

    factors: list[list[tuple[str, str]]] = [[] for _ in patches]
    for position, glob, factor in where:
        if not 0 < position <= len(patches):
            raise InvalidRecipe(
                f"There is no patch {position}; they are counted from 1 to {len(patches)}.", field="where"
            )
        names = list(patches[position - 1].info.tensors)
        require_matches([glob], names, f"Patch {position}", "crumb show")
        factors[position - 1].append((glob, factor))
    return [tuple(pairs) for pairs in factors]
