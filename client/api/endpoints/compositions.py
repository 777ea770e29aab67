"""Compositions: any subset of a model's patches, and the snapshots that can be pulled."""

from collections.abc import Sequence

from client.api.calls import Calls, Item, name_of, part, recipe_items, valid
from registry import schemas
from registry.breadcrumbs.formats.recipe import ALPHA, normalise_decimal


class Compositions(Calls):
    """Compositions and snapshots of a model."""

    def compose(
        self, model: str, patches: Sequence[Item], *, alpha: str = ALPHA, allow_yanked: bool = False
    ) -> schemas.Composition:
        """Ask for base + alpha * sum(weight * patch), and return at once; a `job` in the answer composes it."""
        request = _request(patches, alpha, allow_yanked)
        return self._call(schemas.Composition, "POST", f"/models/{name_of(model)}/compositions", body=request)

    def delete_composition(self, model: str, recipe: str) -> None:
        """Delete the files of a composition that no release or job holds; the recipe can be composed again.

        Args:
            model: NS/NAME.
            recipe: The recipe's whole digest.
        """
        self._send("DELETE", f"/models/{name_of(model)}/compositions/{part(recipe)}")

    def preview(
        self, model: str, patches: Sequence[Item], *, alpha: str = ALPHA, allow_yanked: bool = False
    ) -> schemas.Preview:
        """Return what is known about base + alpha * sum(weight * patch), and compose nothing."""
        request = _request(patches, alpha, allow_yanked)
        return self._call(schemas.Preview, "POST", f"/models/{name_of(model)}/preview", body=request)

    def snapshot(self, model: str, ref: str = "main") -> schemas.Snapshot:
        """Return the snapshot that a reference names.

        Args:
            model: NS/NAME.
            ref: `main`, `base`, a version, a channel, or 8 or more digits of a recipe digest.
        """
        return self._call(schemas.Snapshot, "GET", f"/models/{name_of(model)}/revisions/{part(ref)}")


def _request(patches: Sequence[Item], alpha: str, allow_yanked: bool) -> schemas.RecipeRequest:
    return valid(
        schemas.RecipeRequest,
        alpha=normalise_decimal(alpha, "alpha"),
        patches=recipe_items(patches),
        allow_yanked=allow_yanked,
    )
