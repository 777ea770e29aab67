"""Recipes in a line: `#1.1, #3.2:0.5 (layers.0.* x 0.5) by ties at alpha 0.3`."""

from typing import TYPE_CHECKING

from client.terminal.console import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.schemas import Recipe, RecipeItem


def describe_recipe(recipe: "Recipe") -> str:
    """Return the patches of a recipe by number, its method and its alpha."""
    items = sorted(recipe.patches, key=lambda item: item.number)
    named = [f"#{item.number}.{item.revision}" + _weight(item) for item in items]
    how = "" if recipe.method == "sum" else f" by {plain(recipe.method)}"
    return f"{', '.join(named) or 'none'}{how} at alpha {plain(recipe.alpha)}"


def describe_alpha(alpha: str, rule: str | None) -> str:
    """Return an alpha, with the rule that gave it if it was asked for as `auto`."""
    return f"{plain(alpha)}, by auto: {plain(rule)}" if rule else plain(alpha)


def weight_of(item: "RecipeItem") -> str:
    """Return the weight of a patch, with its factors by tensor."""
    return with_factors(item.weight, item.where)


def with_factors(number: str, where: "Sequence[tuple[str, str]]") -> str:
    """Return a weight or scale, with factors by tensor where there are some."""
    factors = ", ".join(f"{plain(glob)} x {plain(factor)}" for glob, factor in where)
    return f"{plain(number)} ({factors})" if factors else plain(number)


def _weight(item: "RecipeItem") -> str:
    if item.weight == "1" and not item.where:
        return ""
    return f":{weight_of(item)}"
