"""Synthetic checkpoints of realistic Llama shapes, and models fine-tuned from them, in the Hugging Face layout.

    w      = 0.02 x normal, and 1 + 0.02 x normal for norms, rounded to the dtype
    delta  = 1e-3 x normal, and for one weight of every thousand  1e-3 x normal / sqrt(uniform)
    tuned  = w + delta, rounded to the dtype

The few are outliers with a heavy tail: of a million, one is about a thousand times as large as usual.

Chunks are generated in parallel, each from a seed of its own: the same arguments make the same bytes.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from registry.breadcrumbs.formats.arrays import octets, read_floats
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.header import DTYPES, format_header
from registry.breadcrumbs.kernels.dtypes import TORCH_DTYPES
from registry.files.threads import processors

VERSION = 2
"""Counts the ways in which weights were ever made, so that older files are not used again."""

CHUNK = 2**20
SHARD = 5 * 10**9  # bytes of a weight file above which Hugging Face begins another
CODES = {"bf16": "BF16", "f16": "F16", "f32": "F32"}
DELTA = 1e-3
RUN = 1000  # weights, of which one is an outlier
TOLERANCE = 0.06  # by how much a shape may miss the number of parameters asked for


@dataclass(frozen=True)
class Llama:
    """The shape of a Llama model."""

    hidden: int
    layers: int
    ffn: int
    vocab: int
    heads: int
    kv_heads: int
    tied: bool = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor, in name order."""
        hidden, kv = self.hidden, self.hidden // self.heads * self.kv_heads
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, hidden)}
        if not self.tied:
            found["lm_head.weight"] = (self.vocab, hidden)
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            found |= {
                f"{at}.input_layernorm.weight": (hidden,),
                f"{at}.mlp.down_proj.weight": (hidden, self.ffn),
                f"{at}.mlp.gate_proj.weight": (self.ffn, hidden),
                f"{at}.mlp.up_proj.weight": (self.ffn, hidden),
                f"{at}.post_attention_layernorm.weight": (hidden,),
                f"{at}.self_attn.k_proj.weight": (kv, hidden),
                f"{at}.self_attn.o_proj.weight": (hidden, hidden),
                f"{at}.self_attn.q_proj.weight": (hidden, hidden),
                f"{at}.self_attn.v_proj.weight": (kv, hidden),
            }
        found["model.norm.weight"] = (hidden,)
        return dict(sorted(found.items()))

    @property
    def parameters(self) -> int:
        """Number of weights that the files hold."""
        return sum(map(math.prod, self.shapes().values()))

    def config(self, dtype: str) -> dict[str, object]:
        """Return config.json."""
        names = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
        return {
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "max_position_embeddings": 4096,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-05,
            "tie_word_embeddings": self.tied,
            "torch_dtype": names[dtype],
            "vocab_size": self.vocab,
        }


NAMED = {
    "350M": Llama(1024, 22, 2816, 32000, 16, 16),
    "700M": Llama(1536, 21, 4096, 32000, 24, 24),
    "1B": Llama(2048, 16, 8192, 128256, 32, 8, tied=True),  # Llama 3.2 1B
    "1.1B": Llama(2048, 22, 5632, 32000, 32, 4),  # TinyLlama
    "1.4B": Llama(2048, 25, 5504, 32000, 32, 32),
    "3B": Llama(3072, 28, 8192, 128256, 24, 8, tied=True),  # Llama 3.2 3B
    "7B": Llama(4096, 32, 11008, 32000, 32, 32),  # Llama 2 7B
    "8B": Llama(4096, 32, 14336, 128256, 32, 8),  # Llama 3.1 8B
    "13B": Llama(5120, 40, 13824, 32000, 40, 40),  # Llama 2 13B
}


def number_of(size: str) -> float:
    """Return a number of parameters written like 350M or 1.4B.

    Raises:
        ValueError: It is written otherwise.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB])", size.upper())
    if match is None:
        raise ValueError(f"{size!r} is no number of parameters; write it like 350M or 1.4B")
    return float(match[1]) * {"K": 1e3, "M": 1e6, "B": 1e9}[match[2]]


def size_of(number: float) -> str:
    """Write a number of parameters like 350M or 1.4B."""
    return f"{number / 1e9:g}B" if number >= 1e9 else f"{number / 1e6:g}M"


def llama(size: str) -> Llama:
    """Return a named shape, or one of about that many parameters in the usual proportions.

    Raises:
        ValueError: There is none.
    """
    number = number_of(size)
    if size_of(number) in NAMED:
        return NAMED[size_of(number)]
    vocab = 32000 if number >= 15e6 else 2048
    best: tuple[float, Llama] | None = None
    for hidden in range(64, 16385, 64):
        ffn = round(hidden * 2.75 / 64) * 64
        layers = max(1, round((number - 2 * vocab * hidden) / (4 * hidden**2 + 3 * hidden * ffn)))
        shape = Llama(hidden, layers, ffn, vocab, hidden // 64, hidden // 64)
        if abs(shape.parameters / number - 1) > TOLERANCE:
            continue
        odd = abs(math.log(hidden / layers / 48))
        if best is None or odd < best[0]:
            best = odd, shape
    if best is None:
        raise ValueError(f"there is no Llama shape of {size} parameters; the smallest are of about 500K")
    return best[1]


def make_base(folder: Path, shape: Llama, dtype: str, seed: int) -> None:
    """Write a base: weight files, config and card."""

    def fill(name: str, start: int, rows: int, columns: int, random: torch.Generator) -> torch.Tensor:
        values = torch.empty(rows, columns).normal_(std=0.02, generator=random)
        return values.add_(1.0) if name.endswith("norm.weight") else values

    _make(folder, shape, dtype, seed, fill)


def make_tuned(base: Path, folder: Path, shape: Llama, dtype: str, seed: int) -> None:
    """Write a model as if it were fine-tuned from a base."""
    with open_checkpoint(base) as checkpoint:

        def fill(name: str, start: int, rows: int, columns: int, random: torch.Generator) -> torch.Tensor:
            values = torch.empty(rows, columns).normal_(std=DELTA, generator=random)
            flat = values.view(-1)
            runs = flat.numel() // RUN
            places = torch.arange(runs) * RUN + torch.randint(RUN, (runs,), generator=random)
            flat[places] /= (1 - torch.rand(runs, generator=random)).sqrt_()  # of numbers in (0, 1]
            before = read_floats(checkpoint, name, start, start + rows * columns)
            return values.add_(torch.from_numpy(before).view(rows, columns))

        _make(folder, shape, dtype, seed, fill)


Fill = Callable[[str, int, int, int, torch.Generator], torch.Tensor]
"""Gives float32 values, [rows, columns], of a tensor from its element `start` on."""


def _make(folder: Path, shape: Llama, dtype: str, seed: int, fill: Fill) -> None:
    """Write a model folder, which appears at once."""
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    shards = _shards(shape.shapes(), dtype)
    for number, (file, tensors) in enumerate(shards.items()):
        _write_weights(beside / file, tensors, dtype, f"{seed}/{number}", fill)
    if len(shards) > 1:
        table = {
            "metadata": {"total_size": shape.parameters * DTYPES[CODES[dtype]]},
            "weight_map": {tensor: file for file, tensors in shards.items() for tensor in tensors},
        }
        (beside / "model.safetensors.index.json").write_text(json.dumps(table, indent=2))
    (beside / "config.json").write_text(json.dumps(shape.config(dtype), indent=2))
    (beside / "README.md").write_text(
        "# A synthetic model\n\nRandom weights in the shape of a Llama, to measure with.\n"
    )
    beside.rename(folder)


def _shards(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Split tensors over weight files, in name order."""
    parts: list[dict[str, tuple[int, ...]]] = [{}]
    used = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * DTYPES[CODES[dtype]]
        if used and used + size > SHARD:
            parts.append({})
            used = 0
        parts[-1][name] = shape
        used += size
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {f"model-{at:05d}-of-{len(parts):05d}.safetensors": part for at, part in enumerate(parts, 1)}


def _write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, seed: str, fill: Fill) -> None:
    code = CODES[dtype]
    header = format_header([(name, code, shape) for name, shape in shapes.items()], {"format": "pt"})
    with path.open("wb") as file:
        file.write(header)
        file.flush()

        def write(part: tuple[int, str, int, int, int, int]) -> None:
            number, name, start, rows, columns, at = part
            random = torch.Generator().manual_seed(_seed(f"{seed}/{number}"))
            values = fill(name, start, rows, columns, random).to(TORCH_DTYPES[code])
            view = octets(values.view(torch.uint8).numpy())
            at += len(header)
            while view:
                done = os.pwrite(file.fileno(), view, at)
                view, at = view[done:], at + done

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(processors()) as pool:
                for _ in pool.map(write, _parts(shapes, DTYPES[code])):
                    pass
        finally:
            torch.set_num_threads(threads)


def _seed(text: str) -> int:
    """Return a seed that differs from text to text."""
    found = 14695981039346656037  # FNV-1a
    for byte in text.encode():
        found = (found ^ byte) * 1099511628211 % 2**64
    return found % 2**63


def _parts(shapes: Mapping[str, tuple[int, ...]], width: int) -> Iterator[tuple[int, str, int, int, int, int]]:
    """Cut tensors into runs of rows: (number, tensor, first element, rows, columns, byte in the data)."""
    number = at = 0
    for name, shape in shapes.items():
        columns = shape[-1]
        rows = math.prod(shape) // columns
        step = max(1, CHUNK // columns)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            yield number, name, first * columns, count, columns, at
            at += count * columns * width
            number += 1
