"""Names and digests: their patterns, as regular expressions without anchors; and names of tensors that models tie."""

from collections.abc import Iterable

NAME = r"[a-z0-9](?:[a-z0-9._-]{0,94}[a-z0-9])?"
"""The name of a user, an organisation, or a model within its namespace."""

MODEL = rf"{NAME}/{NAME}"
"""The full name of a model."""

HEX256 = r"[0-9a-f]{64}"
"""A sha256 in hex."""

WEIGHTS_DIGEST = rf"sha256:{HEX256}"
"""The digest of a model's weights."""

LINE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*"
"""One line, without what controls a page or a terminal, or turns the direction of the text around it."""

HEADS = ("lm_head.weight", "cls.predictions.decoder.weight", "output_projection.weight", "embed_out.weight",
         "output.weight", "lm_head.decoder.weight")  # fmt: skip
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "shared.weight", "embed_in.weight",
              "tok_embeddings.weight", "embeddings.weight")  # fmt: skip
"""Endings of the names of output heads and of input embeddings, which models tie."""


def ends(name: str, endings: Iterable[str]) -> bool:
    """Say whether a tensor's name is one of some endings, or has one after a dot."""
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def is_head(name: str) -> bool:
    """Say whether a name is that of an output head."""
    return ends(name, HEADS)
