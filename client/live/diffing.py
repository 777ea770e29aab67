"""Diffs of models that run: the patch of a module in memory, without writing the module out.

The patch is the one that `crumb diff` makes of the saved folder, to the byte: tensors are read by the names that
saving would give them. Of a PEFT model the adapter alone is saved, to a temporary folder, and merged as `crumb diff`
merges it, in float64.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from client.actions.patching import diff
from client.actions.results import MadePatch
from client.live.module import ModuleWeights
from client.live.naming import check_whole, has_adapter, unwrap
from client.terminal.console import Console
from registry.breadcrumbs.diffing.pairing import Choice, pair
from registry.breadcrumbs.formats.checkpoint import Checkpoint, Weights, open_checkpoint


def diff_of(
    module: torch.nn.Module,
    base: str | Path | Mapping[str, Path],
    out: str | Path,
    *,
    quiet: bool = False,
    **options: Any,
) -> MadePatch:
    """Make the patch of a model that runs; it must not change meanwhile.

    Args:
        module: The model after: a torch module, of transformers or not, or a PEFT model.
        base: The model before: a .safetensors file, a model folder or a Hub id; or a folder's files by their paths.
        out: The patch file to write.
        quiet: Whether to show neither progress nor notes.
        **options: Options of `client.diff`, like `drop_bottom="0.9"`.

    Raises:
        CheckpointMismatch: The two models do not fit together.
        InvalidCheckpoint: A tensor holds NaN or Inf.
        InvalidPatch: Nothing changed.
        InvalidRequest: A tensor of the module is not in this process's memory, or an option is out of bounds.
    """

    def open_module(opened: Checkpoint) -> contextlib.AbstractContextManager[Weights]:
        inner = unwrap(module)
        return _open_adapted(inner, opened) if has_adapter(inner) else ModuleWeights(inner)

    return diff(base, open_module, out, console=Console(quiet=quiet), **options)


def check_diff(
    module: torch.nn.Module,
    base: Path | Mapping[str, Path],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    strip_prefix: str | None = None,
    shared_only: bool = False,
    shared_rows: bool = False,
    **_: Any,
) -> None:
    """Check before a training that a patch of a model can be made after it; arguments as of `diff_of`.

    Raises:
        CheckpointMismatch: The two models do not fit together.
        InvalidRequest: A tensor of the module is not in this process's memory, or an option is out of bounds.
    """
    check_whole(module)
    inner = unwrap(module)
    if has_adapter(inner):  # it is saved without its base
        return
    choice = Choice(include, exclude, strip_prefix, shared_only, shared_rows)
    with open_checkpoint(base) as opened, ModuleWeights(inner) as weights:
        pair(opened, weights, choice)


@contextlib.contextmanager
def _open_adapted(module: torch.nn.Module, base: Checkpoint) -> Iterator[Weights]:
    from registry.breadcrumbs.diffing.adapters.adapted import open_tuned

    with tempfile.TemporaryDirectory(prefix="crumb-adapter-") as folder:
        module.save_pretrained(folder)  # type: ignore[operator]
        with open_tuned(Path(folder), base) as adapted:
            yield adapted
