"""Models of the demo: a small vision transformer, trained from scratch, fine-tuned on a task, and asked."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils import logging

from client.demo.report import MEAN
from client.demo.tasks import CLASSES, DIGIT, TASKS, Digits, DigitSplit, outputs, varied

BASE_STEPS, TUNE_STEPS = 500, 100
BASE_RATE, TUNE_RATE = 2e-3, 2e-4
BATCH = 64
CONFIG = {
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "num_labels": CLASSES + 2 * len(TASKS),
}
Hits = Mapping[str, Tensor]
"""By question: which digits were answered rightly, (n,) float64 of 0 and 1; shares where several models answer."""


def train_base(digits: Digits, folder: Path) -> None:
    """Train the base from scratch to tell which digit it sees, and save it in the Hugging Face layout."""
    _set_up()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViTForImageClassification(ViTConfig(**CONFIG))
    _train(model, digits.train, DIGIT, BASE_STEPS, BASE_RATE, seed=1, vary=varied)
    model.save_pretrained(folder)


def fine_tune(base: Path, task: str, digits: Digits, folder: Path) -> None:
    """Fine-tune the base on one task and save it in the Hugging Face layout."""
    model = load(base)
    _train(model, digits.train, task, TUNE_STEPS, TUNE_RATE, seed=10 + TASKS.index(task))
    model.save_pretrained(folder)


def load(folder: Path) -> ViTForImageClassification:
    """Load a model of the demo as a user of transformers would."""
    _set_up()
    return ViTForImageClassification.from_pretrained(folder, local_files_only=True).eval()


def answer(folder: Path, part: DigitSplit) -> dict[str, Tensor]:
    """Ask the model in a folder all questions about a part of the digits."""
    model = load(folder)
    with torch.inference_mode():
        logits = _logits(model, part.images)
    return {
        question: (logits[:, outputs(question)].argmax(1) == right).double() for question, right in part.answers.items()
    }


def answer_each(folders: Mapping[str, Path], part: DigitSplit) -> dict[str, Tensor]:
    """Ask each task of a model of its own, and which digit it is of all of them."""
    found = {task: answer(folder, part) for task, folder in folders.items()}
    digit = torch.stack([hits[DIGIT] for hits in found.values()]).mean(0)
    return {DIGIT: digit, **{task: hits[task] for task, hits in found.items()}}


def percent(hits: Hits) -> dict[str, float]:
    """Return the accuracy in percent, by question, and its mean over the tasks."""
    accuracy = {name: 100 * right.mean().item() for name, right in hits.items()}
    return {**accuracy, MEAN: sum(accuracy[task] for task in TASKS) / len(TASKS)}


def margin(one: Hits, other: Hits) -> float:
    """Return two standard errors of the difference in mean accuracy of two models on the same digits, in points."""
    apart = torch.stack([one[task] - other[task] for task in TASKS]).mean(0)  # (n,)
    return float(200 * apart.std() / len(apart) ** 0.5)


def _set_up() -> None:
    torch.set_num_threads(1)  # measured: a second thread makes steps this small slower
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _logits(model: ViTForImageClassification, images: Tensor) -> Tensor:
    logits: Tensor = model(pixel_values=2 * images[:, None] - 1).logits  # (n, 10)
    return logits


def _train(
    model: ViTForImageClassification,
    part: DigitSplit,
    question: str,
    steps: int,
    rate: float,
    seed: int,
    vary: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> None:
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    own, right = outputs(question), part.answers[question]
    model.train()
    for _ in range(steps):
        picked = torch.randint(len(right), (BATCH,), generator=random)
        images = part.images[picked] if vary is None else vary(part.images[picked], random)
        loss = torch.nn.functional.cross_entropy(_logits(model, images)[:, own], right[picked])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    model.eval()
