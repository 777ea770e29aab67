"""Pushed models, in disposable processes: the patch from a base to what tools of the Hub sent."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.breadcrumbs.checking.companions import write_companion
from registry.breadcrumbs.diffing.adapters.adapted import Adapted, open_tuned
from registry.breadcrumbs.diffing.diff import diff as make_patch
from registry.breadcrumbs.formats.checkpoint import Checkpoint, open_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from registry.documents.trailers import of_mask
from registry.errors import InvalidCheckpoint
from registry.files.beside import COMPANION
from registry.files.folders import is_weights
from registry.files.hashing import hash_file
from registry.sandboxes.inputs import require_files
from registry.sandboxes.tasks import Progress, fraction

OF_CHOICE = ("include", "exclude", "strip_prefix", "shared_only", "shared_rows")


def diff(
    base: Mapping[str, str],
    sent: Mapping[str, str],
    deleted: Sequence[str],
    options: Mapping[str, Any],
    named: str | None,
    out: str,
    device: str,
    device_memory: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Write the patch from a base to a model that was pushed.

    Args:
        base: Path of each file (weights, index, config) of the base, or else of what the model was tuned from, by its
            name in the folder.
        sent: The same of the files that were pushed.
        deleted: Files of the base that the push has deleted.
        options: Those of the diff that a commit's description gives; others are left alone.
        named: Weights digest of the base that the patch is for, where it was tuned from something else.
        out: The folder to write `patch.safetensors` to.
        device: auto, cpu or cuda.
        device_memory: Most bytes to use on a GPU; None for the default.
        progress: Called with a number from 0 to 1 now and then.

    Returns:
        sha256 and bytes of the patch; how far the model has moved, and what its author should know, as of `Diffed`; and
        `beside`: file, sha256 and bytes of its companion, by its path in a model, if the description asks for one and
        only the tuned model has something.

    Raises:
        InvalidCheckpoint, CheckpointMismatch, InvalidPatch: No patch can be made of it; the message says why.
        StorageFailed: A file is missing.
    """
    require_files([*base.values(), *sent.values()])
    params = MaskParams(**of_mask(options))
    choice = {name: options[name] for name in OF_CHOICE if name in options}
    with (
        open_checkpoint({name: Path(path) for name, path in base.items()}) as before,
        open_pushed(Path(out), before, base, sent, deleted) as after,
    ):
        made = make_patch(
            before,
            after,
            Path(out) / "patch.safetensors",
            params,
            progress=fraction(progress),
            device=device,
            device_memory=device_memory,
            named=named,
            **choice,
        )
        companion = Path(out) / "companion.safetensors"
        wanted = options.get("companion") and write_companion(before, after, made.pairing, companion)
    beside = {COMPANION: (str(companion), hash_file(companion), companion.stat().st_size)} if wanted else {}
    told = {"moved": made.relative_change, "notes": list(made.notes)}
    return {"sha256": made.sha256, "size": made.size, "beside": beside, **told}


def open_pushed(
    folder: Path, before: Checkpoint, base: Mapping[str, str], sent: Mapping[str, str], deleted: Sequence[str]
) -> Checkpoint | Adapted:
    """Open a model that was pushed: what was sent if that is a whole model or an adapter, else over the base's files.

    Raises:
        InvalidCheckpoint, CheckpointMismatch: As of `open_tuned`.
    """
    try:
        return open_tuned(link_files(folder / "sent", sent), before)
    except InvalidCheckpoint:
        weights = {path for path in sent if is_weights(path)}
        if not weights <= base.keys():  # it is no change of the base's own files
            raise
    kept = {path: file for path, file in base.items() if path not in deleted}
    return open_tuned(link_files(folder / "merged", {**kept, **sent}), before)


def link_files(folder: Path, files: Mapping[str, str]) -> Path:
    """Make a folder of links to files, by their names in it; return it."""
    for name, path in files.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return folder
