"""Which tensor of a fine-tuned checkpoint goes with which of its base, tied names and globs included."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from registry.breadcrumbs.formats.checkpoint import Checkpoint, TensorSpec, Weights
from registry.breadcrumbs.formats.header import FLOATS, show
from registry.errors import CheckpointMismatch, InvalidRequest

HEADS = ("lm_head.weight", "cls.predictions.decoder.weight", "output_projection.weight", "embed_out.weight",
         "output.weight", "lm_head.decoder.weight")  # fmt: skip
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "shared.weight", "embed_in.weight",
              "tok_embeddings.weight", "embeddings.weight")  # fmt: skip
SHOWN = 20


@dataclass(frozen=True)
class Pairing:
    """How two checkpoints fit together.

    Args:
        partner: The tuned checkpoint's name for each base tensor to compare, in name order.
        same: Pairs of tuned tensors that must be equal: one that the base ties to the other and does not hold.
    """

    partner: dict[str, str]
    same: list[tuple[str, str]]


def pair(base: Checkpoint, tuned: Weights, include: Sequence[str], exclude: Sequence[str]) -> Pairing:
    """Find the tuned partner of every base tensor that is chosen.

    Args:
        base: The base.
        tuned: The fine-tuned model; what it shares with the base has no partner.
        include: Globs on names; when there are any, other tensors are left out.
        exclude: Globs on names of tensors to leave out.

    Raises:
        CheckpointMismatch: Tensors are missing, added, or of another shape or class of dtype; all named at once.
        InvalidRequest: A glob of `include` matches nothing.
    """
    for glob in include:
        if not any(fnmatchcase(name, glob) for name in base.tensors):
            raise InvalidRequest(f"No tensor of the base matches the glob {glob!r}.", field="include")

    def chosen(name: str) -> bool:
        if include and not any(fnmatchcase(name, glob) for glob in include):
            return False
        return not any(fnmatchcase(name, glob) for glob in exclude)

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
        found = tuned.tensors[other]
        if found.shape != spec.shape:
            wrong.append((name, f"has shape {list(found.shape)}, in the base {list(spec.shape)}"))
        elif found.dtype != spec.dtype and not {found.dtype, spec.dtype} <= FLOATS:
            wrong.append((name, f"has dtype {found.dtype}, in the base {spec.dtype}"))
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
        raise CheckpointMismatch(_listed(wrong), field=wrong[0][0])
    return Pairing(partner, same)


def _listed(wrong: Sequence[tuple[str, str]]) -> str:
    told = "; ".join(f"{show(name)} {fault}" for name, fault in wrong[:SHOWN])
    more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    plural = "tensor does" if len(wrong) == 1 else "tensors do"
    return (
        f"{len(wrong)} {plural} not fit: {told}{more}. A patch needs the same tensors on both sides; "
        "choose the right base, or leave tensors out with exclude."
    )


def says_tied(config: Mapping[str, Any]) -> bool:
    """Say whether a config.json, or the config of a part inside it, ties the output head to the input embedding."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    return any(part.get("tie_word_embeddings") is True for part in parts)


def twin(name: str, spec: TensorSpec, tensors: Mapping[str, TensorSpec]) -> str | None:
    """Return the one tensor that `name` can be tied to: embedding for a head, head for an embedding, same shape."""
    wanted: tuple[str, ...]
    if _ends(name, HEADS):
        wanted = EMBEDDINGS
    elif _ends(name, EMBEDDINGS):
        wanted = HEADS
    else:
        return None
    found = list(_of_shape(wanted, spec, tensors))
    return found[0] if len(found) == 1 else None


def _of_shape(endings: Iterable[str], spec: TensorSpec, tensors: Mapping[str, TensorSpec]) -> Iterator[str]:
    endings = tuple(endings)
    return (name for name, other in tensors.items() if other.shape == spec.shape and _ends(name, endings))


def _ends(name: str, endings: Iterable[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)
