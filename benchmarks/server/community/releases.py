"""Recipes, the models composed of them, and releases on a channel."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from benchmarks.server.community.rows import START
from benchmarks.server.community.sizes import BASE, Community, digest
from registry.breadcrumbs.formats.recipe import ALONE, make_recipe
from registry.db import tables
from registry.documents.versions import parse_version

RELEASES, HELD = 60, 20  # of the large model, and patches in each at most


def add_recipes(community: Community, named: Sequence[tuple[str, int, list[int]]]) -> None:
    """Add recipes, each given by its digest, the place of its model, and numbers of patches."""
    rows = community.rows
    rows.add(tables.Recipe, ({"digest": key, "base_digest": BASE, "alpha": ALONE} for key, _, _ in named))
    rows.add(
        tables.RecipeItem,
        (
            {"recipe_digest": key, "sha256": sha256, "weight": "1"}
            for key, n, numbers in named
            for sha256 in {digest("patch", n, number) for number in numbers}
        ),
    )


def add_composed(community: Community, named: Sequence[tuple[str, int]]) -> None:
    """Add the compositions of recipes, each given by its digest and the place of its model, and who built them."""
    rows, made = community.rows, [(community.key(), n, recipe) for recipe, n in named]
    rows.add(tables.Blob, ({"sha256": digest("composed", recipe), "size": 1_400_000_000} for _, _, recipe in made))
    rows.add(
        tables.Composition,
        (
            {
                "id": key,
                "model_id": community.models[n],
                "recipe_digest": recipe,
                "weights_digest": f"sha256:{digest('weights', recipe)}",
                "commit": digest("commit", recipe)[:40],
                "device": "cpu",
                "seconds": 1.0,
                "created_at": START + timedelta(seconds=place),
            }
            for place, (key, n, recipe) in enumerate(made)
        ),
    )
    rows.add(
        tables.CompositionFile,
        (
            {"composition_id": key, "path": "model.safetensors", "sha256": digest("composed", recipe)}
            for key, _, recipe in made
        ),
    )
    rows.add(
        tables.Build,
        (
            {
                "id": community.key(),
                "model_id": community.models[n],
                "recipe_digest": recipe,
                "builder": who,
                "weights_digest": f"sha256:{digest('weights', recipe)}",
                "device": "cpu",
            }
            for _, n, recipe in made
            for who in ("one:1:a", "two:2:b")
        ),
    )


def add_releases(community: Community) -> None:
    """Add releases, sixty to the large model and two to each other, and a channel with a history."""
    cut = [(n, number) for n in range(len(community.models)) for number in range(RELEASES if n == 0 else 2)]
    held = {n: list(range(1, 1 + min(count, HELD))) for n, count in enumerate(community.counts)}
    add_recipes(community, [(digest("recipe", *one), one[0], held[one[0]]) for one in cut])
    add_composed(community, [(digest("recipe", *one), one[0]) for one in cut])
    keys = {one: community.key() for one in cut}
    community.rows.add(tables.Release, (release_row(community, key, *one) for one, key in keys.items()))
    community.rows.add(
        tables.ReleaseFile,
        (
            {"release_id": key, "path": "model.safetensors", "sha256": digest("composed", digest("recipe", *one))}
            for one, key in keys.items()
        ),
    )
    add_channels(community, {n: key for (n, _), key in keys.items()})


def release_row(community: Community, key: uuid.UUID, n: int, number: int) -> dict[str, Any]:
    """Return the row of a model's release."""
    version, recipe, at = f"1.{number}.0", digest("recipe", n, number), START + timedelta(days=number)
    return {
        "id": key,
        "model_id": community.models[n],
        "version": version,
        "sort": parse_version(version).sort_key,
        "state": "published",
        "recipe_digest": recipe,
        "previous_version": f"1.{number - 1}.0" if number else None,
        "changelog": "### Added\n\n" + "* #1 something\n" * 20,
        "card": "# Card\n\n" + "Words. " * 100,
        "commit": digest("commit", recipe)[:40],
        "creator_id": community.owner,
        "publisher_id": community.owner,
        "created_at": at,
        "published_at": at,
    }


def add_channels(community: Community, last: Mapping[int, uuid.UUID]) -> None:
    """Add a channel to every model, given by its place, that was moved to its last release."""
    channels = {n: community.key() for n in last}
    community.rows.add(
        tables.Channel,
        (
            {"id": channels[n], "model_id": community.models[n], "name": "stable", "release_id": release}
            for n, release in last.items()
        ),
    )
    community.rows.add(
        tables.ChannelMove,
        (
            {
                "id": community.key(),
                "channel_id": channels[n],
                "number": 1,
                "kind": "move",
                "release_id": release,
                "user_id": community.owner,
                "reason": "Better.",
            }
            for n, release in last.items()
        ),
    )


def add_compositions(community: Community) -> None:
    """Add compositions of one patch each to the large model, as people who try patches leave them."""
    numbers = range(1, 1 + community.sizes.large // 5)
    named = [(make_recipe(BASE, ALONE, [(digest("patch", 0, one), "1")]).digest, 0, [one]) for one in numbers]
    add_recipes(community, named)
    add_composed(community, [(recipe, n) for recipe, n, _ in named])
