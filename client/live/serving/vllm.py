"""vLLM: changes in the form that its weight transfer takes, and a server of it that takes delta files while it serves.

    a trainer's own engine       sparse_patches(changes) -> SparseNCCLTrainerWeightTransferEngine.send_weights
    a server that follows        vllm serve FOLDER --weight-transfer-config '{"backend": "breadcrumb"}'
                                 crumb follow NS/NAME@stable -o FOLDER -- python -m client.live.serving.vllm URL {delta}

For the second, the workers read the delta file themselves (vllm_engine.py), and this module tells them its path and its
digest by the routes that vLLM has for it.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch

from client.live.elements import CODES
from client.live.serving.changes import Changed
from client.machine.patch_files import open_file
from client.terminal.console import Console
from registry.breadcrumbs.deltas.delta_file import open_delta
from registry.breadcrumbs.formats.header import FLOATS, show
from registry.errors import BreadcrumbError, InvalidRequest, Unavailable
from registry.files.hashing import hash_file

TIMEOUT = 600.0  # seconds for a server to take a delta
KINDS = {code: dtype for dtype, code in CODES.items()}


def sparse_patches(changes: Iterable[Changed], device: str | torch.device = "cpu") -> Iterator[Any]:
    """Yield changes as vLLM's SparseWeightPatch, for a trainer's engine of the backend `sparse_nccl`.

    Args:
        changes: What differs.
        device: Where the tensors are to be.

    Raises:
        InvalidRequest: A change is one that vLLM does not take.
    """
    from vllm.distributed.weight_transfer.sparse_nccl_engine import SparseWeightPatch

    for change in changes:
        indices, values = to_tensors(change)
        yield SparseWeightPatch(change.name, indices.to(device), values.to(device), change.spec.shape)


def to_tensors(change: Changed) -> tuple[torch.Tensor, torch.Tensor]:
    """Return indices and values of a change as torch's.

    Raises:
        InvalidRequest: vLLM does not take it: it is not a float, or holds NaN, which stands for unchanged there.
    """
    if change.spec.dtype not in FLOATS:
        raise InvalidRequest(f"{show(change.name)} is {change.spec.dtype}, and vLLM takes changes of floats only.")
    values = torch.from_numpy(np.ascontiguousarray(change.values)).view(KINDS[change.spec.dtype])
    if bool(values.isnan().any()):
        raise InvalidRequest(
            f"{show(change.name)} becomes NaN in places, which vLLM takes for unchanged; load it anew."
        )
    return torch.from_numpy(np.ascontiguousarray(change.indices)), values


def update_server(
    url: str, delta: Path, post: Callable[[str, dict[str, Any] | None], None] | None = None
) -> tuple[str, str]:
    """Have a running server take a delta: it refuses requests (503) meanwhile, and after an error until a new start.

    Args:
        url: Of the server.
        delta: A file that its workers can read by this path.
        post: Sends a call, given its path and body; by HTTP when None.

    Returns:
        The weights digests before and after.

    Raises:
        NotFound: There is no such file.
        InvalidPatch: The file is not a sound delta.
        Unavailable: The server refused it, or did not answer.
    """
    delta = delta.resolve()
    open_file(delta).close()
    with open_delta(delta) as opened:
        ends = opened.info.ends
    call, sha256 = post or _posting(url), hash_file(delta)
    call("init_weight_transfer_engine", {"init_info": {}})
    call("pause?mode=wait", None)  # no answer is begun with the old weights and ended with the new ones
    call("start_weight_update", None)
    call("update_weights", {"update_info": {"path": str(delta), "sha256": sha256}})
    call("finish_weight_update", {"weight_version": ends.after})
    call("resume", None)
    return ends.before, ends.after


def _posting(url: str) -> Callable[[str, dict[str, Any] | None], None]:
    def post(path: str, body: dict[str, Any] | None) -> None:
        where = f"{url.rstrip('/')}/{path}"
        try:
            answer = httpx2.post(where, json=body, timeout=TIMEOUT)
        except httpx2.HTTPError as why:
            raise Unavailable(f"{where} does not answer: {type(why).__name__}.") from why
        if answer.is_error:
            raise Unavailable(
                f"{where} answers {answer.status_code}: {answer.text[:500]!r}. The server may be paused, and hold a "
                "part of the change; start it again from the folder."
            )

    return post


def main(arguments: Sequence[str]) -> int:
    """Run `python -m client.live.serving.vllm URL DELTA`."""
    if len(arguments) != 2:
        print("Usage: python -m client.live.serving.vllm URL DELTA", file=sys.stderr)
        return 2
    try:
        before, after = update_server(arguments[0], Path(arguments[1]))
    except BreadcrumbError as why:
        Console().note(f"Error: {why}")
        return 1
    print(f"{before} -> {after}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
