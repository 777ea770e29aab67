"""Compositions: any subset of a model's patches, and the snapshots that can be pulled."""

from collections.abc import Sequence

from client.api.calls import Calls, Item, alpha_of, name_of, part, recipe_items, valid
from registry import schemas
from registry.breadcrumbs.comparing.alpha import AUTO


class Compositions(Calls):
    """Compositions and snapshots of a model."""

    def compose(
        self,
        model: str,
        patches: Sequence[Item],
        *,
        alpha: str = AUTO,
        method: str = "sum",
        allow_yanked: bool = False,
    ) -> schemas.Composition:
        """Ask for the composition of some patches, and return at once; a `job` in the answer composes it.

        Raises:
            NotCompared: Alpha is `auto`, and the patches have to be compared first (`ask_conflicts`).
        """
        request = _request(patches, alpha, method, allow_yanked)
        return self._call(schemas.Composition, "POST", f"/models/{name_of(model)}/compositions", body=request)

    def delete_composition(self, model: str, recipe: str) -> None:
        """Delete the files of a composition that no release or job holds; the recipe can be composed again.

        Args:
            model: NS/NAME.
            recipe: The recipe's whole digest.
        """
        self._send("DELETE", f"/models/{name_of(model)}/compositions/{part(recipe)}")

    def preview(
        self,
        model: str,
        patches: Sequence[Item],
        *,
        alpha: str = AUTO,
        method: str = "sum",
        allow_yanked: bool = False,
    ) -> schemas.Preview:
        """Return what is known about the composition of some patches, and compose nothing."""
        request = _request(patches, alpha, method, allow_yanked)
        return self._call(schemas.Preview, "POST", f"/models/{name_of(model)}/preview", body=request)

    def snapshot(self, model: str, ref: str = "main") -> schemas.Snapshot:
        """Return the snapshot that a reference names.

        Args:
            model: NS/NAME.
            ref: `main`, `base`, a version, a channel, or 8 or more digits of a recipe digest.
        """
        return self._call(schemas.Snapshot, "GET", f"/models/{name_of(model)}/revisions/{part(ref)}")


def _request(patches: Sequence[Item], alpha: str, method: str, allow_yanked: bool) -> schemas.RecipeRequest:
    return valid(
        schemas.RecipeRequest,
        alpha=alpha_of(alpha),
        method=method,
        patches=recipe_items(patches),
        allow_yanked=allow_yanked,
    )
