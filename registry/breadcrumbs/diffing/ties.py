"""Ties: which names of a model are one tensor, by its config, by its header, or by equal bits.

    config    "tie_word_embeddings": true, for the output head and the input embedding
    header    {"__metadata__": {"lm_head.weight": "model.shared.weight"}}, as safetensors writes names that it left out
    bits      two matrices of one checkpoint that are equal to the bit, and not constant

Vectors and constant matrices are equal in many models without being one tensor, so their bits say nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from registry.breadcrumbs.formats.arrays import read_raw
from registry.breadcrumbs.formats.blocks import blocks
from registry.breadcrumbs.formats.checkpoint import Checkpoint, Weights
from registry.breadcrumbs.formats.header import FLOATS, TensorSpec
from registry.files.names import EMBEDDINGS, HEADS, ends, is_head

CLASSES_WITH_HEADS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")
"""Endings of the names of transformers' classes that have an output head."""

FIRST_ELEMENTS = 64
"""Elements that are read of a tensor before it is compared whole."""


def is_tied(base: Checkpoint) -> bool:
    """Say whether a model ties its output head to its input embedding, by its config.json or a part of that.

    Configs of before tie_word_embeddings was written out do not say so. Then a model of a class with a head that holds
    none, as GPT-2 on the Hub does, has it from its embedding.
    """
    parts = [base.config, *(part for part in base.config.values() if isinstance(part, dict))]
    said = [part["tie_word_embeddings"] for part in parts if isinstance(part.get("tie_word_embeddings"), bool)]
    return any(said) if said else _has_head(base.config) and not any(map(is_head, base.tensors))


def _has_head(config: Mapping[str, Any]) -> bool:
    """Say whether a config.json names a class that gives a probability to each token."""
    classes = config.get("architectures")
    return isinstance(classes, list) and any(str(name).endswith(CLASSES_WITH_HEADS) for name in classes)


def twin(name: str, spec: TensorSpec, tensors: Mapping[str, TensorSpec]) -> str | None:
    """Return the one tensor that `name` can be tied to, of the same shape: an embedding for a head, or the reverse."""
    wanted: tuple[str, ...]
    if ends(name, HEADS):
        wanted = EMBEDDINGS
    elif ends(name, EMBEDDINGS):
        wanted = HEADS
    else:
        return None
    twins = [other for other, theirs in tensors.items() if theirs.shape == spec.shape and ends(other, wanted)]
    return twins[0] if len(twins) == 1 else None


def is_vocabulary(name: str) -> bool:
    """Say whether a name is that of a tensor with a row for each token: an embedding or an output head, or its bias."""
    return ends(name.removesuffix(".bias") + ".weight" if name.endswith(".bias") else name, (*HEADS, *EMBEDDINGS))


def aliases(base: Checkpoint) -> dict[str, str]:
    """Return the names that the base's headers give to tensors it holds under another: name left out -> name held."""
    return {
        name: held
        for header in base.headers.values()
        for name, held in header.metadata.items()
        if name not in base.tensors and held in base.tensors
    }


class Copies:
    """Finds tensors of one model with equal bits; each is read only as far as the first that differs."""

    def __init__(self, model: Weights) -> None:
        self._model = model
        self._alike: dict[TensorSpec, dict[bytes, list[str]]] = {}
        self._by_spec: dict[TensorSpec, list[str]] = {}
        for name, spec in model.tensors.items():
            if spec.dtype in FLOATS and len(spec.shape) > 1 and spec.numel > 1:
                self._by_spec.setdefault(spec, []).append(name)

    def of(self, name: str) -> Iterator[str]:
        """Yield the names of other matrices with the bits of this one, unless these are all the same number."""
        spec = self._model.tensors[name]
        if len(self._by_spec.get(spec, ())) < 2:
            return
        others = [other for other in self._beginning_as(name, spec) if other != name]
        if others and self._varies(name):
            yield from (other for other in others if equal_bits(self._model, name, other))

    def _beginning_as(self, name: str, spec: TensorSpec) -> list[str]:
        """Return the names of the tensors of a dtype and shape whose first elements are those of one of them."""
        if spec not in self._alike:
            groups = self._alike[spec] = {}
            for other in self._by_spec[spec]:
                groups.setdefault(self._start(other), []).append(other)
        return self._alike[spec].get(self._start(name), [])

    def _start(self, name: str) -> bytes:
        return read_raw(self._model, name, 0, min(FIRST_ELEMENTS, self._model.tensors[name].numel)).tobytes()

    def _varies(self, name: str) -> bool:
        """Say whether the first block of a tensor holds two different numbers."""
        start, stop = next(blocks(self._model.tensors[name].numel))
        raw = read_raw(self._model, name, start, stop).reshape(stop - start, -1)
        return bool((raw != raw[0]).any())


def equal_bits(model: Weights, name: str, other: str, beside: Weights | None = None) -> bool:
    """Say whether two tensors are equal to the bit; `other` is one of `beside` where that is given."""
    beside = beside or model
    if model.tensors[name] != beside.tensors[other]:
        return False
    return all(
        (read_raw(model, name, start, stop) == read_raw(beside, other, start, stop)).all()
        for start, stop in blocks(model.tensors[name].numel)
    )
