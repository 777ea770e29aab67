"""Pairing: which tensor of a fine-tuned checkpoint belongs to which of its base, with tied names and globs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from shlex import quote
from typing import Any

from registry.breadcrumbs.formats.checkpoint import Checkpoint, Weights
from registry.breadcrumbs.formats.header import FLOATS, TensorSpec, show
from registry.errors import CheckpointMismatch, InvalidRequest

HEADS = ("lm_head.weight", "cls.predictions.decoder.weight", "output_projection.weight", "embed_out.weight",
         "output.weight", "lm_head.decoder.weight")  # fmt: skip
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "shared.weight", "embed_in.weight",
              "tok_embeddings.weight", "embeddings.weight")  # fmt: skip
"""Endings of the names of output heads and of input embeddings, which models tie."""

NAMES_SHOWN = 20
"""Most tensors that a message names."""


@dataclass(frozen=True)
class Pairing:
    """How two checkpoints fit together.

    Args:
        partner: The tuned checkpoint's name for each base tensor to compare, in name order.
        same: Pairs of tuned tensors that must be equal: the base ties the first to the second and does not hold it.
    """

    partner: dict[str, str]
    same: list[tuple[str, str]]


def pair(base: Checkpoint, tuned: Weights, include: Sequence[str], exclude: Sequence[str]) -> Pairing:
    """Find the tuned partner of every base tensor that the globs choose.

    Args:
        base: The base.
        tuned: The fine-tuned model; tensors that it shares with the base have no partner.
        include: Globs on names; when there are any, other tensors are left out.
        exclude: Globs on names of tensors to leave out.

    Raises:
        CheckpointMismatch: Tensors are missing, added, or of another shape or class of dtype; all named at once.
        InvalidRequest: A glob matches nothing.
    """
    _require_matches("include", include, base.tensors)
    _require_matches("exclude", exclude, {**base.tensors, **tuned.tensors})

    def chosen(name: str) -> bool:
        if include and not any(meets(name, glob) for glob in include):
            return False
        return not any(meets(name, glob) for glob in exclude)

    tied = says_tied(base.config)
    partner: dict[str, str] = {}
    same: list[tuple[str, str]] = []
    wrong: list[tuple[str, str]] = []
    for name, spec in base.tensors.items():
        if not chosen(name):
            continue
        other = name if name in tuned.tensors or not tied else twin(name, spec, tuned.tensors)
        if other is None or other not in tuned.tensors:
            wrong.append((name, "is missing from the tuned checkpoint"))
            continue
        theirs = tuned.tensors[other]
        if theirs.shape != spec.shape:
            wrong.append((name, f"has shape {list(theirs.shape)}, in the base {list(spec.shape)}"))
        elif theirs.dtype != spec.dtype and not {theirs.dtype, spec.dtype} <= FLOATS:
            wrong.append((name, f"has dtype {theirs.dtype}, in the base {spec.dtype}"))
        elif other not in tuned.shared:
            partner[name] = other
    used = set(partner.values())
    for name, spec in tuned.tensors.items():
        if name in base.tensors or name in used or not chosen(name):
            continue
        other = twin(name, spec, tuned.tensors) if tied else None
        if other is None or twin(name, spec, base.tensors) is None:
            wrong.append((name, "is not in the base"))
        else:
            same.append((name, other))
    if wrong:
        raise CheckpointMismatch(_list_faults(wrong), field=wrong[0][0])
    return Pairing(partner, same)


def meets(name: str, glob: str) -> bool:
    """Say whether a glob matches the whole of a name, or is that name, brackets and all."""
    return name == glob or fnmatchcase(name, glob)


def _require_matches(option: str, globs: Iterable[str], names: Collection[str]) -> None:
    """Refuse globs that match none of the names, and name one that was probably meant."""
    for glob in globs:
        if not any(meets(name, glob) for name in names):
            within = [name for name in names if glob.casefold() in name.casefold()]
            near = within[:1] if len(within) == 1 else [f"*{glob}*"] if any(glob in name for name in within) else []
            near = near or within[:1] or get_close_matches(glob, names, 1)
            hint = f" Did you mean `--{option} {quote(near[0])}`?" if near else ""
            raise InvalidRequest(f"No tensor matches `--{option} {quote(glob)}`.{hint}", field=option)


def _list_faults(wrong: Sequence[tuple[str, str]]) -> str:
    """Return the message for tensors that do not fit, given as (name, fault)."""
    faults = "; ".join(f"{show(name)} {fault}" for name, fault in wrong[:NAMES_SHOWN])
    more = f"; and {len(wrong) - NAMES_SHOWN} more" if len(wrong) > NAMES_SHOWN else ""
    plural = "tensor does" if len(wrong) == 1 else "tensors do"
    return (
        f"{len(wrong)} {plural} not fit: {faults}{more}. A patch needs the same tensors on both sides; "
        "choose the right base, or leave tensors out with exclude."
    )


def says_tied(config: Mapping[str, Any]) -> bool:
    """Say whether a config.json, or the config of a part inside it, ties the output head to the input embedding."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    return any(part.get("tie_word_embeddings") is True for part in parts)


def twin(name: str, spec: TensorSpec, tensors: Mapping[str, TensorSpec]) -> str | None:
    """Return the one tensor that `name` can be tied to, of the same shape: an embedding for a head, or the reverse."""
    wanted: tuple[str, ...]
    if _ends(name, HEADS):
        wanted = EMBEDDINGS
    elif _ends(name, EMBEDDINGS):
        wanted = HEADS
    else:
        return None
    twins = [other for other, theirs in tensors.items() if theirs.shape == spec.shape and _ends(other, wanted)]
    return twins[0] if len(twins) == 1 else None


def _ends(name: str, endings: Iterable[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)
