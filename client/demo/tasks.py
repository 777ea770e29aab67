"""Models and tasks of the demo: a small vision transformer on scikit-learn's handwritten digits, and six tasks.

    digits 1797 x 8 x 8  ->  base 700 | tune 697 | test 400       disjoint, shuffled with a fixed seed

The base learns the digits as they were scanned. Each task shows the same digits in another way, which the base reads
badly and learns by fine-tuning on the tune part. All accuracies are on the test part.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils import logging

BASE, TUNE = 700, 697
BASE_STEPS, TUNE_STEPS = 500, 150
BASE_RATE, TUNE_RATE = 2e-3, 1e-3
BATCH = 64
UPRIGHT = "as-scanned"
CONFIG = {
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "num_labels": 10,
}


@dataclass(frozen=True)
class DigitSplit:
    """Some of the digits: images (n, 8, 8) float32 from 0 to 1, labels (n,) from 0 to 9."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Digits:
    """The digits in three disjoint parts."""

    base: DigitSplit
    tune: DigitSplit
    test: DigitSplit


def uneven_light(images: Tensor) -> Tensor:
    """Light the page from the left."""
    return 0.6 * images + 0.8 * (1 - torch.arange(8) / 7)


def striped_paper(images: Tensor) -> Tensor:
    """Print every second column's background dark."""
    return images + 0.8 * (torch.arange(8) % 2)


def rotated(images: Tensor) -> Tensor:
    """Turn by 45 degrees."""
    cos = sin = math.sqrt(0.5)
    return _resampled(images, [[cos, -sin, 0.0], [sin, cos, 0.0]])


def occluded(images: Tensor) -> Tensor:
    """Paint over every third row."""
    return torch.where(torch.arange(8)[:, None] % 3 == 0, 1.0, images)


def enlarged(images: Tensor) -> Tensor:
    """Show the middle of the page, enlarged."""
    return _resampled(images, [[0.6, 0.0, 0.0], [0.0, 0.6, 0.0]])


def shuffled(images: Tensor) -> Tensor:
    """Put the sixteen blocks of 2 x 2 pixels into another order, always the same."""
    order = torch.randperm(16, generator=torch.Generator().manual_seed(5))
    blocks = images.reshape(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, 16, 2, 2)[:, order]
    return blocks.reshape(-1, 4, 4, 2, 2).permute(0, 1, 3, 2, 4).reshape(-1, 8, 8)


TASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "uneven-light": uneven_light,
    "striped-paper": striped_paper,
    "rotated": rotated,
    "occluded": occluded,
    "enlarged": enlarged,
    "shuffled": shuffled,
}
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {UPRIGHT: lambda images: images, **TASKS}


def load_parts() -> Digits:
    """Return the digits, which come with scikit-learn, in their three parts."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    images = (torch.from_numpy(bunch.images) / 16).float()[order]
    labels = torch.from_numpy(bunch.target).long()[order]
    cuts = (slice(0, BASE), slice(BASE, BASE + TUNE), slice(BASE + TUNE, None))
    return Digits(*(DigitSplit(images[cut], labels[cut]) for cut in cuts))


def train_base(digits: Digits, folder: Path) -> None:
    """Train the base from scratch and save it in the Hugging Face layout."""
    _set_up()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViTForImageClassification(ViTConfig(**CONFIG))
    _train(model, digits.base, BASE_STEPS, BASE_RATE, seed=1)
    model.save_pretrained(folder)


def fine_tune(base: Path, task: str, digits: Digits, folder: Path) -> None:
    """Fine-tune the base on one task and save it in the Hugging Face layout."""
    model = load(base)
    seen = DigitSplit(TASKS[task](digits.tune.images), digits.tune.labels)
    _train(model, seen, TUNE_STEPS, TUNE_RATE, seed=10 + list(TASKS).index(task))
    model.save_pretrained(folder)


def load(folder: Path) -> ViTForImageClassification:
    """Load a model of the demo as a user of transformers would."""
    _set_up()
    return ViTForImageClassification.from_pretrained(folder, local_files_only=True).eval()


def evaluate(model: ViTForImageClassification, digits: Digits) -> dict[str, float]:
    """Return the accuracy in percent on the test part, for every view of it."""
    with torch.inference_mode():
        return {
            name: 100
            * (_logits(model, view(digits.test.images)).argmax(1) == digits.test.labels).double().mean().item()
            for name, view in VIEWS.items()
        }


def add_directions(base: Path, tuned: list[Path], alpha: float) -> ViTForImageClassification:
    """Return plain task arithmetic: base + alpha * sum(tuned - base), nothing masked, in float64."""
    model = load(base)
    others = [load(folder).state_dict() for folder in tuned]
    merged = {
        name: (start.double() + alpha * sum(other[name].double() - start.double() for other in others)).to(start.dtype)
        for name, start in model.state_dict().items()
    }
    model.load_state_dict(merged)
    return model


def _set_up() -> None:
    torch.set_num_threads(1)  # measured: a second thread makes steps this small slower
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _resampled(images: Tensor, matrix: list[list[float]]) -> Tensor:
    # matrix: (2, 3), from a place on the new page to one on the old, both from -1 to 1
    places = torch.nn.functional.affine_grid(
        torch.tensor(matrix).expand(len(images), 2, 3), [len(images), 1, 8, 8], align_corners=False
    )
    return torch.nn.functional.grid_sample(images[:, None], places, align_corners=False)[:, 0]


def _logits(model: ViTForImageClassification, images: Tensor) -> Tensor:
    logits: Tensor = model(pixel_values=2 * images[:, None] - 1).logits  # (n, 10)
    return logits


def _train(model: ViTForImageClassification, part: DigitSplit, steps: int, rate: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        picked = torch.randint(len(part.labels), (BATCH,), generator=random)
        loss = torch.nn.functional.cross_entropy(_logits(model, part.images[picked]), part.labels[picked])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    model.eval()
