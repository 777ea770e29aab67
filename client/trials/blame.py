"""Blame: which patches changed a weight, a tensor or a model, computed from base and patches in the cache."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client.actions.composing import open_cached, recipe_of
from client.actions.snapshots import find_snapshot
from client.api.client import Client
from client.terminal.console import Console
from registry.errors import InvalidRequest
from registry.schemas import RecipeItem

if TYPE_CHECKING:
    from registry.breadcrumbs.comparing.blame import Share

QUIET = Console(quiet=True)
_WEIGHT = re.compile(r"(.+)\[((?:[0-9]{1,18}(?:, *[0-9]{1,18})*)?)\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PatchShare:
    """A patch and its share in a weight, a tensor or a model.

    Args:
        number: Of the patch.
        title: Of the patch.
        author: Of the patch, if known.
        amount: What it adds to the weight; for more than one weight, the norm of what it adds.
        share: For one weight, |amount| over the sum of those of all patches; else its share of energy.
        nnz: How many weights it changes there.
    """

    number: int
    title: str
    author: str | None
    amount: float
    share: float
    nnz: int


@dataclass(frozen=True, slots=True)
class Blame:
    """The share of each patch, the largest first.

    Args:
        model: NS/NAME.
        ref: The snapshot, by its fixed name.
        tensor: None for the whole model.
        index: Of one weight of the tensor; None for all weights.
        base: The weight's value in the base; None for more than one weight.
        composed: The weight's value in the composition; None for more than one weight.
        patches: Those that change it.
        tensors: For a whole model, the patches of every tensor that is changed.
    """

    model: str
    ref: str
    tensor: str | None
    index: tuple[int, ...] | None
    base: float | None
    composed: float | None
    patches: list[PatchShare]
    tensors: dict[str, list[PatchShare]]


def blame(client: Client, model: str, ref: str, place: str | None = None, *, console: Console = QUIET) -> Blame:
    """Return which patches of a snapshot changed a weight, a tensor or the whole model, and how much.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: Of a snapshot with patches.
        place: TENSOR[i,j], TENSOR, or None for the whole model.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: The snapshot is the base, or there is no such weight.
    """
    from registry.breadcrumbs.comparing.blame import blame_model, blame_tensor, blame_weight

    snapshot = find_snapshot(client, model, ref, console)
    recipe = recipe_of(snapshot)
    if recipe is None or snapshot.recipe is None:
        raise InvalidRequest(f"{model}@{ref} is the base, which no patch changed.", field="ref")
    items = {item.sha256: item for item in snapshot.recipe.patches}
    with open_cached(client, model, recipe.base, items.values(), console=console) as (_, base, patches):
        tensor, index = (None, None) if place is None else split_place(place, base.tensors)
        if tensor is not None and index is not None:
            weight = blame_weight(base, patches, recipe, tensor, index)
            total = sum(abs(part.amount) for part in weight.contributions)
            shares = [
                _share(items[part.sha256], part.amount, abs(part.amount) / total if total else 0.0, 1)
                for part in weight.contributions
            ]
            return Blame(model, snapshot.ref, tensor, index, weight.base, weight.composed, shares, {})
        with console.progress("measuring patches") as progress:
            if tensor is not None:
                shares = _shares(blame_tensor(base, patches, recipe, tensor, progress), items)
                return Blame(model, snapshot.ref, tensor, None, None, None, shares, {})
            whole = blame_model(base, patches, recipe, progress)
    tensors = {name: _shares(shares, items) for name, shares in whole.tensors.items()}
    return Blame(model, snapshot.ref, None, None, None, None, _shares(whole.total, items), tensors)


def split_place(text: str, tensors: Iterable[str]) -> tuple[str, tuple[int, ...] | None]:
    """Split TENSOR[i,j] into tensor and index; the name of a tensor wins. The one weight of a scalar is TENSOR[]."""
    match = None if text in tensors else _WEIGHT.fullmatch(text)
    if not match:
        return text, None
    return match[1], tuple(int(number) for number in match[2].split(",") if number)


def _shares(shares: "Iterable[Share]", items: Mapping[str, RecipeItem]) -> list[PatchShare]:
    return [_share(items[share.sha256], share.l2, share.share, share.nnz) for share in shares]


def _share(item: RecipeItem, amount: float, share: float, nnz: int) -> PatchShare:
    return PatchShare(item.number, item.title, item.author, amount, share, nnz)
