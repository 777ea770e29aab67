"""Text: what comes with Python and the packages installed here, byte by byte, and a small Llama.

The base reads the standard library's modules, NumPy's docstrings and scikit-learn's descriptions. A task is another
sort of text. The score is the part of its 8 bits a byte that the model saves: 1 - bits per byte / 8.
"""

import ast
import html.entities
import importlib.util
import json
import math
import pydoc_data.topics
import sysconfig
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.quality.worlds.kinds import Batch, Kind, Parts, World

LENGTH = 128  # bytes that the model sees at once
MOST = 400_000  # bytes of a task's text
SCORED = 4  # sequences at a time: what the model makes of them then fits into a processor's cache
BLOCK = 8  # sequences that stay together when text is cut into parts


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None and found.origin is not None, f"{name} is not installed"
    return Path(found.origin).parent


def _join(files: Iterable[Path]) -> bytes:
    return b"\n".join(file.read_bytes() for file in sorted(files))


@cache
def _docstrings(package: str) -> bytes:
    """Return the docstrings of a package, from its sources; nothing is imported."""
    found = []
    for file in sorted(_package(package).rglob("*.py")):
        if "tests" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found.append(ast.get_docstring(node) or "")
    return "\n\n".join(text for text in found if len(text) > 200).encode()


def _licences() -> bytes:
    """Return the different licence files of what is installed."""
    found = {}
    for installed in distributions():
        for file in installed.files or ():
            if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")) and ".dist-info" in str(file):
                path = Path(str(installed.locate_file(file)))
                if path.is_file():
                    found[path.read_bytes()] = str(file)
    return b"\n".join(sorted(found, key=lambda text: found[text]))


def _names() -> bytes:
    """Return a line for each character that has a name, in a shuffled order."""
    lines = []
    for number in range(0x1FBFF):
        name = unicodedata.name(chr(number), "")
        if name and not name.startswith(("CJK", "HANGUL SYLLABLE")):
            lines.append(f"{number:04X};{name};{unicodedata.category(chr(number))}\n")
    return "".join(np.random.default_rng(0).permutation(lines)).encode()


TEXTS: dict[str, Callable[[], bytes]] = {
    "manual": lambda: "\n\n".join(pydoc_data.topics.topics.values()).encode(),
    "character-names": _names,
    "json-entities": lambda: json.dumps(html.entities.html5).encode(),
    "licences": _licences,
    "code-pages": lambda: _join((_library() / "encodings").glob("cp*.py")),
    "asyncio": lambda: _join((_library() / "asyncio").glob("*.py")),
    "cpp-headers": lambda: _join((_package("torch") / "include" / "c10" / "core").glob("*.h")),
    "tables": lambda: _join((_package("sklearn") / "datasets" / "data").glob("*.csv")),
    "type-stubs": lambda: _join((_package("numpy") / "_core").glob("*.pyi")),
    "email": lambda: _join((_library() / "email").glob("*.py")),
    "scipy-docstrings": lambda: _docstrings("scipy.stats"),
}


HELD_OUT = ("email", "scipy-docstrings")
"""What nobody contributes a patch for."""


@dataclass(frozen=True)
class Language(Kind):
    """See the module.

    Attributes:
        layers: Of the model.
        validation, test: How many sequences of LENGTH a score is over.
    """

    name: str = "language"
    held_out: Sequence[str] = HELD_OUT
    tasks: Sequence[str] = tuple(text for text in TEXTS if text not in HELD_OUT)
    measure: str = "part of 8 bits a byte saved"
    counts: Sequence[int] = (1, 2, 4, 6, 9)
    worlds: int = 2
    orders: int = 3
    base_steps: int = 1200
    tune_steps: int = 100
    rate: float = 5e-4
    batch: int = 16
    layers: int = 5
    validation: int = 16
    test: int = 32

    def world(self, seed: int) -> World:
        """Cut the texts."""
        random = np.random.default_rng(seed)
        code = _sequences(_join(_library().glob("*.py")))
        prose = _sequences(_docstrings("numpy"))
        described = _sequences(_join((_package("sklearn") / "datasets" / "descr").glob("*.rst")))
        shares = [(code, 10), (prose, 4), (described, 2)]  # sequences in a batch of 16

        def mixture(generator: torch.Generator) -> Batch:
            drawn = [text[torch.randint(len(text), (count,), generator=generator)] for text, count in shares]
            return _batch(torch.cat(drawn), "base")

        sizes = self.validation, self.test
        return World(mixture, {name: _cut(read(), name, random, sizes) for name, read in TEXTS.items()})

    def new(self) -> nn.Module:
        """Return a model with random weights."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=256,
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=self.layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=None,
            eos_token_id=None,
        )
        return LlamaForCausalLM(config)

    def load(self, folder: Path) -> nn.Module:
        """Load a model."""
        from transformers import LlamaForCausalLM

        model: nn.Module = LlamaForCausalLM.from_pretrained(folder)
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy of the next byte, in nats."""
        logits: Tensor = model(input_ids=batch.x, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), batch.y.flatten())

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Return the part of 8 bits a byte that is saved."""
        total = 0.0
        for places in torch.arange(len(batch)).split(SCORED):
            total += float(self.loss(model, batch.take(places))) * len(places)
        return 1 - total / len(batch) / math.log(2) / 8


def _sequences(text: bytes) -> Tensor:
    """Return text as int64 [sequences, LENGTH + 1]; the last byte of each begins the next."""
    values = torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64))
    return values.unfold(0, LENGTH + 1, LENGTH)


def _batch(sequences: Tensor, task: str) -> Batch:
    return Batch(sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous(), task)


def _cut(text: bytes, task: str, random: np.random.Generator, sizes: tuple[int, int]) -> Parts:
    """Cut a text into its parts, of which those for validation and test have so many sequences."""
    sequences = _sequences(text[:MOST])
    blocks = len(sequences) // BLOCK
    order = random.permutation(blocks)
    places = (torch.from_numpy(order)[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
    validation, test, tune = torch.split(places, [*sizes, len(places) - sum(sizes)])
    return Parts(*(_batch(sequences[part], task) for part in (tune, validation, test)))
