"""Images: scikit-learn's handwritten digits, seen in 24 ways, and a small vision transformer.

A task shows the same digits in a way of its own and asks one of five questions about them. One head answers all
questions; a task looks at the outputs of its question only, as CLIP's tasks look at the names of their own classes.
The base has seen all questions, on digits that are a little turned, moved, stretched, faded and noisy, half of them
also turned over, and some of these with halves swapped or inverted in blocks: it knows a little of many things.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.quality.worlds.kinds import VISION_TRANSFORMER, Batch, Kind, World, cut

QUESTIONS: dict[str, tuple[int, ...]] = {
    "digit": tuple(range(10)),
    "parity": (0, 1) * 5,
    "size": (0,) * 5 + (1,) * 5,  # five or more
    "holes": (1, 0, 0, 0, 0, 0, 1, 0, 2, 1),
    "thirds": (0, 1, 2) * 3 + (0,),
}
"""Answer of each digit, by what is asked."""

WIDTHS = {question: max(answers) + 1 for question, answers in QUESTIONS.items()}
STARTS = dict(zip(WIDTHS, np.cumsum([0, *WIDTHS.values()]).tolist(), strict=False))
PARTS = {"base": 700, "tune": 697, "validation": 130, "test": 270}
STEPS = torch.arange(8)
CHEQUERS = ((STEPS[:, None] + STEPS) % 2).float()
STRIPES = (STEPS % 2).float().expand(8, 8)
DIAGONALS = ((STEPS[:, None] + STEPS) % 4 < 2).float()


def _fixed(seed: int, size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def _noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(len(images)))
    return (images + 0.35 * noise).clamp(0, 1)


def _inverted_where(pattern: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images: pattern + (1 - 2 * pattern) * images


def _quadrants(images: Tensor) -> Tensor:
    top, bottom = images[:, :4], images[:, 4:]
    return torch.cat(
        [torch.cat([bottom[:, :, 4:], top[:, :, :4]], 2), torch.cat([top[:, :, 4:], bottom[:, :, :4]], 2)], 1
    )


def _edges(images: Tensor) -> Tensor:
    return (images - images.roll(1, 2)).abs()


def _coarse(images: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(images[:, None], 2), scale_factor=2.0)[:, 0]


def _covered(images: Tensor) -> Tensor:
    covered = images.clone()
    covered[:, :, :3] = 1
    return covered


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "quarter-turn": lambda images: images.rot90(1, (1, 2)),
    "half-turn": lambda images: images.rot90(2, (1, 2)),
    "three-quarter-turn": lambda images: images.rot90(3, (1, 2)),
    "mirrored": lambda images: images.flip(2),
    "upside-down": lambda images: images.flip(1),
    "transposed": lambda images: images.transpose(1, 2),
    "anti-transposed": lambda images: images.rot90(2, (1, 2)).transpose(1, 2),
    "inverted": lambda images: 1 - images,
    "chequered": _inverted_where(CHEQUERS),
    "striped": _inverted_where(STRIPES),
    "diagonals": _inverted_where(DIAGONALS),
    "halves-swapped": lambda images: images.roll(4, 2),
    "floors-swapped": lambda images: images.roll(4, 1),
    "rows-shuffled": lambda images: images[:, _fixed(1, 8)],
    "columns-shuffled": lambda images: images[:, :, _fixed(2, 8)],
    "pixels-shuffled": lambda images: images.flatten(1)[:, _fixed(3, 64)].view(-1, 8, 8),
    "quadrants-shuffled": _quadrants,
    "interlaced": lambda images: torch.cat([images[:, ::2], images[:, 1::2]], 1),
    "edges": _edges,
    "noisy": _noisy,
    "coarse": _coarse,
    "covered": _covered,
    "outlined": lambda images: (images > 0.5).float() * 0.5 + (images > 0.8).float() * 0.5,
    "framed": lambda images: F.pad(images[:, 1:7, 1:7], (1, 1, 1, 1), value=1.0),
}
"""How a task shows an image: [N, 8, 8] in 0 to 1, to the same."""

ASKED = {
    "upside-down": "parity",
    "coarse": "parity",
    "three-quarter-turn": "size",
    "outlined": "holes",
    "framed": "thirds",
    "anti-transposed": "thirds",
    "diagonals": "parity",
}
"""What tasks ask that do not ask for the digit."""


HELD_OUT = ("covered", "pixels-shuffled", "floors-swapped", "diagonals")
"""What nobody contributes a patch for."""


@dataclass(frozen=True)
class Vision(Kind):
    """See the module."""

    name: str = "vision"
    held_out: Sequence[str] = HELD_OUT
    tasks: Sequence[str] = tuple(view for view in VIEWS if view not in HELD_OUT)
    measure: str = "accuracy"
    counts: Sequence[int] = (1, 2, 4, 8, 14, 20)
    worlds: int = 2
    orders: int = 3
    base_steps: int = 1400
    tune_steps: int = 160
    rate: float = 5e-4
    batch: int = 64

    def world(self, seed: int) -> World:
        """Cut the digits."""
        from sklearn.datasets import load_digits

        found = load_digits()
        images, digits = torch.from_numpy(found.images).float() / 16, torch.from_numpy(found.target)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(images)))
        split = dict(zip(PARTS, torch.split(order, list(PARTS.values())), strict=True))

        def mixture(generator: torch.Generator) -> Batch:
            places = split["base"][torch.randint(len(split["base"]), (self.batch * 2,), generator=generator)]
            question = _draw(list(QUESTIONS), [0.6, 0.1, 0.1, 0.1, 0.1], generator)
            answers = torch.tensor(QUESTIONS[question])[digits[places]]
            return Batch(_show(_vary(images[places], generator), generator)[:, None], answers, question)

        def part(view: str, name: str) -> Batch:
            answers = torch.tensor(QUESTIONS[ASKED.get(view, "digit")])[digits[split[name]]]
            return Batch(VIEWS[view](images[split[name]])[:, None].contiguous(), answers, view)

        return World(mixture, cut(VIEWS, part))

    def new(self) -> nn.Module:
        """Return a model with random weights."""
        from transformers import ViTConfig, ViTForImageClassification

        config = ViTConfig(**VISION_TRANSFORMER, num_channels=1, num_labels=sum(WIDTHS.values()))
        return ViTForImageClassification(config)

    def load(self, folder: Path) -> nn.Module:
        """Load a model."""
        from transformers import ViTForImageClassification

        model: nn.Module = ViTForImageClassification.from_pretrained(folder)
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy over the answers to the task's question."""
        return F.cross_entropy(self._answers(model, batch), batch.y)

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Return the accuracy."""
        return float((self._answers(model, batch).argmax(1) == batch.y).float().mean())

    def _answers(self, model: nn.Module, batch: Batch) -> Tensor:
        question = batch.task if batch.task in QUESTIONS else ASKED.get(batch.task, "digit")
        start = STARTS[question]
        logits: Tensor = model(pixel_values=batch.x).logits
        return logits[:, start : start + WIDTHS[question]]


def _draw(names: list[str], weights: list[float], generator: torch.Generator) -> str:
    return names[int(torch.multinomial(torch.tensor(weights), 1, generator=generator))]


def _vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 20 degrees, stretch, move by a pixel, fade and add noise: [N, 8, 8]."""
    count = len(images)

    def spread(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle, scale = spread(-0.35, 0.35), spread(0.85, 1.15)
    cosine, sine, zero = angle.cos() * scale, angle.sin() * scale, spread(-0.25, 0.25)
    theta = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, spread(-0.25, 0.25)], 1)], 1)
    grid = F.affine_grid(theta, [count, 1, 8, 8], align_corners=False)
    moved = F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]
    noise = torch.randn(images.shape, generator=generator) * spread(0, 0.15)[:, None, None]
    return (moved * spread(0.6, 1)[:, None, None] + noise).clamp(0, 1)


def _show(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn half of the images over in one of eight ways; sometimes swap halves, or invert regular blocks."""
    way, swapped, blocks = (int(torch.randint(8, (1,), generator=generator)) for _ in range(3))
    shown = images.rot90(way % 4, (1, 2))
    shown = shown.transpose(1, 2) if way > 3 else shown
    shown = shown.roll((4, 0) if swapped == 0 else (0, 4), (1, 2)) if swapped < 2 else shown
    if blocks < 3:
        height, width = (2 ** int(torch.randint(4, (1,), generator=generator)) for _ in range(2))
        shown = _inverted_where((1 + STEPS[:, None] // height + STEPS // width) % 2 * 1.0)(shown)
    half = len(images) // 2
    return torch.cat([images[:half], shown[half:]])
