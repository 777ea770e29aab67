"""What a kind of data is to the experiments: examples cut four ways, one model, tasks, and a score.

    examples  ->  base | tune | validation | test      disjoint, cut anew for each world (a seed)

The base learns from the first part, every task from the second; settings are chosen on the third, and what the report
says comes from the fourth. A world is one base with everything that is fine-tuned from it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

VISION_TRANSFORMER = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 512,
}
"""The shape that the models of images share."""

REAL = "minilm"
"""How the names of the kinds on the real base begin."""

MakeBatch = Callable[[torch.Generator], "Batch"]


def is_real(kind: str) -> bool:
    """Say whether a kind of this name is on the real base."""
    return kind.startswith(f"{REAL}-")


@dataclass(frozen=True)
class Batch:
    """Examples: what goes in, what should come out, and which task they are of.

    Attributes:
        x: Inputs, first dimension the examples.
        y: Targets, first dimension the examples.
        task: Its name; it says which outputs count.
    """

    x: Tensor
    y: Tensor
    task: str

    def __len__(self) -> int:
        return len(self.x)

    def take(self, places: Tensor) -> "Batch":
        """Return some of the examples."""
        return Batch(self.x[places], self.y[places], self.task)


@dataclass(frozen=True)
class Parts:
    """A task's examples."""

    tune: Batch
    validation: Batch
    test: Batch


def cut(tasks: Iterable[str], part: Callable[[str, str], Batch]) -> dict[str, Parts]:
    """Return the parts of tasks; `part` makes one of a task's, `tune`, `validation` or `test`."""
    return {task: Parts(part(task, "tune"), part(task, "validation"), part(task, "test")) for task in tasks}


@dataclass(frozen=True)
class World:
    """What one seed makes of the data: batches to train a base on, if it is trained here, and each task's parts."""

    mixture: MakeBatch | None
    parts: Mapping[str, Parts]


@dataclass(frozen=True)
class Kind(ABC):
    """One kind of data with its model and its tasks.

    Attributes:
        name: What it is called.
        tasks: The tasks whose patches are composed.
        held_out: Tasks that nobody contributes.
        measure: What the score is, in a few words; 1 is the best, 0 is no use.
        counts: How many tasks are composed in the experiment on their number.
        worlds: How many bases are trained.
        orders: In how many orders tasks are added in each world.
        base_steps: Steps of training the base.
        tune_steps: Steps of fine-tuning.
        rate: Learning rate of fine-tuning.
        batch: Examples in a step.
        frozen: How the names of tensors begin that are not trained; nothing is composed of them.
        value_dtype: How patches keep their values.
    """

    name: str
    tasks: Sequence[str]
    held_out: Sequence[str]
    measure: str
    counts: Sequence[int]
    worlds: int
    orders: int
    base_steps: int
    tune_steps: int
    rate: float
    batch: int
    frozen: Sequence[str] = ()
    value_dtype: str = "F32"

    def prepare(self) -> None:  # noqa: B027 (most kinds have nothing to do)
        """Fetch what the kind needs, before any process cuts data."""

    def ready_base(self) -> Path | None:
        """Return the folder of a base that is trained already; None where it is trained here."""
        return None

    @abstractmethod
    def world(self, seed: int) -> World:
        """Cut the data."""

    @abstractmethod
    def new(self) -> nn.Module:
        """Return a model with random weights, from torch's global generator."""

    @abstractmethod
    def load(self, folder: Path) -> nn.Module:
        """Load a model from a Hugging Face folder."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss over a batch."""

    @abstractmethod
    def score(self, model: nn.Module, batch: Batch) -> float:
        """Return how well a model does: 1 is the best, 0 and less no use."""
