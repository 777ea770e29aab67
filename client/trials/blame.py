"""Who changed a weight, a tensor or a model: breadcrumbs/blame.py, asked on base and patches in the cache."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client.actions.pull import find_snapshot, open_cached
from client.api.client import Client
from client.terminal.console import Console
from registry.errors import InvalidRequest
from registry.schemas import RecipeItem

if TYPE_CHECKING:
    from registry.breadcrumbs.comparing.blame import Share

QUIET = Console(quiet=True)
_WEIGHT = re.compile(r"(.+)\[((?:[0-9]{1,18}(?:, *[0-9]{1,18})*)?)\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Blamed:
    """A patch and its part in something.

    Args:
        number: Of the patch.
        title: Of the patch.
        author: Who contributed it, where that is known.
        amount: What it adds to the weight; the norm of what it adds, when more than one weight is asked about.
        share: Of a weight, |amount| over the sum of those of all patches; else its share of energy.
        nnz: How many weights it touches there.
    """

    number: int
    title: str
    author: str | None
    amount: float
    share: float
    nnz: int


@dataclass(frozen=True, slots=True)
class Blame:
    """What each patch brought, the largest part first.

    Args:
        model: NS/NAME.
        ref: The revision, by the name that never moves.
        tensor: None for the whole model.
        index: Which weight of the tensor; None for all of them.
        base: The weight's value in the base; None for more than one weight.
        composed: ... and in the composition.
        patches: Those that touch it.
        tensors: Of a whole model, the same for every tensor that a patch touches.
    """

    model: str
    ref: str
    tensor: str | None
    index: tuple[int, ...] | None
    base: float | None
    composed: float | None
    patches: list[Blamed]
    tensors: dict[str, list[Blamed]]


def blame(client: Client, model: str, ref: str, place: str | None = None, *, console: Console = QUIET) -> Blame:
    """Say which patches of a revision changed a weight, a tensor or the whole model, and how much.

    Args:
        client: The registry.
        model: NS/NAME.
        ref: What has patches.
        place: TENSOR[i,j], TENSOR, or None for the whole model.
        console: Where notes and progress go.

    Raises:
        InvalidRequest: There are no patches, or no such weight.
    """
    from registry.breadcrumbs.comparing.blame import blame_model, blame_tensor, blame_weight
    from registry.breadcrumbs.formats.recipe import make_recipe

    revision = find_snapshot(client, model, ref, console)
    recipe = revision.recipe
    if recipe is None:
        raise InvalidRequest(f"{model}@{ref} is the base, which no patch changed.", field="ref")
    items = {item.sha256: item for item in recipe.patches}
    made = make_recipe(recipe.base, recipe.alpha, [(item.sha256, item.weight) for item in recipe.patches])
    with open_cached(client, model, made.base, recipe.patches, console=console) as (_, base, patches):
        tensor, index = (None, None) if place is None else split_place(place, base.tensors)
        if tensor is not None and index is not None:
            weight = blame_weight(base, patches, made, tensor, index)
            total = sum(abs(part.amount) for part in weight.contributions)
            found = [
                _blamed(items[part.sha256], part.amount, abs(part.amount) / total if total else 0.0, 1)
                for part in weight.contributions
            ]
            return Blame(model, revision.ref, tensor, index, weight.base, weight.composed, found, {})
        with console.progress("measuring patches") as progress:
            if tensor is not None:
                found = _shares(blame_tensor(base, patches, made, tensor, progress), items)
                return Blame(model, revision.ref, tensor, None, None, None, found, {})
            whole = blame_model(base, patches, made, progress)
    tensors = {name: _shares(shares, items) for name, shares in whole.tensors.items()}
    return Blame(model, revision.ref, None, None, None, None, _shares(whole.total, items), tensors)


def split_place(text: str, tensors: Iterable[str]) -> tuple[str, tuple[int, ...] | None]:
    """Split TENSOR[i,j]; a tensor whose name ends so itself wins. The one weight of a scalar is TENSOR[]."""
    found = None if text in tensors else _WEIGHT.fullmatch(text)
    if not found:
        return text, None
    return found[1], tuple(int(number) for number in found[2].split(",") if number)


def _shares(shares: "Iterable[Share]", items: Mapping[str, RecipeItem]) -> list[Blamed]:
    return [_blamed(items[share.sha256], share.l2, share.share, share.nnz) for share in shares]


def _blamed(item: RecipeItem, amount: float, share: float, nnz: int) -> Blamed:
    return Blamed(item.number, item.title, item.author, amount, share, nnz)
