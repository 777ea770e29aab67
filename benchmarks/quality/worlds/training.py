"""How models are trained: AdamW, warm-up, cosine, one thread; the same seed gives the same weights on one machine."""

import math
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.quality.worlds.kinds import Batch, Kind, MakeBatch

BASE_RATE = 1e-3
WARM_UP = 0.1  # part of the steps
DECAY = 0.01


def train_base(kind: Kind, mixture: MakeBatch, seed: int) -> nn.Module:
    """Train a base from nothing on batches of the mixture."""
    torch.manual_seed(seed)
    model = kind.new()
    generator = torch.Generator().manual_seed(seed)
    return _train(kind, model, lambda: mixture(generator), kind.base_steps, BASE_RATE)


def fine_tune(kind: Kind, model: nn.Module, examples: Batch, seed: int, steps: int, rate: float) -> nn.Module:
    """Train a model on one task's examples, in shuffled passes over them; the model itself changes."""
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)

    def draw() -> Batch:
        nonlocal waiting
        while len(waiting) < kind.batch:
            waiting = torch.cat([waiting, torch.randperm(len(examples), generator=generator)])
        places, waiting = waiting[: kind.batch], waiting[kind.batch :]
        return examples.take(places)

    return _train(kind, model, draw, steps, rate)


def _train(kind: Kind, model: nn.Module, draw: Callable[[], Batch], steps: int, rate: float) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _part_of_rate(step, steps))
    model.train()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        kind.loss(model, draw()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def _part_of_rate(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    return min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))
