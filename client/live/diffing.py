"""Diffs of models that run: the patch of a module in memory, without writing the module out.

The patch is the one that `crumb diff` makes of the saved folder, to the byte: tensors are read by the names that
saving would give them. Of a PEFT model the adapter alone is saved, to a temporary folder, and merged as `crumb diff`
merges it, in float64.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from client.actions.patching import diff
from client.actions.results import MadePatch
from client.live.module import ModuleWeights
from client.live.naming import unwrap
from client.terminal.console import Console
from registry.breadcrumbs.formats.checkpoint import Checkpoint, Weights


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
        return _open_adapted(inner, opened) if _has_adapter(inner) else ModuleWeights(inner)

    return diff(base, open_module, out, console=Console(quiet=quiet), **options)


def _has_adapter(module: torch.nn.Module) -> bool:
    """Say whether saving a module writes an adapter: of PEFT's own model, or of one of transformers that has one."""
    peft = sys.modules.get("peft")
    wrapped = peft is not None and isinstance(module, peft.PeftModel)
    return wrapped or bool(getattr(module, "_hf_peft_config_loaded", False))


@contextlib.contextmanager
def _open_adapted(module: torch.nn.Module, base: Checkpoint) -> Iterator[Weights]:
    from registry.breadcrumbs.diffing.adapters.adapted import open_tuned

    with tempfile.TemporaryDirectory(prefix="crumb-adapter-") as folder:
        module.save_pretrained(folder)  # type: ignore[operator]
        with open_tuned(Path(folder), base) as adapted:
            yield adapted
