"""Parts: tasks that compose some of a composition's weight files, to the bytes that they have in the whole.

A machine needs of the base only the files that it composes, and of the rest the tensors' names, dtypes, shapes and
digests, to which the recipe's base and its patches are held.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.breadcrumbs.composing.compose import BaseTensors
from registry.breadcrumbs.composing.compose import compose_files as compose_weights
from registry.breadcrumbs.formats.checkpoint import open_files
from registry.breadcrumbs.formats.header import TensorSpec
from registry.breadcrumbs.formats.recipe import make_recipe
from registry.breadcrumbs.formats.weight_files import find_weights
from registry.sandboxes.inputs import WHOLE, Extents, opened, require_files
from registry.sandboxes.stages import stage
from registry.sandboxes.tasks import fraction


def list_files(
    files: Mapping[str, str], progress: Callable[[float], None], absent: Sequence[str] = ()
) -> dict[str, list[str]]:
    """List the weight files of a base, and the indexes that name them, by their paths in the folder.

    Args:
        files: Path of each file of the base (weights, index, config) by its name in the folder.
        progress: Not called.
        absent: Names of weight files that are elsewhere.

    Raises:
        StorageFailed: A file is missing.
        InvalidCheckpoint: The files are not a sound checkpoint.
    """
    require_files(files.values())
    standing_in = dict.fromkeys(absent, Path(__file__))  # of weights only the names are looked at
    weights = find_weights({name: Path(path) for name, path in files.items()} | standing_in)
    return {"files": list(weights.files), "indexes": list(weights.indexes)}


def compose_files(
    base: Mapping[str, tuple[str, str]],
    tensors: Sequence[tuple[str, str, Sequence[int], str]],
    patches: Mapping[str, str],
    recipe: Mapping[str, Any],
    out: str | None,
    device: str,
    device_memory: int | None,
    progress: Callable[[float], None],
    excerpts: Mapping[str, Extents] = WHOLE,
    verified: bool = False,
    threads: int | None = None,
) -> dict[str, Any]:
    """Compose some weight files of a recipe's model, or only find out their digests.

    Args:
        base: (path, sha256) of each of these files of the base by its name in the folder.
        tensors: (name, dtype, shape, sha256) of all tensors of the base.
        patches: Path of each patch file by its sha256.
        recipe: `base`, `alpha`, `items` and `method`, as `make_recipe` takes them.
        out: The folder to write to; None to write nothing.
        device: auto, cpu or cuda.
        device_memory: Most bytes to use on a GPU; None for the default.
        progress: Called with a number from 0 to 1 now and then.
        excerpts: Of the patches whose files are not here whole, the extents that are.
        verified: Whether the patch files were hashed a moment ago.
        threads: How many chunks are computed at a time; as many as there are processors when None.

    Returns:
        Device and seconds; of each file its sha256, its size in bytes, the sha256 of each of its tensors, and how many
        variances of batch norm are negative that were not in the base, by tensor.

    Raises:
        NotFinite: The result overflows; the message names the tensor.
        StorageFailed: An input is missing or damaged.
    """
    others = {sha256: path for path, sha256 in base.values()}
    checked = make_recipe(**recipe)
    whole = BaseTensors(
        {name: TensorSpec(dtype, tuple(shape)) for name, dtype, shape, _ in tensors},
        {name: sha256 for name, _, _, sha256 in tensors},
    )
    with (
        opened(patches, others, excerpts=excerpts, most=1, verified=verified) as opened_patches,
        open_files({name: Path(path) for name, (path, _) in base.items()}) as checkpoint,
        stage("kernels") as known,
    ):
        result = compose_weights(
            checkpoint,
            opened_patches,
            checked,
            None if out is None else Path(out),
            device,
            fraction(progress),
            whole=whole,
            file_digests=True,
            base_files={name: base[name][1] for name in checkpoint.files},
            threads=threads,
            device_memory=device_memory,
        )
        known |= {"device": result.device, "patches": str(len(opened_patches)), "method": checked.method}
    return {
        "device": result.device,
        "seconds": result.seconds,
        "files": {
            name: {
                "sha256": file.sha256,
                "size": file.size,
                "tensors": {tensor: result.tensors[tensor] for tensor in checkpoint.headers[name].entries},
                "negative": {
                    tensor: count
                    for tensor, count in result.negative.items()
                    if tensor in checkpoint.headers[name].entries
                },
            }
            for name, file in result.files.items()
        },
    }
