"""The engine of vLLM's workers that puts a delta file into the model they serve. Importing this needs vLLM.

A worker knows by its digest which revision its model is, and takes a delta from that revision only. vLLM does not undo
a change that fails in the middle; the worker then takes no further one, until it is started again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.checkpoint_weight_patch import (
    CheckpointWeightPatch,
    load_checkpoint_weight_patches,
)

from client.live.serving.changes import Changed, changes_of
from client.live.serving.vllm import to_tensors
from registry.breadcrumbs.deltas.delta_file import open_delta
from registry.errors import DigestMismatch, WrongState
from registry.files.hashing import hash_file

GROUP_BYTES = 2**29
"""About how many bytes of whole tensors are loaded in one call: vLLM stages each of them whole."""


@dataclass
class DeltaInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """What a server was loaded with: the weights digest of a revision."""

    holds: str


@dataclass
class DeltaUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """A delta: its file, by a path that every worker can read, and the sha256 of that."""

    path: str
    sha256: str


class DeltaWeightTransferEngine(WeightTransferEngine):  # type: ignore[misc]
    """Puts delta files into a worker's model.

    Attributes:
        holds: The weights digest of what the model is; None before it is known, empty after a change that failed.
    """

    init_info_cls = DeltaInitInfo
    update_info_cls = DeltaUpdateInfo
    supports_draft_weight_update = False
    holds: str | None = None

    def init_transfer_engine(self, init_info: DeltaInitInfo) -> None:
        """Take note of what the model was loaded with; what the engine has changed since counts."""
        if self.holds is None:
            self.holds = init_info.holds

    def start_weight_update(self) -> None:
        """Do nothing: changes are put in place."""

    def finish_weight_update(self) -> None:
        """Do nothing: changes are put in place."""

    def receive_weights(self, update_info: DeltaUpdateInfo) -> None:
        """Put a delta into the model; does nothing if it is there already.

        Raises:
            DigestMismatch: The file is another than was announced.
            WrongState: The model is not the delta's earlier revision.
            InvalidPatch: The delta is not sound.
            InvalidRequest: vLLM does not take such a change.
        """
        path = Path(update_info.path)
        if hash_file(path) != update_info.sha256:
            raise DigestMismatch(f"{path} is not the delta that was announced; send it again.")
        with open_delta(path) as delta:
            ends = delta.info.ends
            if self.holds == ends.after:
                return
            if self.holds != ends.before:
                raise WrongState(
                    f"The model is {self.holds or 'of no known revision'}, and the delta is from {ends.before}; start "
                    "the server again from the files of the later revision."
                )
            for change in changes_of(delta):  # before anything is changed, all of it is known to be taken
                to_tensors(change)
            self.holds = ""
            for group in _groups(changes_of(delta)):
                load_checkpoint_weight_patches(self.model, group, validate_unique_indices=False)
            self.holds = ends.after

    def shutdown(self) -> None:
        """Do nothing: no connection is held."""


def _groups(changes: Iterable[Changed]) -> Iterator[list[Any]]:
    """Gather changes of about GROUP_BYTES of whole tensors, in vLLM's form."""
    group: list[Any] = []
    size = 0
    for change in changes:
        indices, values = to_tensors(change)
        if group and size + change.spec.bytes > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(CheckpointWeightPatch(change.name, change.spec.shape, values.dtype, values, indices))
        size += change.spec.bytes
    if group:
        yield group
