"""MiniLM as a kind of data: texts out of packages, a real pre-trained base, heads of label sentences.

A text is the mean of what the model makes of its tokens; an answer is the same of its sentence, made once by the base
and then left alone, as CLIP's zero-shot heads are; logits are 20 x cosine. Only the layers are trained. Embeddings are
frozen: they are half of all weights, and a short fine-tuning touches the few rows of the words that it sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.quality.experiments.merging import Setting
from benchmarks.quality.minilm import sources
from benchmarks.quality.minilm.pools import pools
from benchmarks.quality.minilm.tasks import PAIRS, TASKS
from benchmarks.quality.worlds.kinds import REAL, Batch, Kind, World, cut
from client.trials.searching import BUDGET

LENGTH = 24  # tokens that the model sees of a text
SHARPNESS = 20.0  # of the logits
PARTS = {"test": 160, "validation": 96, "tune": 2000}
"""Examples of each part, as far as they go."""

SCORED = 32  # texts at a time
PADDING = 0

BREADCRUMBS = Setting("breadcrumbs", "0.85", "0.007", value_dtype="BF16")
WHOLE = Setting("task arithmetic", value_dtype="BF16")


def rows(setting: Setting) -> Setting:
    """Return a setting with masks of rows."""
    return Setting(setting.method, setting.drop_bottom, setting.drop_top, "", "row", setting.value_dtype)


def cuts(bottom: str, top: str, method: str = "breadcrumbs") -> Setting:
    """Return a setting with other cuts."""
    return Setting(method, bottom, top, value_dtype="BF16")


TIES = cuts("0.85", "0.007", "TIES")
MEAN = cuts("0.85", "0.007", "mean")
RANDOM = Setting("breadcrumbs", "0.85", "0.007", value_dtype="BF16", random=1)
SPARSE = cuts("0.95", "0.007")
CORE = (BREADCRUMBS, rows(SPARSE), SPARSE, WHOLE, rows(BREADCRUMBS), TIES)
"""What is tried at every learning rate."""

MORE = (rows(TIES), MEAN, RANDOM, cuts("0.7", "0.007"), rows(cuts("0.98", "0.007")), cuts("0.85", "0"))
"""What is tried at one of them as well."""

RATES = {"3e-5": 3e-5, "1e-4": 1e-4, "3e-4": 3e-4}
MAIN_RATE = "1e-4"


@dataclass(frozen=True)
class MiniLM(Kind):
    """See the module.

    Attributes:
        settings: What is composed, without alpha.
        texts: Most validation texts over which one alpha is judged, of all its tasks together.
        tested: Most test texts over which one model is judged, likewise.
        tuned: Models that a search for alpha and weights scores.
    """

    name: str = f"{REAL}-{MAIN_RATE}"
    tasks: Sequence[str] = tuple(task for task in TASKS if task not in PAIRS)
    held_out: Sequence[str] = tuple(PAIRS)
    measure: str = "accuracy"
    counts: Sequence[int] = (1, 2, 4, 8, 16)
    worlds: int = 2
    orders: int = 3
    base_steps: int = 0
    tune_steps: int = 80
    rate: float = RATES[MAIN_RATE]
    batch: int = 16
    frozen: Sequence[str] = ("embeddings.", "pooler.")
    value_dtype: str = "BF16"
    settings: Sequence[Setting] = (*CORE, *MORE)
    texts: int = 256
    tested: int = 480
    tuned: int = BUDGET

    def prepare(self) -> None:
        """Fetch the packages and make the pools, once for all processes."""
        sources.base_folder()
        for task in (*self.tasks, *self.held_out):
            pools(TASKS[task].group)

    def ready_base(self) -> Path:
        """Return the pre-trained base."""
        return sources.base_folder()

    def world(self, seed: int) -> World:
        """Cut the pools."""
        random = np.random.default_rng(seed)
        tasks = [*self.tasks, *self.held_out]
        places = {task: random.permutation(len(pools_of(task))) for task in tasks}
        bounds = np.cumsum(list(PARTS.values()))

        def part(task: str, name: str) -> Batch:
            pool, number = pools_of(task), list(PARTS).index(name)
            chosen = [pool[place] for place in places[task][bounds[number] - PARTS[name] : bounds[number]]]
            return Batch(encode([text for _, text in chosen]), torch.tensor([label for label, _ in chosen]), task)

        return World(None, cut(tasks, part))

    def new(self) -> nn.Module:
        """Nothing is trained from random weights."""
        raise NotImplementedError

    def load(self, folder: Path) -> nn.Module:
        """Load a model without dropout, whose embeddings stay as they are."""
        from transformers import BertModel

        model: nn.Module = BertModel.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        return freeze(model, self.frozen)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy over the answers."""
        return F.cross_entropy(self._logits(model, batch), batch.y)

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Return the accuracy; texts of like length go together, in bfloat16 where the processor has it."""
        order, right = (batch.x != PADDING).sum(1).argsort(), 0
        for places in order.split(SCORED):
            some = batch.take(places)
            right += int((self._logits(model, some, has_bfloat16()).argmax(1) == some.y).sum())
        return right / len(batch)

    def _logits(self, model: nn.Module, batch: Batch, fast: bool = False) -> Tensor:
        return SHARPNESS * embed(model, batch.x, fast) @ head(batch.task).T


def kinds() -> list[MiniLM]:
    """Return one kind for each learning rate; the first has most to do, and alone looks at held-out tasks."""
    others = [
        MiniLM(name=f"{REAL}-{name}", rate=rate, settings=CORE, held_out=())
        for name, rate in RATES.items()
        if name != MAIN_RATE
    ]
    return [MiniLM(), *others]


def freeze(model: nn.Module, beginnings: Sequence[str]) -> nn.Module:
    """Leave the tensors out of training whose names begin so."""
    for name, weights in model.named_parameters():
        weights.requires_grad_(not name.startswith(tuple(beginnings)))
    return model


@cache
def has_bfloat16() -> bool:
    """Say whether the processor multiplies in bfloat16, which takes half of the time."""
    capable = torch.cpu.get_capabilities()
    return bool(capable.get("avx512_bf16") or capable.get("amx_bf16"))


def embed(model: nn.Module, tokens: Tensor, fast: bool = False) -> Tensor:
    """Return a vector of length 1 for each text: the mean over its tokens.

    Args:
        model: The encoder.
        tokens: int64 [texts, LENGTH], padded.
        fast: Whether the encoder may multiply in bfloat16.
    """
    mask = tokens != PADDING
    longest = int(mask.sum(1).max())
    tokens, mask = tokens[:, :longest], mask[:, :longest]
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        states = model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state  # [texts, longest, width]
    return F.normalize((states.float() * mask[:, :, None]).sum(1), dim=1)


@cache
def head(task: str) -> Tensor:
    """Return what the base makes of a task's answers, [answers, width]."""
    with torch.inference_mode(False), torch.no_grad():  # it is used in training too
        return embed(_base(), encode(list(TASKS[task].answers.values())))


@cache
def _base() -> nn.Module:
    return MiniLM().load(sources.base_folder()).eval()


@cache
def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(sources.base_folder())


def encode(texts: Sequence[str]) -> Tensor:
    """Return tokens of texts, int64 [texts, LENGTH], padded."""
    found = _tokenizer()(list(texts), truncation=True, max_length=LENGTH, padding="max_length")
    return torch.tensor(found["input_ids"])


@cache
def _pools(group: str) -> dict[str, list[tuple[int, str]]]:
    return pools(group)


def pools_of(task: str) -> list[tuple[int, str]]:
    """Return a task's pool, read once."""
    return _pools(TASKS[task].group)[task]
